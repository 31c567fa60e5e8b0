package room

import (
	"runtime"
	"time"

	"presence/internal/presence"
)

const (
	// maxFanOut and fanOutShare bound how long an audience waits until nearly all of its
	// viewers have been shown the last view, before it is given the next. The bound is a
	// share for each viewer, many times longer than sending takes. So in a small room
	// nobody waits long for a viewer that hangs.
	maxFanOut   = 5 * time.Second
	fanOutShare = 2 * time.Millisecond
)

// Audience is all viewers of one kind that one room has at this replica. A room may be
// shown to several audiences at the same time; each is shown one view after the other.
type Audience interface {
	// Show shows view to all viewers. It must call shown once, when nearly all of them
	// have been shown the view. The longer that takes, the longer the audience gets no
	// new view.
	Show(view View, shown func())
}

// Serial is an audience whose Show does all its work in the goroutine that calls it, so
// that it uses at most one processor.
type Serial interface {
	Audience
	Serial()
}

// audience is one audience of a room, and its pace. Rooms.mu guards it.
type audience struct {
	Audience
	viewers map[*Viewer]bool

	givenSequence int64            // Sequence of the view that it was given last
	change        *presence.Change // from that view to the newest; nil if there is none, or the change is not known
	needsWhole    bool             // the change is not known, so the audience needs the whole room
	busy          bool             // Show has not returned
	heardAt       time.Time        // when this replica heard of the first change that the audience was not given; zero: none

	givenAt time.Time     // when it was given a view last
	given   int           // number of views that it was given
	spread  time.Duration // how long the last view took to reach nearly all viewers
	pending bool          // the last view has not reached nearly all viewers yet
}

// news notes that the room has a new view. change leads to it from the one before; nil if
// the change is not known.
func (a *audience) news(change *presence.Change) {
	switch {
	case change == nil:
		a.change, a.needsWhole = nil, true
	case a.needsWhole:
	case a.change == nil:
		a.change = change
	default:
		net := a.change.Then(*change)
		a.change = &net
	}
}

// behind reports whether some viewer has not shown the newest view yet.
func (a *audience) behind(newest int64) bool {
	for v := range a.viewers {
		if v.seen.Load() < newest {
			return true
		}
	}
	return false
}

// wait returns how long after now the audience can be given a view. It has to wait until
// the coalescing window since the last view has passed, and longer if showing that view
// took long. So a room that changes faster than it can be shown slows down, and leaves
// time for the joins themselves.
func (a *audience) wait(now time.Time, coalesce time.Duration) time.Duration {
	since := now.Sub(a.givenAt)
	if since < coalesce {
		return coalesce - since
	}
	if a.busy || a.pending && since < min(maxFanOut, time.Duration(len(a.viewers))*fanOutShare) {
		return coalesce // Show's return, or the time limit, ends this wait
	}
	return max(0, a.window()-since)
}

// window is how long the audience gets no new view after the last, by the time that
// showing that one took. Showing a view uses at most all processors. So with a pause of
// that time, multiplied by twice the number of processors, it uses half a processor. A
// [Serial] audience uses a single processor, and may use half of all of them.
func (a *audience) window() time.Duration {
	processors := runtime.GOMAXPROCS(0)
	if _, ok := a.Audience.(Serial); ok {
		return min(2*a.spread/time.Duration(processors), maxFanOut)
	}
	return min(time.Duration(2*processors)*a.spread, maxFanOut)
}

// giveLocked gives a the newest view of rm. A goroutine shows it.
func (rs *Rooms) giveLocked(rm *room, a *audience, now time.Time) {
	view := *rm.view.Load()
	view.Change = a.change
	a.givenSequence, a.change, a.needsWhole = view.Sequence, nil, false
	a.givenAt, a.pending, a.busy = now, true, true
	a.given++
	given := a.given
	heard := a.heardAt
	if !view.Stale {
		a.heardAt = time.Time{}
	} else {
		heard = time.Time{}
	}
	rs.metrics.pushes.Inc()
	shown := func() {
		rs.mu.Lock()
		a.spread = time.Since(now)
		a.pending = a.given != given
		rs.mu.Unlock()
		rs.metrics.seen(heard)
		rs.rouse()
	}
	rs.showLocked(rm, a, view, shown)
}

// showLocked calls the Show of a, an audience of rm, in a goroutine of its own.
func (rs *Rooms) showLocked(rm *room, a *audience, view View, shown func()) {
	rs.shows.Go(func() {
		a.Show(view, shown)
		rs.mu.Lock()
		a.busy = false
		rs.endLocked(rm, a)
		rs.mu.Unlock()
		rs.rouse()
	})
}

// remind shows the newest view again to audiences of which a viewer is behind. A full
// queue may have dropped the view.
func (rs *Rooms) remind() {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	now := time.Now()
	for _, rm := range rs.byName {
		view := *rm.view.Load()
		for _, a := range rm.audiences {
			if a.busy || a.givenSequence != view.Sequence || now.Sub(a.givenAt) <= rs.opts.Coalesce || !a.behind(view.Sequence) {
				continue
			}
			a.givenAt, a.busy = now, true
			rs.metrics.reminders.Inc()
			rs.showLocked(rm, a, view, func() {})
		}
	}
}

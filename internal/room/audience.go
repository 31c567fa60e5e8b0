package room

import (
	"runtime"
	"time"

	"presence/internal/presence"
)

const (
	// maxFanOut and fanOutShare bound how long an audience waits for nearly all of its
	// viewers to be shown the last view before it is shown the next: a share for each
	// viewer, many times what sending it takes, so that in a small room nobody waits
	// for a viewer that hangs.
	maxFanOut   = 5 * time.Second
	fanOutShare = 2 * time.Millisecond
)

// Audience is all viewers of one kind of one room at this replica. Rooms are shown
// to several at a time; an audience is shown one view after the other.
type Audience interface {
	// Show shows view to all. shown has to be called once, when nearly all of them are
	// being shown it: the longer that takes, the longer the audience is left alone.
	Show(view View, shown func())
}

// Serial is an audience whose Show does all its work in the goroutine that calls it, so
// that it uses at most one processor.
type Serial interface {
	Audience
	Serial()
}

// audience is one of a room, and its pace. Guarded by Rooms.mu.
type audience struct {
	Audience
	viewers map[*Viewer]bool

	shown  int64            // Sequence of the view that it was given last
	change *presence.Change // from that view to the newest; nil if there is none, or it is not known
	whole  bool             // change is not known: the audience needs the whole room
	busy   bool             // Show has not returned
	heard  time.Time        // when the message of the first change came that it was not given; zero: none

	told    time.Time     // when it was given a view last
	telling int           // number of views that it was given
	took    time.Duration // how long the last view took to reach nearly all viewers
	pending bool          // the last view has not reached nearly all viewers yet
}

// news notes that the room has a new view, to which change leads from the one before;
// nil if that can't be said.
func (a *audience) news(change *presence.Change) {
	switch {
	case change == nil:
		a.change, a.whole = nil, true
	case a.whole:
	case a.change == nil:
		a.change = change
	default:
		net := a.change.Then(*change)
		a.change = &net
	}
}

// behind reports whether a viewer has not shown the newest view yet.
func (a *audience) behind(newest int64) bool {
	for v := range a.viewers {
		if v.seen.Load() < newest {
			return true
		}
	}
	return false
}

// wait returns how long after now the audience can be given a view. That is when the
// coalescing window since the last has passed, or longer if showing that took long. A
// room that changes faster than it can be shown so slows down by itself, instead of
// starving the joins that it is about.
func (a *audience) wait(now time.Time, coalesce time.Duration) time.Duration {
	since := now.Sub(a.told)
	if since < coalesce {
		return coalesce - since
	}
	if a.busy || a.pending && since < min(maxFanOut, time.Duration(len(a.viewers))*fanOutShare) {
		return coalesce // looked at again when Show returns, or then
	}
	return max(0, a.window()-since)
}

// window is how long the audience is left alone after a view, by the time that showing the
// last one took. Showing a view uses at most all processors. So with a pause of that time,
// multiplied by twice their number, it uses half a processor. A [Serial] audience uses a
// single processor, and may use half of all of them.
func (a *audience) window() time.Duration {
	processors := runtime.GOMAXPROCS(0)
	if _, ok := a.Audience.(Serial); ok {
		return min(2*a.took/time.Duration(processors), maxFanOut)
	}
	return min(time.Duration(2*processors)*a.took, maxFanOut)
}

// giveLocked has a shown the newest view of rm, by a goroutine of its own.
func (rs *Rooms) giveLocked(rm *room, a *audience, now time.Time) {
	view := *rm.view.Load()
	view.Change = a.change
	a.shown, a.change, a.whole = view.Sequence, nil, false
	a.told, a.pending, a.busy = now, true, true
	a.telling++
	telling := a.telling
	heard := a.heard
	if !view.Stale {
		a.heard = time.Time{}
	} else {
		heard = time.Time{}
	}
	rs.metrics.pushes.Inc()
	shown := func() {
		rs.mu.Lock()
		a.took = time.Since(now)
		a.pending = a.telling != telling
		rs.mu.Unlock()
		rs.metrics.seen(heard)
		rs.rouse()
	}
	rs.showLocked(rm, a, view, shown)
}

// showLocked calls the Show of a, which is one of rm, by a goroutine of its own.
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

// remind gives audiences of which a viewer is behind the newest view again: a push may
// have been dropped by a full queue.
func (rs *Rooms) remind() {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	now := time.Now()
	for _, rm := range rs.byName {
		view := *rm.view.Load()
		for _, a := range rm.audiences {
			if a.busy || a.shown != view.Sequence || now.Sub(a.told) <= rs.opts.Coalesce || !a.behind(view.Sequence) {
				continue
			}
			a.told, a.busy = now, true
			rs.metrics.reminders.Inc()
			rs.showLocked(rm, a, view, func() {})
		}
	}
}

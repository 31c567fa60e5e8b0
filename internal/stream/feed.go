package stream

import (
	"context"
	"sync"
	"time"

	"presence/internal/room"
	"presence/internal/store"
)

const (
	// Streams of a room with more than mostDiffs users get counts instead of diffs; that
	// is as many as a snapshot lists. When the room has fewer than fewDiffs users they
	// get diffs again, and can be resumed.
	mostDiffs = 256
	fewDiffs  = 200

	// readPatience bounds reading what a stream has missed.
	readPatience = 2 * time.Second

	// firstPatience is how long a stream's first snapshot waits for the version that its
	// client already knows, from the stream's own join or from an earlier answer.
	firstPatience = 5 * time.Second
)

// feedKey identifies the streams of one kind of one room.
type feedKey struct {
	room   string
	counts bool
}

// feed is the streams of one kind that one room has at this replica. It is an audience of
// the room.
type feed struct {
	feedKey

	all *Streams
	n   int // the subs, and streams that are about to become one; guarded by Streams.mu

	mu      sync.Mutex // guards the fields below, and the subs:
	subs    []*sub
	members map[string][]*sub // user -> the streams that have joined that user
	edition *edition          // of the newest view that was sent; nil: none
	version int64             // of the view that was last shown
}

// sub is the part of a stream that is about one room.
type sub struct {
	stream *stream
	feed   *feed
	viewer *room.Viewer
	at     int // index in feed.subs; negative: none

	began    bool   // it was sent the room, at
	version  int64  // this version
	birth    string // of these data
	empty    bool   // nobody was in the room then
	stale    bool   // it was told that this is stale
	counting bool   // the room is too large, so it gets counts
	lost     bool   // an event could not be sent, so it will get the whole room

	joined  int64     // the version of the stream's join; 0: it has not joined
	least   int64     // its first event must have at least this version
	waiting time.Time // since when it waits for that version; zero: it does not wait
}

// Show sends view to all streams of the feed.
func (f *feed) Show(view room.View, shown func()) {
	lagging := f.show(view)
	shown()
	f.catchUp(lagging)
}

// Serial says that Show works in its own goroutine; see [room.Serial].
func (*feed) Serial() {}

// show sends view to the streams that can follow it, and returns the streams that missed
// changes, by their versions.
func (f *feed) show(view room.View) (lagging map[int64][]*sub) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.edition = &edition{room: f.room, view: view}
	var counts [messages]int
	for _, s := range f.subs {
		switch m := f.next(s, view); m {
		case nothing:
		case behind:
			if lagging == nil {
				lagging = map[int64][]*sub{}
			}
			lagging[s.version] = append(lagging[s.version], s)
		default:
			f.send(s, f.edition, m, &counts)
		}
	}
	f.version = view.Version
	f.all.metrics.sent(&counts)
	f.doubtMembers(view)
	return lagging
}

// send sends message m of an edition to s, and counts it.
func (f *feed) send(s *sub, e *edition, m message, counts *[messages]int) {
	if s.lost = !s.stream.send(e.message(m, s.stream.ids)); !s.lost {
		counts[m]++
	}
}

// next returns the message that brings s to view, and notes that s has it.
func (f *feed) next(s *sub, view room.View) message {
	same := view.Version == s.version && view.Birth == s.birth
	// The stream was resumed at a version that was not known here yet. After an outage
	// that version may be one that Redis has lost.
	ahead := s.version > view.Version && view.Birth == s.birth && !s.stale && s.version > f.version
	switch {
	case s.lost:
		return nothing // it gets the whole room when it can take more
	case !s.waiting.IsZero():
		if !s.ready(view) {
			return nothing
		}
		return f.first(s, view)
	case !s.began:
		return f.first(s, view)
	case view.Stale && (same || s.version > view.Version && view.Birth == s.birth):
		if s.stale {
			return nothing
		}
		s.stale = true
		return stale
	case same && !s.stale, ahead:
		return nothing
	}
	wasStale, wasEmpty, from := s.stale, s.empty, s.version
	misses := !wasStale && !view.Stale && view.Birth == s.birth && view.Change != nil && view.Change.Prev != from && from < view.Version
	if misses && !f.counts && !s.counting && view.Users <= mostDiffs {
		return behind
	}
	s.stands(view)
	switch {
	case f.counts:
		return count
	case !s.counting && view.Users > mostDiffs:
		s.counting = true
		return grown
	case s.counting && view.Users < fewDiffs:
		s.counting = false
		return shrunk
	case s.counting:
		return count
	case wasStale || view.Stale:
		return whole
	case view.Change != nil && view.Change.Prev == from:
		return change
	case wasEmpty && view.Change == nil && view.Complete() && view.Version > from:
		return change // everybody in it is new; an empty room may have no log
	default:
		return whole
	}
}

// stands notes that s has been sent view.
func (s *sub) stands(view room.View) {
	s.began, s.version, s.birth = true, view.Version, view.Birth
	s.empty, s.stale = view.Users == 0, view.Stale
}

// ready reports whether view can be the first that s is sent.
func (s *sub) ready(view room.View) bool {
	return view.Version >= s.least || view.Stale || time.Since(s.waiting) >= firstPatience
}

// first returns the message that gives s the whole of view, whatever s was sent before,
// and notes that s has it.
func (f *feed) first(s *sub, view room.View) message {
	s.waiting = time.Time{}
	if view.AsOf.IsZero() {
		if s.stale {
			return nothing
		}
		s.stale = true
		return stale
	}
	s.stands(view)
	switch was := s.counting; {
	case f.counts:
		return count
	case view.Users > mostDiffs:
		s.counting = true
		return large
	case was:
		s.counting = false
		return shrunk
	default:
		return whole
	}
}

// of returns an edition of view.
func (f *feed) of(view room.View) *edition {
	if e := f.edition; e != nil && e.view.Sequence == view.Sequence && e.view.AsOf.Equal(view.AsOf) {
		return e
	}
	e := &edition{room: f.room, view: view}
	if f.edition == nil || f.edition.view.Sequence <= view.Sequence {
		f.edition = e
	}
	return e
}

// forget drops the encoded messages.
func (f *feed) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.edition = nil
}

// lookAgain sends s the present view, if s still waits for its first one.
func (f *feed) lookAgain(s *sub) {
	f.mu.Lock()
	defer f.mu.Unlock()
	view := s.viewer.View()
	if s.at < 0 || s.waiting.IsZero() || !s.ready(view) {
		return
	}
	var counts [messages]int
	f.send(s, f.of(view), f.first(s, view), &counts)
	f.all.metrics.sent(&counts)
}

// restart returns what is sent to a stream that has lost an event; nil if there is nothing
// to send now.
func (f *feed) restart(s *sub) []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !s.lost || s.at < 0 {
		return nil
	}
	s.lost, s.stale = false, false
	view := s.viewer.View()
	m := f.first(s, view)
	if m == nothing {
		return nil
	}
	var counts [messages]int
	counts[m]++
	f.all.metrics.sent(&counts)
	return f.of(view).message(m, s.stream.ids)
}

// missed is what a resumed stream may have missed.
type missed struct {
	version int64 // the version of the stream
	store.Reading
}

// viewAt returns a view at the version to, or at the last known one, with the change that
// leads there from the stream's version. It also reports whether the stream can be sent
// that change. A view without a change means that the stream is up to date.
func (m *missed) viewAt(to int64) (room.View, bool) {
	users := m.Users
	if len(m.Changes) > 0 {
		first := m.Changes[0]
		users = first.Users - len(first.Joined) + len(first.Left)
	}
	if m.Err != nil || m.Whole || users >= fewDiffs {
		return room.View{}, false
	}
	var view room.View
	view.Users, view.Version, view.Birth = users, m.version, m.Birth
	if to == m.version {
		return view, true
	}
	for i, c := range m.Changes {
		if i > 0 {
			c = view.Change.Then(c)
		}
		view.Change, view.Occupancy = &c, c.Occupancy
		if c.Version == to {
			break
		}
	}
	return view, view.Version >= to && view.Users <= mostDiffs
}

// add adds s to the feed, and sends it head and its first event. missed is nil for a
// stream that was not resumed. If missed ends before the version that is known by now,
// add does nothing and reports false.
func (f *feed) add(s *sub, head []byte, missed *missed) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	view := s.viewer.View()
	if missed != nil && missed.Err == nil && !missed.Whole && !view.Stale && view.Birth == missed.Birth {
		if n := len(missed.Changes); n > 0 && missed.Changes[n-1].Version < view.Version || n == 0 && missed.version < view.Version {
			return false
		}
	}
	m := nothing
	var text []byte
	lead, ok := room.View{}, false
	if missed != nil && !view.Stale {
		lead, ok = missed.viewAt(view.Version)
	}
	switch {
	case !ok && view.Version < s.least && !view.Stale:
		s.waiting = time.Now()
		time.AfterFunc(firstPatience, func() { f.lookAgain(s) })
	case ok:
		s.stands(lead)
		f.all.metrics.changes.Inc()
		if lead.Change != nil {
			m = change
			text = (&edition{room: f.room, view: lead}).message(m, s.stream.ids)
		}
	default:
		if missed != nil {
			f.all.metrics.wholes.Inc()
		}
		if m = f.first(s, f.known(view, missed)); m != nothing {
			text = f.of(f.known(view, missed)).message(m, s.stream.ids)
		}
	}
	if f.version == 0 {
		f.version = view.Version
	}
	s.at = len(f.subs)
	f.subs = append(f.subs, s)
	if j := s.stream.joined; j != nil {
		if f.members == nil {
			f.members = map[string][]*sub{}
		}
		f.members[j.user] = append(f.members[j.user], s)
	}
	var counts [messages]int
	if head != nil {
		if s.stream.open(head, text) {
			counts[m]++
		}
	} else if text != nil {
		s.lost = !s.stream.send(text)
		counts[m]++
	}
	f.all.metrics.sent(&counts)
	return true
}

// known returns view. But if view is stale and older than the version that the resumed
// stream has, it returns a view without data.
func (f *feed) known(view room.View, missed *missed) room.View {
	if view.Stale && missed != nil && missed.version > view.Version {
		return room.View{Stale: true, Sequence: view.Sequence}
	}
	return view
}

// remove undoes enterFeed, and add if it was called.
func (f *feed) remove(s *sub) {
	f.mu.Lock()
	if s.at >= 0 {
		end := len(f.subs) - 1
		f.subs[s.at] = f.subs[end]
		f.subs[s.at].at = s.at
		f.subs[end] = nil
		f.subs = f.subs[:end]
		s.at = -1
		if cap(f.subs) > 64 && len(f.subs) < cap(f.subs)/4 {
			f.subs = append(make([]*sub, 0, 2*len(f.subs)), f.subs...)
		}
		if j := s.stream.joined; j != nil {
			f.members[j.user] = without(f.members[j.user], s)
			if len(f.members[j.user]) == 0 {
				delete(f.members, j.user)
			}
		}
	}
	f.mu.Unlock()
	s.viewer.Exit()
	f.all.leaveFeed(f)
}

// without returns list without s.
func without(list []*sub, s *sub) []*sub {
	for i, other := range list {
		if other == s {
			return append(list[:i], list[i+1:]...)
		}
	}
	return list
}

// catchUp sends streams the changes that lead from their versions to the newest. The feed
// shows no other view meanwhile.
func (f *feed) catchUp(lagging map[int64][]*sub) {
	for version, subs := range lagging {
		ctx, cancel := context.WithTimeout(context.Background(), readPatience)
		reading, err := f.all.rooms.Since(ctx, f.room, version)
		cancel()
		reading.Err = err
		f.sendMissed(subs, &missed{version, reading})
	}
}

// sendMissed sends subs, which all have the same version, the changes that they have missed.
func (f *feed) sendMissed(subs []*sub, missed *missed) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var counts [messages]int
	var led *edition
	for _, s := range subs {
		view := s.viewer.View()
		if s.at < 0 || s.lost || s.version != missed.version || view.Stale {
			continue // it was sent something else meanwhile, or will be
		}
		lead, ok := missed.viewAt(f.version)
		if !ok || lead.Birth != s.birth {
			f.send(s, f.of(view), f.first(s, view), &counts)
			continue
		}
		if s.stands(lead); lead.Change != nil {
			if led == nil {
				led = &edition{room: f.room, view: lead}
			}
			f.send(s, led, change, &counts)
		}
	}
	f.all.metrics.sent(&counts)
}

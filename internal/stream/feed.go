package stream

import (
	"context"
	"sync"
	"time"

	"presence/internal/room"
	"presence/internal/store"
)

const (
	// mostDiffs is the number of users above which a room's streams get counts instead of
	// diffs: as many as are listed. Below fewDiffs they get diffs again, and can be resumed.
	mostDiffs = 256
	fewDiffs  = 200

	// readPatience bounds looking up what a stream has missed.
	readPatience = 2 * time.Second

	// firstPatience is how long the first snapshot of a stream waits for the version that
	// the client knows of already: from the stream's own join, or from an earlier answer.
	firstPatience = 5 * time.Second
)

// feedKey names the streams of one kind of one room.
type feedKey struct {
	room   string
	counts bool
}

// feed is the streams of one kind of one room at this replica. It is an audience of the
// room.
type feed struct {
	feedKey

	all *Streams
	n   int // subs, and those that are about to be; guarded by Streams.mu

	mu      sync.Mutex // guards what follows, and the subs:
	subs    []*sub
	members map[string][]*sub // user -> the streams that have joined that user
	edition *edition          // of the newest view that was sent; nil: none
	version int64             // of the view that was shown last
}

// sub is the part of a stream that concerns one room.
type sub struct {
	stream *stream
	feed   *feed
	viewer *room.Viewer
	at     int // its place in feed.subs; below 0: none

	told     bool   // it was told the room, at:
	version  int64  // and
	birth    string // of the room's data
	empty    bool   // nobody was in it
	stale    bool   // it was told that this is old
	counting bool   // the room is too large for diffs
	lost     bool   // something could not be sent: it is told the room anew

	joined  int64     // the version by which the stream has joined; 0: it has not
	least   int64     // the version to tell first, or a later one
	waiting time.Time // for that version, since then; zero: it does not
}

// Show sends view to all streams of the feed.
func (f *feed) Show(view room.View, shown func()) {
	lagging := f.show(view)
	shown()
	f.catchUp(lagging)
}

// Serial says that Show sends by itself, see [room.Serial].
func (*feed) Serial() {}

// show sends view to the streams that can take it, and returns the others.
func (f *feed) show(view room.View) (lagging map[int64][]*sub) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.edition = &edition{room: f.room, view: view}
	var told [messages]int
	for _, s := range f.subs {
		switch m := f.next(s, view); m {
		case nothing:
		case behind:
			if lagging == nil {
				lagging = map[int64][]*sub{}
			}
			lagging[s.version] = append(lagging[s.version], s)
		default:
			f.tell(s, f.edition, m, &told)
		}
	}
	f.version = view.Version
	f.all.metrics.sent(&told)
	f.doubtMembers(view)
	return lagging
}

// tell sends m of an edition to s, and counts it.
func (f *feed) tell(s *sub, e *edition, m message, told *[messages]int) {
	if s.lost = !s.stream.send(e.message(m, s.stream.ids)); !s.lost {
		told[m]++
	}
}

// next returns the message that brings s to view, and counts it as sent.
func (f *feed) next(s *sub, view room.View) message {
	same := view.Version == s.version && view.Birth == s.birth
	// The stream was resumed at a version that was not known here yet. After an outage
	// it may be one that is lost.
	ahead := s.version > view.Version && view.Birth == s.birth && !s.stale && s.version > f.version
	switch {
	case s.lost:
		return nothing // it is told the room when it goes on
	case !s.waiting.IsZero():
		if !s.ready(view) {
			return nothing
		}
		return f.first(s, view)
	case !s.told:
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
		return change // all have come; an empty room may have no log
	default:
		return whole
	}
}

// stands notes that s is told view.
func (s *sub) stands(view room.View) {
	s.told, s.version, s.birth = true, view.Version, view.Birth
	s.empty, s.stale = view.Users == 0, view.Stale
}

// ready reports whether view may be the first that s is sent.
func (s *sub) ready(view room.View) bool {
	return view.Version >= s.least || view.Stale || time.Since(s.waiting) >= firstPatience
}

// first returns what tells s the whole of view, whatever it was told before, and takes
// it for told.
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

// look has s told the room as it is seen, if it still waits for a later view.
func (f *feed) look(s *sub) {
	f.mu.Lock()
	defer f.mu.Unlock()
	view := s.viewer.View()
	if s.at < 0 || s.waiting.IsZero() || !s.ready(view) {
		return
	}
	var told [messages]int
	f.tell(s, f.of(view), f.first(s, view), &told)
	f.all.metrics.sent(&told)
}

// anew returns what s is sent that has lost something; nil if that is nothing.
func (f *feed) anew(s *sub) []byte {
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
	var told [messages]int
	told[m]++
	f.all.metrics.sent(&told)
	return f.of(view).message(m, s.stream.ids)
}

// missed is the changes that a resumed stream may have missed.
type missed struct {
	version int64 // that it stands at
	store.Reading
}

// lead returns the change that leads to the version to, or as far as is known, and
// whether the stream can be told so. Without a change it stands there already.
func (m *missed) lead(to int64) (room.View, bool) {
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

// add makes s one of the feed's, and sends it head and what it is told first. missed is
// nil for a stream that was not resumed. It reports false, and has done nothing, if
// missed does not lead to what is known by now.
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
		lead, ok = missed.lead(view.Version)
	}
	switch {
	case !ok && view.Version < s.least && !view.Stale:
		s.waiting = time.Now()
		time.AfterFunc(firstPatience, func() { f.look(s) })
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
	var told [messages]int
	if head != nil {
		if s.stream.open(head, text) {
			told[m]++
		}
	} else if text != nil {
		s.lost = !s.stream.send(text)
		told[m]++
	}
	f.all.metrics.sent(&told)
	return true
}

// known is view, or that nothing is known, for a stream that knows a later version
// than an outage lets be read.
func (f *feed) known(view room.View, missed *missed) room.View {
	if view.Stale && missed != nil && missed.version > view.Version {
		return room.View{Stale: true, Sequence: view.Sequence}
	}
	return view
}

// remove ends what enter, and perhaps add, began.
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
	f.all.leave(f)
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

// catchUp tells streams what led from the versions at which they stand to the newest.
// No other view is shown meanwhile.
func (f *feed) catchUp(lagging map[int64][]*sub) {
	for version, subs := range lagging {
		ctx, cancel := context.WithTimeout(context.Background(), readPatience)
		reading, err := f.all.rooms.Since(ctx, f.room, version)
		cancel()
		reading.Err = err
		f.lead(subs, &missed{version, reading})
	}
}

// lead tells subs, which all stand at one version, what they have missed.
func (f *feed) lead(subs []*sub, missed *missed) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var told [messages]int
	var led *edition
	for _, s := range subs {
		view := s.viewer.View()
		if s.at < 0 || s.lost || s.version != missed.version || view.Stale {
			continue // told something else meanwhile, or will be
		}
		lead, ok := missed.lead(f.version)
		if !ok || lead.Birth != s.birth {
			f.tell(s, f.of(view), f.first(s, view), &told)
			continue
		}
		if s.stands(lead); lead.Change != nil {
			if led == nil {
				led = &edition{room: f.room, view: lead}
			}
			f.tell(s, led, change, &told)
		}
	}
	f.all.metrics.sent(&told)
}

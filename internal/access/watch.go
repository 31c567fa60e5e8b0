package access

import (
	"slices"
	"sync"
)

// MaxWatched is how many different rooms may be watched from one address without an
// API key. Any number of streams may watch each of them.
const MaxWatched = 200

// watched counts the streams of each room, by address.
type watched struct {
	mu    sync.Mutex                // guards:
	rooms map[string]map[string]int // address → room → streams
}

func (w *watched) init() { w.rooms = map[string]map[string]int{} }

// A Watch counts a stream among the streams of its address, until it is released.
type Watch struct {
	access  *Access
	address string
	rooms   []string
}

// Watch counts a stream of rooms from address until [Watch.Release] is called. address is
// in the form in which limits tell addresses apart. The error is a [*Refusal] with
// [Limited]; then nothing is counted. API keys have no limit.
func (a *Access) Watch(g *Grant, address string, rooms ...string) (*Watch, error) {
	if g.Key {
		return &Watch{}, nil
	}
	w := &a.watched
	w.mu.Lock()
	defer w.mu.Unlock()
	here := w.rooms[address]
	if tooMany(here, rooms) {
		return nil, a.refuseWatch()
	}
	if here == nil {
		here = map[string]int{}
		w.rooms[address] = here
	}
	for _, room := range rooms {
		here[room]++
	}
	return &Watch{access: a, address: address, rooms: rooms}, nil
}

// CanWatch returns the error that Watch would, and counts no stream.
func (a *Access) CanWatch(g *Grant, address string, rooms ...string) error {
	w := &a.watched
	w.mu.Lock()
	defer w.mu.Unlock()
	if !g.Key && tooMany(w.rooms[address], rooms) {
		return a.refuseWatch()
	}
	return nil
}

// tooMany reports whether an address that watches the rooms of here may not watch these, too.
func tooMany(here map[string]int, rooms []string) bool {
	more := 0
	for i, room := range rooms {
		if here[room] == 0 && !slices.Contains(rooms[:i], room) {
			more++
		}
	}
	return more > 0 && len(here)+more > MaxWatched
}

// refuseWatch refuses a stream of an address that has too many.
func (a *Access) refuseWatch() error {
	return a.refuse(&Refusal{Limited, ReasonWatched, "Your address watches as many different rooms as the server allows: close other streams first."})
}

// Release ends the counting. It does nothing when called again.
func (w *Watch) Release() {
	if w.access == nil {
		return
	}
	all := &w.access.watched
	all.mu.Lock()
	defer all.mu.Unlock()
	here := all.rooms[w.address]
	for _, room := range w.rooms {
		if here[room]--; here[room] == 0 {
			delete(here, room)
		}
	}
	if len(here) == 0 {
		delete(all.rooms, w.address)
	}
	w.rooms = nil
}

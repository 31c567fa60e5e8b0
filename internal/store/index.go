package store

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"presence/internal/presence"
)

const (
	// noteInterval is how often what changed in rooms is written into the index.
	noteInterval = time.Second

	// maxNotes is how many rooms wait to be written, and how many are remembered to be
	// written as they are. Beyond that they are written at the next look at them.
	maxNotes = 100_000
)

// RoomCount is a room and how many are in it.
type RoomCount struct {
	Room        string
	Users       int
	Connections int
}

// notes are the numbers of rooms on their way into the index: those that a call of this
// process has changed or swept.
type notes struct {
	mu      sync.Mutex // guards:
	waiting map[string]presence.Occupancy
	written map[string]written // what this process wrote last, of rooms with users
}

// written is what was written, and when.
type written struct {
	presence.Occupancy
	at time.Time
}

func newNotes() *notes {
	return &notes{waiting: map[string]presence.Occupancy{}, written: map[string]written{}}
}

// add notes the numbers of room, unless they were written within the time that is given:
// Redis may have lost them since, or a latecomer have taken them away.
func (n *notes) add(room string, o presence.Occupancy, within time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	last, waits := n.waiting[room]
	was, known := n.written[room]
	if !waits && known && was.Occupancy == o && time.Since(was.at) < within || waits && last.Version > o.Version {
		return
	}
	if waits || len(n.waiting) < maxNotes {
		n.waiting[room] = o
	}
}

// take returns what waits.
func (n *notes) take() map[string]presence.Occupancy {
	n.mu.Lock()
	defer n.mu.Unlock()
	taken := n.waiting
	n.waiting = map[string]presence.Occupancy{}
	return taken
}

// wrote notes that numbers are in the index.
func (n *notes) wrote(room string, o presence.Occupancy) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if o.Users > 0 && len(n.written) < maxNotes {
		n.written[room] = written{o, time.Now()}
	} else {
		delete(n.written, room)
	}
}

// note has the numbers of room, as a call left them, written into the index.
func (s *Store) note(room string, o presence.Occupancy) {
	s.notes.add(room, o, s.opts.MemberTTL/3)
}

// runNotes writes into the index until ctx ends.
func (s *Store) runNotes(ctx context.Context) error {
	tick := time.NewTicker(noteInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.noteOnce(ctx)
		case <-ctx.Done():
			return nil
		}
	}
}

// noteOnce writes what waits. What could not be written is not tried again: the next
// sweep of the room notes it anew.
func (s *Store) noteOnce(ctx context.Context) {
	var calls []*call
	var rooms [][]string
	taken := s.notes.take()
	for room, o := range taken {
		if last := len(calls) - 1; last < 0 || len(rooms[last]) == BatchSize {
			calls = append(calls, &call{script: noteScript, keys: s.keys.index()})
			rooms = append(rooms, nil)
		}
		last := len(calls) - 1
		calls[last].args = append(calls[last].args, room, o.Users, o.Connections, o.Version)
		rooms[last] = append(rooms[last], room)
	}
	for i, c := range calls {
		if s.run(ctx, c); c.err != nil {
			continue // counted; the reason shows elsewhere
		}
		for _, room := range rooms[i] {
			s.notes.wrote(room, taken[room])
		}
	}
}

// Busiest lists rooms with users in them, at most limit, those with the most first.
func (s *Store) Busiest(ctx context.Context, limit int) ([]RoomCount, error) {
	return s.list(ctx, "busy", limit)
}

// List lists rooms with users in them, of those that among stand for, by name, at most
// limit: the first that come after the name after, "" for the first of all. Patterns must
// be apart, and in order, as [presence.Patterns.Apart] returns them. Numbers are as
// replicas saw them last.
//
// next is where the list goes on, to be given as after, or "" where it is whole. It is made
// of rooms that among stand for, and tells nothing of others. There may be fewer rooms than
// limit before it, even none.
func (s *Store) List(ctx context.Context, among presence.Patterns, after string, limit int) (rooms []RoomCount, next string, err error) {
	for calls := 0; len(among) > 0; among = among[1:] {
		p := among[0]
		if after >= endOf(p) {
			continue
		}
		if calls == maxListCalls {
			return rooms, after, nil
		}
		calls++
		low, high := "["+p.Text, "["+p.Text
		if p.Prefix {
			high = "(" + endOf(p)
		}
		if after >= p.Text && after != "" {
			low = "(" + after
		}
		if low == "[" {
			low = "-"
		}
		more, err := s.list(ctx, "name", limit-len(rooms)+1, low, high)
		if err != nil {
			return nil, "", err
		}
		if rooms = append(rooms, more...); len(rooms) > limit {
			return rooms[:limit], rooms[limit-1].Room, nil
		}
		after = endOf(p)
	}
	return rooms, "", nil
}

// maxListCalls bounds the calls of one list of rooms that many patterns stand for.
const maxListCalls = 50

// afterAll comes after all characters of which the names of rooms are made.
const afterAll = "~"

// endOf is a text after which no room of p comes, but those of later patterns do.
func endOf(p presence.Pattern) string {
	if p.Prefix {
		return p.Text + afterAll
	}
	return p.Text
}

// CheckListed returns nil for a text after which a list of rooms may go on.
func CheckListed(after string) error {
	if after == "" || after == afterAll {
		return nil
	}
	return presence.CheckRoom(strings.TrimSuffix(after, afterAll))
}

func (s *Store) list(ctx context.Context, how string, limit int, span ...any) ([]RoomCount, error) {
	c := &call{script: listScript, keys: s.keys.index(), args: append([]any{how, limit}, span...)}
	if s.run(ctx, c); c.err != nil {
		return nil, fmt.Errorf("list rooms: %w", c.err)
	}
	var rooms []RoomCount
	r := replyOf(c.reply)
	for r.more() {
		room, value := r.text(), r.text()
		count := RoomCount{Room: room}
		_, numbers, _ := strings.Cut(value, " ")
		if _, err := fmt.Sscan(numbers, &count.Users, &count.Connections); err != nil {
			return nil, fmt.Errorf("list rooms: %w", damaged(fmt.Errorf("%w: %q", errReply, value)))
		}
		rooms = append(rooms, count)
	}
	if r.err != nil {
		return nil, fmt.Errorf("list rooms: %w", r.err)
	}
	return rooms, nil
}

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
	// noteInterval is how often changed numbers of rooms are written to the index.
	noteInterval = time.Second

	// maxNotes is how many rooms can wait to be written, and of how many we remember what
	// was written. More rooms are written at their next change or sweep.
	maxNotes = 100_000
)

// RoomCount is a room with its numbers of users and connections.
type RoomCount struct {
	Room        string
	Users       int
	Connections int
}

// notes are the numbers of rooms that will be written to the index: of the rooms that a
// call of this process has changed or swept.
type notes struct {
	mu      sync.Mutex // guards:
	waiting map[string]presence.Occupancy
	written map[string]written // what this process last wrote, for rooms with users
}

// written is what was written to the index, and when.
type written struct {
	presence.Occupancy
	at time.Time
}

func newNotes() *notes {
	return &notes{waiting: map[string]presence.Occupancy{}, written: map[string]written{}}
}

// add notes the numbers of room, unless this process wrote the same ones less than within
// ago. After that time they are written again, because Redis may have lost them, or a
// late writer may have replaced them. Numbers older than those that wait are left out;
// version 0 is that of a room that no longer exists.
func (n *notes) add(room string, o presence.Occupancy, within time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	last, waits := n.waiting[room]
	was, known := n.written[room]
	older := waits && o.Version > 0 && last.Version > o.Version
	if older || !waits && known && was.Occupancy == o && time.Since(was.at) < within {
		return
	}
	if waits || len(n.waiting) < maxNotes {
		n.waiting[room] = o
	}
}

// take returns the notes that wait, and empties them.
func (n *notes) take() map[string]presence.Occupancy {
	n.mu.Lock()
	defer n.mu.Unlock()
	taken := n.waiting
	n.waiting = map[string]presence.Occupancy{}
	return taken
}

// wrote notes that numbers have been written to the index.
func (n *notes) wrote(room string, o presence.Occupancy) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if o.Users > 0 && len(n.written) < maxNotes {
		n.written[room] = written{o, time.Now()}
	} else {
		delete(n.written, room)
	}
}

// note queues the numbers of room, as a call left them, for the index.
func (s *Store) note(room string, o presence.Occupancy) {
	s.notes.add(room, o, s.opts.MemberTTL/3)
}

// runNotes writes to the index until ctx ends.
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

// noteOnce writes the notes that wait. It does not repeat a write that failed, because
// the next sweep of the room notes the numbers again.
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
			continue // the metrics count it, and other calls report the reason
		}
		for _, room := range rooms[i] {
			s.notes.wrote(room, taken[room])
		}
	}
}

// Busiest lists at most limit rooms with users in them, the ones with the most users
// first.
func (s *Store) Busiest(ctx context.Context, limit int) ([]RoomCount, error) {
	return s.list(ctx, "busy", limit)
}

// List lists rooms with users in them, by name: at most limit of those that match among,
// after the name after ("" for the first). The patterns must not overlap and must be in
// order, as [presence.Patterns.Apart] returns them. The numbers are as replicas last saw
// them.
//
// next is where the list continues: pass it as after. It is "" at the end. It is made
// only of names that match among, so it reveals no other room. A part may have fewer
// rooms than limit, or none, even if it is not the last one.
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

// maxListCalls bounds the calls of one List for many patterns.
const maxListCalls = 50

// afterAll sorts after all characters that names of rooms can have.
const afterAll = "~"

// endOf returns a text that sorts after all rooms of p and before the rooms of later
// patterns.
func endOf(p presence.Pattern) string {
	if p.Prefix {
		return p.Text + afterAll
	}
	return p.Text
}

// CheckListed returns nil if a list of rooms can continue after that text.
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

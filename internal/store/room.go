package store

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"presence/internal/presence"
)

// Lease names a connection in the hands of one generation.
type Lease struct{ ID, Generation string }

// Beats are the connections of one room whose leases are to be renewed, at most
// BatchSize, best in the order in which they were last renewed: Redis then
// finds each next to the last.
type Beats struct {
	Room   string
	Leases []Lease

	// Lost, after Heartbeat, are the positions of those that Redis does not
	// know or that another generation has.
	Lost []int

	// Err is why these were perhaps not renewed.
	Err error
}

// Heartbeat renews all leases of all beats in one round trip, and fills in Lost
// and Err of each.
func (s *Store) Heartbeat(ctx context.Context, beats []*Beats) {
	calls := make([]*call, len(beats))
	for i, b := range beats {
		args := append(make([]any, 0, 2+len(b.Leases)), s.keyTTL(), s.opts.MemberTTL.Milliseconds())
		for _, l := range b.Leases {
			args = append(args, l.ID+l.Generation)
		}
		calls[i] = &call{script: heartbeatScript, keys: s.keys.room(b.Room), args: args}
	}
	s.run(ctx, calls...)
	for i, b := range beats {
		b.Lost, b.Err = nil, calls[i].err
		if b.Err != nil {
			continue
		}
		lost, err := ints(calls[i].reply, 0)
		if err != nil {
			b.Err = fmt.Errorf("heartbeat: %w", err)
		}
		for _, n := range lost {
			b.Lost = append(b.Lost, int(n)-1)
		}
	}
}

// Swept is what one sweep of a room did.
type Swept struct {
	presence.Occupancy

	// Connections that were removed, and Users who went offline by that.
	RemovedConnections, RemovedUsers int

	// Spared connections have no socket and were due, but get more time.
	Spared int

	// Next is the time until the next lease of the room runs out, 0 when more
	// are due already. It is negative when nobody is left.
	Next time.Duration

	// Err is why the room was perhaps not swept.
	Err error
}

// NotHeld makes Sweep remove everything that is due.
const NotHeld = time.Duration(-1)

// Sweep removes from each room at most BatchSize connections whose leases have
// run out, and tells everybody. The result is in the order of rooms.
//
// held says that whoever renews leases may have been away until that long ago:
// what ran out for want of renewal is left alone, and only connections that
// were released since are removed. Give NotHeld otherwise.
//
// visits is the time that connections without a socket get which are due; 0 for none.
// A page without a socket renews its lease only when it reloads: after an outage it
// is late.
func (s *Store) Sweep(ctx context.Context, rooms []string, held, visits time.Duration) []Swept {
	hold := ""
	if held >= 0 {
		hold = strconv.FormatInt(max(0, (held-s.opts.LeaveGrace).Milliseconds()), 10)
	}
	calls := make([]*call, len(rooms))
	for i, room := range rooms {
		calls[i] = &call{script: sweepScript, keys: s.keys.room(room), args: append(s.changing(room, 3), BatchSize, hold, visits.Milliseconds())}
	}
	s.run(ctx, calls...)
	swept := make([]Swept, len(rooms))
	for i, c := range calls {
		if c.err != nil {
			swept[i].Err = c.err
			continue
		}
		n, err := ints(c.reply, 7)
		if err != nil {
			swept[i].Err = fmt.Errorf("sweep: %w", err)
			continue
		}
		swept[i] = Swept{
			Occupancy:          occupancy(n),
			RemovedConnections: int(n[3]),
			RemovedUsers:       int(n[4]),
			Next:               time.Duration(n[5]) * time.Millisecond,
			Spared:             int(n[6]),
		}
	}
	return swept
}

// Reading is a room that was read, or why it was not.
type Reading struct {
	presence.Snapshot

	// Err is why nothing is known of the room.
	Err error
}

// Snapshots reads rooms in one round trip and returns them in order, together
// with the epoch that the data is of: "" when Redis has lost it, and nobody has
// begun a new one yet. One room that can't be read leaves the others readable; an
// error is about all of them.
func (s *Store) Snapshots(ctx context.Context, rooms ...string) (readings []Reading, epoch string, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.opts.CallTimeout)
	defer cancel()
	calls := make([]*call, len(rooms))
	for i, room := range rooms {
		keys := []string{s.keys.online(room), s.keys.beats(room), s.keys.version(room), s.keys.roster(room)}
		calls[i] = &call{script: snapshotScript, keys: keys, args: []any{presence.RosterSize}}
	}
	s.run(ctx, calls...)
	readings = make([]Reading, len(rooms))
	silent := 0
	for i, c := range calls {
		if errors.Is(c.err, presence.ErrUnavailable) {
			silent++
		}
		if c.err != nil {
			readings[i].Err = fmt.Errorf("snapshot: %w", c.err)
			continue
		}
		readings[i].Snapshot, readings[i].Err = snapshot(c.reply)
	}
	if silent > 0 && silent == len(rooms) {
		return nil, "", readings[0].Err
	}
	// Read after the rooms: data that was lost before they were read is seen to
	// be lost here.
	epoch, err = s.rdb.Get(ctx, s.keys.epoch()).Result()
	if err = classify(err); err != nil && !errors.Is(err, redis.Nil) && !errors.Is(err, presence.ErrDamaged) {
		return nil, "", fmt.Errorf("snapshot: %w", err)
	}
	return readings, epoch, nil
}

// snapshot reads the reply of the snapshot script.
func snapshot(reply any) (presence.Snapshot, error) {
	list, ok := reply.([]any)
	if !ok || len(list) < 3 {
		return presence.Snapshot{}, fmt.Errorf("snapshot: %w", damaged(errReply))
	}
	n, err := ints(list[:3], 3)
	if err != nil {
		return presence.Snapshot{}, fmt.Errorf("snapshot: %w", err)
	}
	snap := presence.Snapshot{Occupancy: occupancy(n), Roster: make([]presence.User, 0, len(list)-3)}
	for _, row := range list[3:] {
		text, _ := row.(string)
		user, ok := parseUser(text)
		if !ok {
			return presence.Snapshot{}, fmt.Errorf("snapshot: %w", damaged(fmt.Errorf("%w: roster row %q", errReply, text)))
		}
		snap.Roster = append(snap.Roster, user)
	}
	return snap, nil
}

// Find returns the connection id of room, and whether it is there.
func (s *Store) Find(ctx context.Context, room, id string) (conn presence.Connection, found bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.opts.CallTimeout)
	defer cancel()
	value, err := s.rdb.HGet(ctx, s.keys.conns(room), id).Result()
	if errors.Is(err, redis.Nil) {
		return presence.Connection{}, false, nil
	}
	if err != nil {
		return presence.Connection{}, false, fmt.Errorf("find in %s: %w", room, classify(err))
	}
	if len(value) <= presence.GenerationSize {
		return presence.Connection{}, false, fmt.Errorf("find in %s: %w", room, damaged(errReply))
	}
	user, ok := parseUser(value[presence.GenerationSize+1:])
	if !ok {
		return presence.Connection{}, false, fmt.Errorf("find in %s: %w", room, damaged(errReply))
	}
	return presence.Connection{ID: id, Generation: value[:presence.GenerationSize], User: user}, true, nil
}

// Register makes rooms known to every replica's sweep, as in use from now on.
// It returns those that were refused since there are too many. The error wraps
// [presence.ErrFull] when Redis is full, and [presence.ErrUnavailable].
func (s *Store) Register(ctx context.Context, rooms ...string) (refused []string, err error) {
	return s.register(ctx, s.opts.MaxRooms, rooms)
}

// register is Register with a limit of its own, or one that is below 0: then nothing
// is refused.
func (s *Store) register(ctx context.Context, limit int, rooms []string) (refused []string, err error) {
	for start := 0; start < len(rooms); start += BatchSize {
		part := rooms[start:min(start+BatchSize, len(rooms))]
		c := s.registerCall(limit, part)
		s.run(ctx, c)
		if c.err != nil {
			return nil, fmt.Errorf("register: %w", c.err)
		}
		outcomes, err := ints(c.reply, len(part))
		if err != nil {
			return nil, fmt.Errorf("register: %w", err)
		}
		for i, ok := range outcomes {
			if ok == 0 {
				refused = append(refused, part[i])
			}
		}
	}
	return refused, nil
}

// registerCall is one call of the register script.
func (s *Store) registerCall(limit int, rooms []string) *call {
	args := append(make([]any, 0, 1+len(rooms)), limit)
	for _, room := range rooms {
		args = append(args, room)
	}
	return &call{script: registerScript, keys: []string{s.keys.rooms()}, args: args}
}

// Keep makes rooms that have somebody in them known to every replica's sweep, as in
// use from now on, however many there are and however full Redis is.
func (s *Store) Keep(ctx context.Context, rooms ...string) error {
	_, err := s.register(ctx, -1, rooms)
	return err
}

// Rooms lists the rooms in use, in no particular order: all that have somebody
// in them, and some that had until lately.
func (s *Store) Rooms(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, s.opts.CallTimeout)
	defer cancel()
	rooms, err := s.rdb.ZRange(ctx, s.keys.rooms(), 0, -1).Result()
	if err != nil {
		return nil, fmt.Errorf("list rooms: %w", classify(err))
	}
	return rooms, nil
}

// Forget strikes rooms that were found empty off the list of those in use,
// unless they were registered within the last member TTL.
func (s *Store) Forget(ctx context.Context, rooms ...string) error {
	for start := 0; start < len(rooms); start += BatchSize {
		part := rooms[start:min(start+BatchSize, len(rooms))]
		args := append(make([]any, 0, 1+len(part)), s.opts.MemberTTL.Milliseconds())
		for _, room := range part {
			args = append(args, room)
		}
		c := &call{script: forgetScript, keys: []string{s.keys.rooms()}, args: args}
		s.run(ctx, c)
		if c.err != nil {
			return fmt.Errorf("forget: %w", c.err)
		}
	}
	return nil
}

package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"presence/internal/presence"
)

// Holder is a connection under one generation. It holds a lease.
type Holder struct{ ID, Generation string }

// Beats are connections of one room whose leases are to be renewed, at most BatchSize. It
// is fastest to keep the order in which they were last renewed, since Redis then finds
// each lease next to the last one.
type Beats struct {
	Room    string
	Holders []Holder

	// Left is how long each lease still lasts, for Extend.
	Left []time.Duration

	// TTL is how long Heartbeat makes all these leases last; 0 means the member TTL.
	TTL time.Duration

	// Birth, after a call, is the birth of the room's data; "" when there are none.
	Birth string

	// Lost, after a call, are the positions of the connections that Redis does not have,
	// or that have another generation.
	Lost []int

	// Err is why these leases were perhaps not renewed.
	Err error
}

// Heartbeat renews all leases of all beats in one round trip. It sets Birth, Lost and Err
// of each.
func (s *Store) Heartbeat(ctx context.Context, beats []*Beats) {
	calls := make([]*call, len(beats))
	for i, b := range beats {
		args := append(s.args(b.Room, 1+len(b.Holders)), cmp.Or(b.TTL, s.opts.MemberTTL).Milliseconds())
		for _, h := range b.Holders {
			args = append(args, h.ID+h.Generation)
		}
		calls[i] = s.roomCall(heartbeatScript, b.Room, args)
	}
	s.beat(ctx, beats, calls)
}

// Extend prolongs the leases of connections without a socket, in one round trip, so that
// each lasts at least for its time in Left. It sets Birth, Lost and Err of each. A lease
// that ends up to slack earlier is left alone. With exact, after a step of a clock,
// Extend also shortens leases that end later.
func (s *Store) Extend(ctx context.Context, beats []*Beats, slack time.Duration, exact bool) {
	flag := 0
	if exact {
		flag = 1
	}
	calls := make([]*call, len(beats))
	for i, b := range beats {
		args := append(s.args(b.Room, 2+2*len(b.Holders)), slack.Milliseconds(), flag)
		for j, h := range b.Holders {
			args = append(args, h.ID+h.Generation, b.Left[j].Milliseconds())
		}
		calls[i] = s.roomCall(extendScript, b.Room, args)
	}
	s.beat(ctx, beats, calls)
}

// beat makes the calls for beats, and reads the replies.
func (s *Store) beat(ctx context.Context, beats []*Beats, calls []*call) {
	s.run(ctx, calls...)
	for i, b := range beats {
		b.Birth, b.Lost, b.Err = "", nil, calls[i].err
		if b.Err != nil {
			continue
		}
		r := replyOf(calls[i].reply)
		for b.Birth = r.text(); r.more(); {
			b.Lost = append(b.Lost, int(r.int())-1)
		}
		if r.err != nil {
			b.Err = fmt.Errorf("heartbeat of %s: %w", b.Room, r.err)
		}
	}
}

// Renew renews connections of room that have no socket, for ttl. It returns them in
// order, each with its generation and user; a connection that does not exist has no user.
// A connection gets the given generation if its socket is gone, or if its lease becomes
// shorter. Renew does not change the lease of a connection that has a socket.
func (s *Store) Renew(ctx context.Context, room string, conns []presence.Connection, ttl time.Duration) (birth string, found []presence.Connection, err error) {
	for start := 0; start < len(conns); start += BatchSize {
		part := conns[start:min(start+BatchSize, len(conns))]
		c := s.pairsCall(resumeScript, room, part, "renew", ttl.Milliseconds())
		if s.run(ctx, c); c.err != nil {
			return "", nil, fmt.Errorf("renew in %s: %w", room, c.err)
		}
		var more []presence.Connection
		if birth, more, err = resumed(c, len(part)); err != nil {
			return "", nil, fmt.Errorf("renew in %s: %w", room, err)
		}
		for i := range more {
			more[i].ID = part[i].ID
		}
		found = append(found, more...)
	}
	return birth, found, nil
}

// resumed reads the reply of the resume script for n connections. The caller adds their
// ids.
func resumed(c *call, n int) (birth string, found []presence.Connection, err error) {
	r := replyOf(c.reply)
	birth = r.text()
	found = make([]presence.Connection, n)
	for i := range found {
		generation, user, value := r.text(), r.text(), r.text()
		if user == "" {
			continue
		}
		found[i].Generation = generation
		if found[i].User, err = parseUser(user, value); err != nil {
			return "", nil, err
		}
	}
	return birth, found, r.err
}

// Swept is the result of one sweep of a room.
type Swept struct {
	presence.Occupancy

	// Birth is the birth of the room's data; "" when there are none.
	Birth string

	// RemovedConnections is the number of connections that were removed, and RemovedUsers
	// the number of users who went offline by that.
	RemovedConnections, RemovedUsers int

	// Spared counts the connections without a socket that were due but got more time.
	Spared int

	// Next is the time until the room's next lease runs out. It is 0 when more leases are
	// due already, and negative when the room is empty.
	Next time.Duration

	// Now is when the room was swept, in ms by the clock of its Redis.
	Now int64

	// Braked says that Terms.Brake kept the sweep from removing anything. Stepped says
	// that the clock of Redis was not as expected, so nothing was removed.
	Braked, Stepped bool

	// Err is why the room was perhaps not swept.
	Err error
}

// Terms say what a sweep spares. With the zero value a sweep removes everything that is
// due.
type Terms struct {
	// Held says that replicas may have been unable to renew leases until Since ago. Then
	// the sweep removes only connections that were released since then, and leaves leases
	// alone that nobody renewed.
	Held  bool
	Since time.Duration

	// Visits is how much more time a connection without a socket gets when its lease is
	// due. A page without a socket renews its lease only when it reloads, so after an
	// outage it is late.
	Visits time.Duration

	// Brake makes a sweep remove nothing from a room if it would remove more than half of
	// more than 20 connections. If so many fall silent at once, it is likely that we
	// could not hear them.
	Brake bool

	// Clamp shortens leases that end later than a lease can end, which happens when the
	// clock of Redis was set back. It does not apply to connections without a socket.
	Clamp bool

	// Expected is, for each room, what the clock of its Redis should show, in ms; 0 if
	// that is not known. If the clock differs by more than MaxSlew, nothing is removed.
	Expected []int64
}

// MaxSlew is by how much the clock of Redis may differ from the expected time.
const MaxSlew = time.Second

// Sweep removes at most SweepSize connections whose leases have run out from each room,
// and publishes the changes. The results are in the order of rooms.
func (s *Store) Sweep(ctx context.Context, rooms []string, terms Terms) []Swept {
	hold, brake, clamp := "", 0, int64(-1)
	if terms.Held {
		hold = strconv.FormatInt(max(0, (terms.Since-s.opts.LeaveGrace).Milliseconds()), 10)
	}
	if terms.Brake {
		brake = 1
	}
	if terms.Clamp {
		clamp = s.opts.LeaveGrace.Milliseconds()
	}
	calls := make([]*call, len(rooms))
	for i, room := range rooms {
		expected := int64(0)
		if terms.Expected != nil {
			expected = terms.Expected[i]
		}
		calls[i] = s.roomCall(sweepScript, room, append(s.args(room, 8), SweepSize, hold, terms.Visits.Milliseconds(),
			brake, expected, MaxSlew.Milliseconds(), clamp, s.opts.MemberTTL.Milliseconds()))
	}
	s.run(ctx, calls...)
	swept := make([]Swept, len(rooms))
	for i, room := range rooms {
		c, of := calls[i], &swept[i]
		if c.err != nil {
			of.Err = c.err
			continue
		}
		r := replyOf(c.reply)
		of.Occupancy, of.Birth = r.occupancy()
		of.RemovedConnections, of.RemovedUsers = int(r.int()), int(r.int())
		of.Next, of.Spared = time.Duration(r.int())*time.Millisecond, int(r.int())
		closed := int(r.int())
		of.Now, of.Braked, of.Stepped = r.int(), r.int() == 1, r.int() == 1
		if r.err != nil {
			of.Err = fmt.Errorf("sweep of %s: %w", room, r.err)
			continue
		}
		s.metrics.left(presence.ReasonClosed, closed)
		s.metrics.left(presence.ReasonTimeout, of.RemovedUsers-closed)
		s.note(room, of.Occupancy)
	}
	return swept
}

// Have is a room to read, and what the reader already has of it.
type Have struct {
	Room string

	// Version and Birth belong to the reader's snapshot; 0 and "" if it has none.
	Version int64
	Birth   string

	// Numbers says that the reader does not need the members.
	Numbers bool
}

// Reading is what was read of a room.
type Reading struct {
	// Changes lead from the reader's version to that of the room. If there are none, and
	// Whole is false, the reader's snapshot is up to date.
	Changes []presence.Change

	// Snapshot is the whole room if Whole is set. Otherwise only its numbers and birth
	// are set.
	presence.Snapshot
	Whole bool

	// Epoch is the epoch of the room's node. Its text is "" if the node has lost its data
	// and nobody has begun a new epoch yet.
	Epoch Epoch

	// Err is why the room was perhaps not read.
	Err error
}

// Read reads rooms in one round trip and returns them in order, each with the epoch of
// its node. An error in one room does not affect the others. err is only set if no room
// could be read, because Redis does not answer.
func (s *Store) Read(ctx context.Context, rooms ...Have) (readings []Reading, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.opts.CallTimeout)
	defer cancel()
	calls := make([]*call, len(rooms))
	for i, have := range rooms {
		after := any("")
		if have.Version > 0 {
			after = have.Version
		}
		most := presence.ListSize
		if have.Numbers {
			most = 0
		}
		calls[i] = s.roomCall(readScript, have.Room, append(s.args(have.Room, 3), after, have.Birth, most))
	}
	s.run(ctx, calls...)
	readings = make([]Reading, len(rooms))
	var tags []string
	for i, have := range rooms {
		if readings[i], err = reading(calls[i]); err != nil {
			readings[i].Err = fmt.Errorf("read %s: %w", have.Room, err)
		}
		s.metrics.answered(readings[i])
		if errors.Is(err, presence.ErrUnavailable) {
			continue
		}
		var ok bool
		if _, readings[i].Epoch.Tag, ok = s.nodeOf(have.Room); !ok {
			readings[i].Err = unavailable(errNoNode)
		} else if !slices.Contains(tags, readings[i].Epoch.Tag) {
			tags = append(tags, readings[i].Epoch.Tag)
		}
	}
	// Read the epochs after the rooms. So if data were lost before the rooms were read,
	// the new epoch shows it, or the clock if that was stepped so far that keys ended. A
	// reader who has a room sees by its birth that it is lost.
	timed := slices.ContainsFunc(rooms, func(have Have) bool { return have.Birth == "" })
	epochs := s.epochs(ctx, timed, tags...)
	silent := 0
	for i, r := range readings {
		if epoch := epochs[r.Epoch.Tag]; !errors.Is(r.Err, presence.ErrUnavailable) {
			if readings[i].Epoch = epoch.Epoch; epoch.err != nil {
				readings[i].Err = epoch.err
			}
		}
		if errors.Is(readings[i].Err, presence.ErrUnavailable) {
			silent++
		}
	}
	if silent > 0 && silent == len(rooms) {
		return nil, readings[0].Err
	}
	return readings, nil
}

// The kinds of replies of the read script.
const (
	readNothing = iota
	readChanges
	readWhole
)

// reading reads the reply of the read script.
func reading(c *call) (Reading, error) {
	if c.err != nil {
		return Reading{}, c.err
	}
	r := replyOf(c.reply)
	var out Reading
	out.Occupancy, out.Birth = r.occupancy()
	what := r.int()
	switch {
	case r.err != nil || what == readNothing:
		return out, r.err
	case what == readChanges:
		for rows := r.list(); rows.more(); {
			change, err := parseEntry(rows.list())
			if err != nil {
				return Reading{}, err
			}
			out.Changes = append(out.Changes, change)
		}
		return out, r.err
	}
	out.Whole = true
	rows := r.list()
	for rows.more() {
		id, value, connections := rows.text(), rows.text(), rows.int()
		if rows.err != nil {
			break
		}
		user, err := parseUser(id, value)
		if err != nil {
			return Reading{}, err
		}
		out.Members = append(out.Members, presence.Member{User: user, Connections: int(connections)})
	}
	return out, rows.err
}

// Find returns the connection id of room, the number of connections that its user has,
// and whether the connection exists.
func (s *Store) Find(ctx context.Context, room, id string) (conn presence.Connection, connections int, found bool, err error) {
	c := s.roomCall(findScript, room, append(s.args(room, 1), id))
	if s.run(ctx, c); c.err != nil {
		return presence.Connection{}, 0, false, fmt.Errorf("find in %s: %w", room, c.err)
	}
	r := replyOf(c.reply)
	if !r.more() && r.err == nil {
		return presence.Connection{}, 0, false, nil
	}
	conn = presence.Connection{ID: id, Generation: r.text()}
	user, value, n := r.text(), r.text(), r.int()
	err = r.err
	if err == nil {
		conn.User, err = parseUser(user, value)
	}
	if err != nil {
		return presence.Connection{}, 0, false, fmt.Errorf("find in %s: %w", room, err)
	}
	return conn, int(n), true, nil
}

// Register adds rooms to the list of rooms that all replicas sweep, as in use from now
// on. It returns the rooms that were refused because there are too many. The error wraps
// [presence.ErrFull] when Redis is full, or [presence.ErrUnavailable].
func (s *Store) Register(ctx context.Context, rooms ...string) (refused []string, err error) {
	return s.register(ctx, s.opts.MaxRooms, rooms)
}

// register is Register with another limit. A limit below 0 refuses nothing.
func (s *Store) register(ctx context.Context, limit int, rooms []string) (refused []string, err error) {
	for start := 0; start < len(rooms); start += BatchSize {
		part := rooms[start:min(start+BatchSize, len(rooms))]
		c := s.registerCall(limit, part)
		s.run(ctx, c)
		if c.err != nil {
			return nil, fmt.Errorf("register: %w", c.err)
		}
		r := replyOf(c.reply)
		for _, room := range part {
			if r.int() == 0 {
				refused = append(refused, room)
			}
		}
		if r.err != nil {
			return nil, fmt.Errorf("register: %w", r.err)
		}
	}
	return refused, nil
}

// Admits reports whether Register would accept a room. It registers nothing.
func (s *Store) Admits(ctx context.Context, room string) (bool, error) {
	if s.opts.MaxRooms == 0 {
		return true, nil
	}
	ctx, cancel := s.shared(ctx)
	defer cancel()
	ctx, cancelCall := context.WithTimeout(ctx, s.opts.CallTimeout)
	defer cancelCall()
	pipe := s.rdb.Pipeline()
	known, n := pipe.ZScore(ctx, s.keys.rooms(), room), pipe.ZCard(ctx, s.keys.rooms())
	_, _ = pipe.Exec(ctx) // each command has its own error
	if known.Err() == nil {
		return true, nil
	}
	if err := n.Err(); err != nil {
		return false, fmt.Errorf("rooms: %w", classify(err))
	}
	return n.Val() < int64(s.opts.MaxRooms), nil
}

// registerCall is one call of the register script.
func (s *Store) registerCall(limit int, rooms []string) *call {
	args := append(make([]any, 0, 1+len(rooms)), limit)
	for _, room := range rooms {
		args = append(args, room)
	}
	return &call{script: registerScript, keys: []string{s.keys.rooms()}, args: args}
}

// Keep adds rooms that have members to the list that all replicas sweep, as in use from
// now on. It does so however many rooms there are, and even when Redis is full.
func (s *Store) Keep(ctx context.Context, rooms ...string) error {
	_, err := s.register(ctx, -1, rooms)
	return err
}

// Clear deletes all data of a damaged room, and reports whether it did. The replicas put
// back the connections they hold. Data that were made anew less than young ago are not
// deleted, because another replica has found the same damage.
func (s *Store) Clear(ctx context.Context, room string, young time.Duration) (cleared bool, err error) {
	c := s.roomCall(clearScript, room, append(s.args(room, 1), young.Milliseconds()))
	if s.run(ctx, c); c.err != nil {
		return false, fmt.Errorf("clear %s: %w", room, c.err)
	}
	return c.reply == int64(1), nil
}

// Rooms lists the rooms in use, in no order: all rooms that have members, and some that
// had members until recently.
func (s *Store) Rooms(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, s.opts.CallTimeout)
	defer cancel()
	if s.avoided(s.keys.rooms()) {
		return nil, fmt.Errorf("list rooms: %w", unavailable(ErrAvoided))
	}
	rooms, err := s.rdb.ZRange(ctx, s.keys.rooms(), 0, -1).Result()
	if err != nil {
		return nil, fmt.Errorf("list rooms: %w", classify(err))
	}
	return rooms, nil
}

// Forget removes rooms that were found empty from the list of rooms in use, unless they
// were registered within the last member TTL.
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

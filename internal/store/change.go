package store

import (
	"cmp"
	"context"
	"fmt"
	"strconv"
	"time"

	"presence/internal/presence"
)

// Held is a connection in a room, and the room, after a call.
type Held struct {
	presence.Occupancy

	// Birth is the birth of the room's data; see [presence.Snapshot].
	Birth string

	// Connection has the generation that now has it, and the user as others see it.
	Connection presence.Connection

	// Came says that a put added the connection, or took it from another user.
	Came bool
}

// Join makes conn.User present in room through conn, for the member TTL. If the
// connection exists, Join renews it and gives it conn's generation. If it joined as
// another user before, that user leaves. A new name becomes the user's name.
//
// The error wraps [presence.ErrRoomFull], [presence.ErrTooManyRooms] or
// [presence.ErrFull] when a limit is reached, and [presence.ErrDamaged] if the room's
// data are damaged. After [presence.ErrUnavailable] the join may or may not have taken
// place: the caller may repeat it, or undo it with Leave.
func (s *Store) Join(ctx context.Context, room string, conn presence.Connection) (Held, error) {
	return s.Follow(ctx, room, conn, anyone)
}

// anyone stands for any generation.
const anyone = "*"

// Follow is Join if no generation has the connection, or the generation former has it. If
// another generation has it, the error wraps [presence.ErrSuperseded], and nothing
// changes.
func (s *Store) Follow(ctx context.Context, room string, conn presence.Connection, former string) (Held, error) {
	return s.enter(ctx, &op{kind: opJoin, room: room, conn: conn, ttl: s.opts.MemberTTL, name: true, former: former})
}

// Wanted is the state of a connection that a program asks for.
type Wanted struct {
	// Connection is the connection to put. Its generation is used if no connection
	// exists, or another user has it. If the same user has it, the connection gets
	// another generation, made from this one. User.Name and User.Meta are for a new user,
	// unless SetName and SetMeta say more.
	Connection presence.Connection

	// TTL is how long the lease lasts. It replaces the present lease.
	TTL time.Duration

	// SetName and SetMeta say that the name and the metadata also replace those of a user
	// who is present.
	SetName, SetMeta bool
}

// Put makes a user present in room through a connection without a socket, or renews the
// connection. If the same user's connection has a socket, it keeps that socket's
// generation and lease. Otherwise Put is like Join.
func (s *Store) Put(ctx context.Context, room string, w Wanted) (Held, error) {
	return s.enter(ctx, &op{kind: opPut, room: room, conn: w.Connection, ttl: w.TTL, name: w.SetName, meta: w.SetMeta})
}

// Attend is Join for a program's connection that has a socket. A later Put does not
// change its generation. If w.TTL is 0, the lease lasts for the member TTL.
func (s *Store) Attend(ctx context.Context, room string, w Wanted) (Held, error) {
	return s.enter(ctx, &op{kind: opAttend, room: room, conn: w.Connection, ttl: cmp.Or(w.TTL, s.opts.MemberTTL), name: w.SetName, meta: w.SetMeta})
}

// enter is the common part of Join, Put and Attend.
func (s *Store) enter(ctx context.Context, o *op) (Held, error) {
	r, err := s.do(ctx, o)
	if err != nil {
		return Held{}, fmt.Errorf("join %s: %w", o.room, err)
	}
	return r.held, nil
}

// Resume gives the connection id of room another generation, and returns it with its
// user. Nobody sees a change. If there is no such connection, found is false.
//
// After [presence.ErrUnavailable] the outcome is not known, and the caller may repeat the
// call.
func (s *Store) Resume(ctx context.Context, room, id, generation string) (conn presence.Connection, birth string, found bool, err error) {
	r, err := s.do(ctx, &op{kind: opResume, room: room, conn: presence.Connection{ID: id, Generation: generation}})
	if err != nil {
		return presence.Connection{}, "", false, fmt.Errorf("resume in %s: %w", room, err)
	}
	return r.held.Connection, r.held.Birth, r.held.Came, nil
}

// Leave ends the connection id of room at once. If generation is not "", it ends the
// connection only if that generation has it; if another one has it, the error wraps
// [presence.ErrSuperseded]. It is no error if the connection does not exist. Leave
// returns the room's occupancy afterwards.
//
// After [presence.ErrUnavailable] the caller may repeat Leave.
func (s *Store) Leave(ctx context.Context, room, id, generation string) (presence.Occupancy, error) {
	r, err := s.do(ctx, &op{kind: opLeave, room: room, conn: presence.Connection{ID: id, Generation: generation}})
	if err != nil {
		return presence.Occupancy{}, fmt.Errorf("leave %s: %w", room, err)
	}
	return r.held.Occupancy, nil
}

// Release says that the socket of that generation is gone. The connection ends after the
// leave grace, unless Resume or Join takes it over. If another generation has the
// connection now, Release changes nothing.
//
// After [presence.ErrUnavailable] the caller may repeat Release. If it does not, the
// connection ends when its lease runs out.
func (s *Store) Release(ctx context.Context, room, id, generation string) error {
	return s.ReleaseFor(ctx, room, id, generation, s.opts.LeaveGrace)
}

// ReleaseFor is Release with another grace.
func (s *Store) ReleaseFor(ctx context.Context, room, id, generation string, grace time.Duration) error {
	if _, err := s.do(ctx, &op{kind: opRelease, room: room, conn: presence.Connection{ID: id, Generation: generation}, ttl: grace}); err != nil {
		return fmt.Errorf("release in %s: %w", room, err)
	}
	return nil
}

// Update changes the name and metadata of the user of connection id in room from those of
// was to those of to. It returns the member. The error wraps [presence.ErrNotPresent] if
// the connection does not exist or has another user. It wraps [presence.ErrConflict] if
// the user has another name or other metadata by now: then read the user and try again.
func (s *Store) Update(ctx context.Context, room, id string, was, to presence.User) (presence.Member, presence.Occupancy, error) {
	args := append(s.args(room, 4), id, was.ID, valueOf(was), tail(to))
	c := s.roomCall(updateScript, room, args)
	if s.run(ctx, c); c.err != nil {
		return presence.Member{}, presence.Occupancy{}, fmt.Errorf("update in %s: %w", room, c.err)
	}
	r := replyOf(c.reply)
	o, _ := r.occupancy()
	outcome, connections := r.int(), r.int()
	err := r.err
	switch {
	case err != nil:
	case outcome == 0:
		err = presence.ErrNotPresent
	case outcome < 0:
		err = presence.ErrConflict
	}
	if err != nil {
		return presence.Member{}, presence.Occupancy{}, fmt.Errorf("update in %s: %w", room, err)
	}
	s.note(room, o)
	to.ID, to.Since = was.ID, was.Since
	return presence.Member{User: to, Connections: int(connections)}, o, nil
}

// Lost is a connection to put back.
type Lost struct {
	Connection presence.Connection

	// TTL is how long the lease lasts from now; 0 means the member TTL.
	TTL time.Duration

	// Answered says that the browser has just answered through the connection's socket.
	// Then Restore also takes the connection from a generation without a socket: another
	// replica may remember that one longer than it is true.
	Answered bool
}

// Restore puts back connections of one room that Redis lost, or whose last socket is
// gone. Users get back their time of arrival, and so their places in the roster. The name
// and metadata of Lost are used only for users who are not present.
//
// The result has one error for each connection: nil when it is there again,
// [presence.ErrSuperseded] when another generation has it, [presence.ErrRemoved] when its
// user was removed since, [presence.ErrRoomFull] or [presence.ErrFull] when a limit is
// reached, or [presence.ErrUnavailable], after which the caller may repeat Restore.
func (s *Store) Restore(ctx context.Context, room string, lost []Lost) (birth string, errs []error) {
	errs = make([]error, len(lost))
	var calls []*call
	for start := 0; start < len(lost); start += BatchSize {
		part := lost[start:min(start+BatchSize, len(lost))]
		ops := make([]*op, len(part))
		for i, l := range part {
			ops[i] = &op{room: room, conn: l.Connection, ttl: cmp.Or(l.TTL, s.opts.MemberTTL), answered: l.Answered}
		}
		c := s.joinCall("restore", ops)
		c.keys = append(c.keys, s.keys.removed(room))
		calls = append(calls, c)
	}
	s.run(ctx, calls...)
	for i, c := range calls {
		part := errs[i*BatchSize : min((i+1)*BatchSize, len(lost))]
		outcomes := make([]result, len(part))
		s.joined(c, "restore", outcomes)
		for j, o := range outcomes {
			part[j] = o.err
			if o.held.Birth != "" {
				birth = o.held.Birth
			}
			if j == 0 && o.held.Version > 0 {
				s.note(room, o.held.Occupancy)
			}
		}
	}
	return birth, errs
}

// joinCall returns a call of the join script for ops, which are of one kind and room.
func (s *Store) joinCall(how string, ops []*op) *call {
	room := ops[0].room
	args := append(s.args(room, 3+8*len(ops)), how, s.opts.MaxMembers, s.opts.MemberTTL.Milliseconds())
	for _, o := range ops {
		user := o.conn.User
		if how == "join" {
			args = append(args, o.conn.ID, o.conn.Generation, user.ID, tail(user), o.former)
			continue
		}
		args = append(args, o.conn.ID, o.conn.Generation, user.ID, user.Name)
		since, sets := any(""), ""
		if user.Since > 0 {
			since = user.Since
		}
		if o.name {
			sets = "n"
		}
		if o.meta {
			sets += "m"
		}
		if o.answered {
			sets += "s"
		}
		args = append(args, o.ttl.Milliseconds(), since, metaOf(user), sets)
	}
	return s.roomCall(joinScript, room, args)
}

// joined reads the reply of the join script into one result for each connection. The
// caller adds what it knows already: the ids and what a join has set.
func (s *Store) joined(c *call, how string, results []result) {
	err := c.err
	if err == nil {
		r := replyOf(c.reply)
		occupancy, birth := r.occupancy()
		for i := range results {
			if how == "join" {
				results[i] = joinOutcome(r)
			} else {
				results[i] = putOutcome(r)
			}
			results[i].held.Occupancy, results[i].held.Birth = occupancy, birth
		}
		if gone := int(r.int()); r.err == nil {
			s.metrics.left(presence.ReasonLeft, gone)
		}
		err = r.err
	}
	if err != nil {
		for i := range results {
			results[i] = result{err: err}
		}
	}
}

// joinOutcome reads the outcome of one connection that joined: its user's time of
// arrival, or the reason of a refusal.
func joinOutcome(r *reply) (out result) {
	switch v := r.next().(type) {
	case string:
		var err error
		if out.held.Connection.User.Since, err = strconv.ParseInt(v, 10, 64); err != nil {
			out.err = damaged(fmt.Errorf("%w: since %q", errReply, v))
		}
	case int64:
		out.err = refusal(v)
	default:
		out.err = damaged(errReply)
	}
	return out
}

// putOutcome reads the outcome of one connection that was put or restored.
func putOutcome(r *reply) (out result) {
	outcome, generation, value := r.int(), r.text(), r.text()
	if out.err = refusal(outcome); out.err != nil || r.err != nil {
		return out
	}
	out.held.Came = outcome == 1
	out.held.Connection.Generation = generation
	out.held.Connection.User, out.err = parseUser("?", value)
	return out
}

// refusal returns the error for an outcome of the join script; nil if it was accepted.
func refusal(outcome int64) error {
	switch outcome {
	case 0:
		return presence.ErrRoomFull
	case -1:
		return presence.ErrSuperseded
	case -2:
		return presence.ErrFull
	case -3:
		return presence.ErrRemoved
	}
	return nil
}

// pairsCall returns a call of a script whose arguments are the id and generation of each
// connection.
func (s *Store) pairsCall(script script, room string, conns []presence.Connection, own ...any) *call {
	args := append(s.args(room, len(own)+2*len(conns)), own...)
	for _, c := range conns {
		args = append(args, c.ID, c.Generation)
	}
	return s.roomCall(script, room, args)
}

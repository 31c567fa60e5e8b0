package store

import (
	"context"
	"fmt"
	"time"

	"presence/internal/presence"
)

// Held is a connection that is in a room, and the room, as a call left them.
type Held struct {
	presence.Occupancy

	// Birth is that of the room's data; see [presence.Snapshot].
	Birth string

	// Connection has the generation that holds it, and the user as others see it.
	Connection presence.Connection

	// Came says that this call brought the connection in, or that it was another
	// user's before.
	Came bool
}

// Join makes conn.User present in room through conn, for the member TTL. A connection
// that is there already is renewed and passes to conn's generation; one that joined as
// another user before leaves as that user. A name that differs becomes the user's.
//
// The error wraps [presence.ErrRoomFull], [presence.ErrTooManyRooms] or
// [presence.ErrFull] when a limit is reached, and [presence.ErrDamaged] for a room whose
// data are. With [presence.ErrUnavailable] nothing is known of whether the join took place: it may be repeated, or undone with
// Leave.
func (s *Store) Join(ctx context.Context, room string, conn presence.Connection) (Held, error) {
	return s.enter(ctx, &op{kind: opJoin, room: room, conn: conn, ttl: s.opts.MemberTTL, name: true})
}

// Wanted is what a program wants a connection to be.
type Wanted struct {
	// Connection: its generation is for a connection that nobody has. User.Name and
	// User.Meta are those of a user who is new, unless set otherwise below.
	Connection presence.Connection

	// TTL is how long the lease lasts; it replaces the one there is.
	TTL time.Duration

	// SetName and SetMeta say that name and metadata are the user's from now on.
	SetName, SetMeta bool
}

// Put makes a user present in room through a connection without a socket, or renews
// it. A connection of the same user that has a socket keeps the generation of that, and
// its lease. The rest is as with Join.
func (s *Store) Put(ctx context.Context, room string, w Wanted) (Held, error) {
	return s.enter(ctx, &op{kind: opPut, room: room, conn: w.Connection, ttl: w.TTL, name: w.SetName, meta: w.SetMeta})
}

// Attend is Join for a program's connection that has a socket, of which Put leaves the
// generation. It lasts for the member TTL; w.TTL is not used.
func (s *Store) Attend(ctx context.Context, room string, w Wanted) (Held, error) {
	return s.enter(ctx, &op{kind: opJoin, room: room, conn: w.Connection, ttl: s.opts.MemberTTL, name: w.SetName, meta: w.SetMeta})
}

// enter is Join, Put and Attend.
func (s *Store) enter(ctx context.Context, o *op) (Held, error) {
	r, err := s.do(ctx, o)
	if err != nil {
		return Held{}, fmt.Errorf("join %s: %w", o.room, err)
	}
	return r.held, nil
}

// Resume passes the connection id, if it is in room, to generation, and returns
// it with its user. Nobody sees a change. Without such a connection found is false.
//
// After [presence.ErrUnavailable] nothing is known; it may be repeated.
func (s *Store) Resume(ctx context.Context, room, id, generation string) (conn presence.Connection, birth string, found bool, err error) {
	r, err := s.do(ctx, &op{kind: opResume, room: room, conn: presence.Connection{ID: id, Generation: generation}})
	if err != nil {
		return presence.Connection{}, "", false, fmt.Errorf("resume in %s: %w", room, err)
	}
	return r.held.Connection, r.held.Birth, r.held.Came, nil
}

// Leave ends the connection id in room at once. With a generation only that one
// is ended, with "" the one that has the connection now. It is no error when it
// was not there. The result is the room's occupancy afterwards.
//
// After [presence.ErrUnavailable] Leave may be repeated.
func (s *Store) Leave(ctx context.Context, room, id, generation string) (presence.Occupancy, error) {
	r, err := s.do(ctx, &op{kind: opLeave, room: room, conn: presence.Connection{ID: id, Generation: generation}})
	if err != nil {
		return presence.Occupancy{}, fmt.Errorf("leave %s: %w", room, err)
	}
	return r.held.Occupancy, nil
}

// Release says that the socket of that generation is gone: the connection ends
// after the leave grace unless Resume or Join takes it over. It changes nothing
// for a connection that another generation has by now.
//
// After [presence.ErrUnavailable] it may be repeated; if it is not, the
// connection ends when its lease runs out.
func (s *Store) Release(ctx context.Context, room, id, generation string) error {
	if _, err := s.do(ctx, &op{kind: opRelease, room: room, conn: presence.Connection{ID: id, Generation: generation}}); err != nil {
		return fmt.Errorf("release in %s: %w", room, err)
	}
	return nil
}

// Update changes name and metadata of a user who is in room through the connection id,
// from those of was to those of to, and returns the member. The error wraps
// [presence.ErrNotPresent] if the user is not there through it, and
// [presence.ErrConflict] if the user has other name or metadata by now: read them, and
// try again.
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

	// TTL is how long the lease lasts from now; 0 stands for the member TTL.
	TTL time.Duration
}

// Restore puts back connections of one room that Redis lost, or whose last socket
// is gone. Users come back with the time since when they are there, and so to their
// places in the roster; name and metadata are those of Lost only for a user who is not
// there.
//
// The result has one error for each connection: nil when it is there again,
// [presence.ErrSuperseded] when another generation has it,
// [presence.ErrRemoved] when its user was removed since,
// [presence.ErrRoomFull] and [presence.ErrFull] when a limit is reached, or
// [presence.ErrUnavailable], after which Restore may be repeated.
func (s *Store) Restore(ctx context.Context, room string, lost []Lost) (birth string, errs []error) {
	errs = make([]error, len(lost))
	var calls []*call
	for start := 0; start < len(lost); start += BatchSize {
		part := lost[start:min(start+BatchSize, len(lost))]
		args := append(s.args(room, 2+joinStride*len(part)), "restore", s.opts.MaxMembers)
		for _, l := range part {
			ttl := l.TTL
			if ttl == 0 {
				ttl = s.opts.MemberTTL
			}
			args = joinArgs(args, l.Connection, ttl, false, false)
		}
		c := s.roomCall(joinScript, room, args)
		c.keys = append(c.keys, s.keys.removed(room))
		calls = append(calls, c)
	}
	s.run(ctx, calls...)
	for i, c := range calls {
		part := errs[i*BatchSize : min((i+1)*BatchSize, len(lost))]
		outcomes := make([]result, len(part))
		joined(c, outcomes)
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

// joinStride is how many arguments of the join script belong to one connection.
const joinStride = 7

// joinArgs appends those of c.
func joinArgs(args []any, c presence.Connection, ttl time.Duration, name, meta bool) []any {
	since := any("")
	if c.User.Since > 0 {
		since = c.User.Since
	}
	return append(args, c.ID, c.Generation, ttl.Milliseconds(), c.User.ID, since, sign(name)+c.User.Name, sign(meta)+c.User.Meta)
}

// sign says whether what follows is the user's from now on.
func sign(set bool) string {
	if set {
		return "="
	}
	return "?"
}

// joinCall is one call of the join script for ops, which are of one kind and room.
func (s *Store) joinCall(how string, ops []*op) *call {
	args := append(s.args(ops[0].room, 2+joinStride*len(ops)), how, s.opts.MaxMembers)
	for _, o := range ops {
		args = joinArgs(args, o.conn, o.ttl, o.name, o.meta)
	}
	return s.roomCall(joinScript, ops[0].room, args)
}

// joined reads the reply of the join script into one result for each connection.
func joined(c *call, results []result) {
	err := c.err
	if err == nil {
		r := replyOf(c.reply)
		occupancy, birth := r.occupancy()
		for i := range results {
			results[i] = joinOutcome(r)
			results[i].held.Occupancy, results[i].held.Birth = occupancy, birth
		}
		err = r.err
	}
	if err != nil {
		for i := range results {
			results[i] = result{err: err}
		}
	}
}

// joinOutcome reads what became of one connection. Its user's id is the caller's to
// add.
func joinOutcome(r *reply) (out result) {
	outcome, generation, value := r.int(), r.text(), r.text()
	switch {
	case r.err != nil:
		return result{err: r.err}
	case outcome == 0:
		out.err = presence.ErrRoomFull
	case outcome == -1:
		out.err = presence.ErrSuperseded
	case outcome == -2:
		out.err = presence.ErrFull
	case outcome == -3:
		out.err = presence.ErrRemoved
	default:
		out.held.Came = outcome == 1
		out.held.Connection.Generation = generation
		out.held.Connection.User, out.err = parseUser("?", value)
	}
	return out
}

// pairsCall is one call of a script that takes id and generation of each connection.
func (s *Store) pairsCall(script script, room string, conns []presence.Connection, own ...any) *call {
	args := append(s.args(room, len(own)+2*len(conns)), own...)
	for _, c := range conns {
		args = append(args, c.ID, c.Generation)
	}
	return s.roomCall(script, room, args)
}

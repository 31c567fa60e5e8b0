package store

import (
	"context"
	"fmt"
	"strings"

	"presence/internal/presence"
)

// Join makes conn.User present in room through conn, and returns the room's
// occupancy afterwards. A connection that is there already is renewed; one that
// joined as another user before leaves as that user.
//
// The error wraps [presence.ErrRoomFull] or [presence.ErrTooManyRooms] when a
// limit is reached, [presence.ErrFull] when Redis is full, and
// [presence.ErrDamaged] when the room is. With [presence.ErrUnavailable] nothing is known of whether
// the join took place: it may be repeated, or undone with Leave.
func (s *Store) Join(ctx context.Context, room string, conn presence.Connection) (presence.Occupancy, error) {
	r, err := s.do(ctx, &op{kind: opJoin, room: room, conn: conn})
	if err != nil {
		return presence.Occupancy{}, fmt.Errorf("join %s: %w", room, err)
	}
	return r.occupancy, nil
}

// Resume passes the connection id, if it is in room, to generation, and returns
// its user. Nobody sees a change. Without such a connection found is false.
//
// After [presence.ErrUnavailable] nothing is known; it may be repeated.
func (s *Store) Resume(ctx context.Context, room, id, generation string) (user presence.User, found bool, err error) {
	r, err := s.do(ctx, &op{kind: opResume, room: room, conn: presence.Connection{ID: id, Generation: generation}})
	if err != nil {
		return presence.User{}, false, fmt.Errorf("resume in %s: %w", room, err)
	}
	return r.user, r.found, nil
}

// Leave ends the connection id in room at once. With a generation only that one
// is ended, with "" whichever has the connection now. It is no error when it
// was not there. The result is the room's occupancy afterwards.
//
// After [presence.ErrUnavailable] Leave may be repeated.
func (s *Store) Leave(ctx context.Context, room, id, generation string) (presence.Occupancy, error) {
	r, err := s.do(ctx, &op{kind: opLeave, room: room, conn: presence.Connection{ID: id, Generation: generation}})
	if err != nil {
		return presence.Occupancy{}, fmt.Errorf("leave %s: %w", room, err)
	}
	return r.occupancy, nil
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

// Restore puts back connections of one room that Redis lost, or whose last socket
// is gone. roster is the room's as it was shown last: its users, if they are to
// come back, do so in its order and before all others, on whichever replica each
// of them is.
//
// The result has one error for each connection: nil when it is there again,
// [presence.ErrSuperseded] when another generation has it,
// [presence.ErrRoomFull], or [presence.ErrUnavailable], after which Restore may be
// repeated.
func (s *Store) Restore(ctx context.Context, room string, conns []presence.Connection, roster []presence.User) []error {
	errs := make([]error, len(conns))
	places := make(map[string]int, len(roster))
	for i, user := range roster {
		places[user.ID] = i + 1
	}
	var calls []*call
	for start := 0; start < len(conns); start += BatchSize {
		calls = append(calls, s.joinCall(room, conns[start:min(start+BatchSize, len(conns))], places))
	}
	s.run(ctx, calls...)
	for i, c := range calls {
		part := errs[i*BatchSize : min((i+1)*BatchSize, len(conns))]
		_, outcomes, err := changed(c, len(part))
		for j := range part {
			if err != nil {
				part[j] = err
			} else {
				part[j] = joinOutcome(outcomes[j])
			}
		}
	}
	return errs
}

// joinCall is one call of the join script. With places, which may be empty but not
// nil, it restores.
func (s *Store) joinCall(room string, conns []presence.Connection, places map[string]int) *call {
	args := s.changing(room, 3+5*len(conns))
	restore := 0
	if places != nil {
		restore = 1
	}
	args = append(args, s.opts.MemberTTL.Milliseconds(), s.opts.MaxMembers, restore)
	for _, c := range conns {
		args = append(args, c.ID, c.Generation, c.User.ID, c.User.Name)
		if places != nil {
			args = append(args, places[c.User.ID])
		}
	}
	return &call{script: joinScript, keys: s.keys.room(room), args: args}
}

// leaveCall is one call of the leave script.
func (s *Store) leaveCall(room string, conns []presence.Connection) *call {
	args := s.changing(room, 2*len(conns))
	return &call{script: leaveScript, keys: s.keys.room(room), args: pairs(args, conns)}
}

// resumeCall is one call of the resume script.
func (s *Store) resumeCall(room string, conns []presence.Connection) *call {
	args := append(make([]any, 0, 2+2*len(conns)), s.keyTTL(), s.opts.MemberTTL.Milliseconds())
	return &call{script: resumeScript, keys: s.keys.room(room), args: pairs(args, conns)}
}

// releaseCall is one call of the release script.
func (s *Store) releaseCall(room string, conns []presence.Connection) *call {
	args := append(make([]any, 0, 2+2*len(conns)), s.keyTTL(), s.opts.LeaveGrace.Milliseconds())
	return &call{script: releaseScript, keys: s.keys.room(room), args: pairs(args, conns)}
}

// pairs appends id and generation of each connection.
func pairs(args []any, conns []presence.Connection) []any {
	for _, c := range conns {
		args = append(args, c.ID, c.Generation)
	}
	return args
}

// changed reads the reply of a join or leave of n connections.
func changed(c *call, n int) (presence.Occupancy, []int64, error) {
	if c.err != nil {
		return presence.Occupancy{}, nil, c.err
	}
	list, err := ints(c.reply, 3+n)
	if err != nil {
		return presence.Occupancy{}, nil, fmt.Errorf("%s: %w", c.script.name, err)
	}
	return occupancy(list), list[3:], nil
}

// joinOutcome turns the join script's outcome for one connection into an error.
func joinOutcome(outcome int64) error {
	switch outcome {
	case 1:
		return nil
	case 0:
		return presence.ErrRoomFull
	default:
		return presence.ErrSuperseded
	}
}

// parseUser reads "<user id> <name>".
func parseUser(s string) (presence.User, bool) {
	id, name, ok := strings.Cut(s, " ")
	return presence.User{ID: id, Name: name}, ok
}

package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"presence/internal/presence"
)

// Picked is the result of looking for some users in a room.
type Picked struct {
	presence.Occupancy

	// Birth is the birth of the room's data; "" when there are none.
	Birth string

	// Members are the users who are present, in the order in which the caller listed
	// them.
	Members []presence.Member

	// Err is why the room was perhaps not read.
	Err error
}

// Pick reads the numbers of each room, and which of users are in it, in one round trip.
// users may have at most BatchSize entries. The results are in the order of rooms.
func (s *Store) Pick(ctx context.Context, users []string, rooms ...string) []Picked {
	calls := make([]*call, len(rooms))
	for i, room := range rooms {
		args := s.args(room, len(users))
		for _, user := range users {
			args = append(args, user)
		}
		calls[i] = s.roomCall(pickScript, room, args)
	}
	s.run(ctx, calls...)
	picked := make([]Picked, len(rooms))
	for i, room := range rooms {
		of, c := &picked[i], calls[i]
		if c.err == nil {
			r := replyOf(c.reply)
			of.Occupancy, of.Birth = r.occupancy()
			of.Members, c.err = membersOf(r, users)
		}
		if c.err != nil {
			of.Err = fmt.Errorf("read %s: %w", room, c.err)
		}
	}
	return picked
}

// membersOf reads, for each of users, the value and the number of connections. It leaves
// out users who are not present.
func membersOf(r *reply, users []string) (members []presence.Member, err error) {
	for i := 0; r.more(); i++ {
		value, connections := r.text(), r.int()
		if value == "" {
			continue
		}
		user, err := parseUser(users[i], value)
		if err != nil {
			return nil, err
		}
		members = append(members, presence.Member{User: user, Connections: int(connections)})
	}
	return members, r.err
}

// Cursor is the position at which a scan of a room continues. The zero value is the
// beginning.
type Cursor struct {
	Birth string // birth of the data that the position belongs to
	At    uint64
}

// Scanned is a part of the members of a room.
type Scanned struct {
	presence.Occupancy

	// Members are in no order.
	Members []presence.Member

	// Next is where the scan continues; the zero value after the last part.
	Next Cursor
}

// Scan reads about count members of a room; it may be more, or none. Read one part after
// the other, each from where the last one ended: together they contain all members who
// were present the whole time. If members leave meanwhile, others may appear twice. If
// the room loses its data, the scan begins anew by itself.
func (s *Store) Scan(ctx context.Context, room string, from Cursor, count int) (Scanned, error) {
	c := s.roomCall(scanScript, room, append(s.args(room, 3), from.Birth, strconv.FormatUint(from.At, 10), count))
	if s.run(ctx, c); c.err != nil {
		return Scanned{}, fmt.Errorf("scan %s: %w", room, c.err)
	}
	var out Scanned
	var birth string
	r := replyOf(c.reply)
	out.Occupancy, birth = r.occupancy()
	at, rows := r.text(), r.list()
	for rows.more() {
		id, value, connections := rows.text(), rows.text(), rows.int()
		user, err := parseUser(id, value)
		if err != nil {
			return Scanned{}, fmt.Errorf("scan %s: %w", room, err)
		}
		out.Members = append(out.Members, presence.Member{User: user, Connections: int(connections)})
	}
	next, err := strconv.ParseUint(at, 10, 64)
	if err != nil {
		err = damaged(fmt.Errorf("%w: cursor %q", errReply, at))
	}
	if err = cmp.Or(r.err, rows.err, err); err != nil {
		return Scanned{}, fmt.Errorf("scan %s: %w", room, err)
	}
	if next != 0 {
		out.Next = Cursor{birth, next}
	}
	return out, nil
}

// Changes returns the changes of a room after a version, entry by entry of its log, at
// most limit of them, and the room's present occupancy. told is false if the log can't
// tell, because it does not reach back that far or does not name all users.
func (s *Store) Changes(ctx context.Context, room string, after int64, limit int) (changes []presence.Change, o presence.Occupancy, told bool, err error) {
	c := s.roomCall(changesScript, room, append(s.args(room, 2), after, limit))
	if s.run(ctx, c); c.err != nil {
		return nil, presence.Occupancy{}, false, fmt.Errorf("changes of %s: %w", room, c.err)
	}
	r := replyOf(c.reply)
	o, _ = r.occupancy()
	told = r.int() == 1
	rows := r.list()
	for rows.more() {
		change, err := parseEntry(rows.list())
		if err != nil {
			return nil, presence.Occupancy{}, false, fmt.Errorf("changes of %s: %w", room, err)
		}
		changes = append(changes, change)
	}
	if err = cmp.Or(r.err, rows.err); err != nil {
		return nil, presence.Occupancy{}, false, fmt.Errorf("changes of %s: %w", room, err)
	}
	return changes, o, told, nil
}

const (
	// scanSize is how many connections one call searches for those of a user.
	scanSize = 1000

	// maxScans is how often all connections of a room are searched for a user who keeps
	// coming back.
	maxScans = 3

	// removedFor is how long Redis remembers that a user was removed. It is longer than
	// the longest lease that a program can ask for.
	removedFor = 10 * time.Minute
)

// Remove ends all connections of a user in room with [presence.ReasonRemoved], and
// returns their ids. No replica puts back an older connection of the user, even if Redis
// had lost it. A user who keeps coming back during the call may be present afterwards.
//
// After an error some connections may have ended, and the caller may repeat Remove.
func (s *Store) Remove(ctx context.Context, room, user string) (ended []string, o presence.Occupancy, err error) {
	cursor, left := "0", int64(1)
	for scans := 0; left > 0 && scans < maxScans; {
		args := append(s.args(room, 4), user, cursor, scanSize, removedFor.Milliseconds())
		c := s.roomCall(removeScript, room, args)
		c.keys = append(c.keys, s.keys.removed(room))
		if s.run(ctx, c); c.err != nil {
			return ended, o, fmt.Errorf("remove from %s: %w", room, c.err)
		}
		r := replyOf(c.reply)
		o, _ = r.occupancy()
		cursor, left = r.text(), r.int()
		if r.more() && left == 0 {
			s.metrics.left(presence.ReasonRemoved, 1)
		}
		for r.more() {
			ended = append(ended, r.text())
		}
		if r.err != nil {
			return ended, o, fmt.Errorf("remove from %s: %w", room, r.err)
		}
		if cursor == "0" {
			scans++
		}
	}
	if o.Version > 0 {
		s.note(room, o)
	}
	return ended, o, nil
}

// WasRemoved reports whether a user who has been in room since then (see
// [presence.User].Since) was removed after that, within the last ten minutes.
func (s *Store) WasRemoved(ctx context.Context, room, user string, since int64) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, s.opts.CallTimeout)
	defer cancel()
	version, err := s.rdb.ZScore(ctx, s.keys.removed(room), user).Result()
	if errors.Is(err, redis.Nil) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("removed from %s: %w", room, classify(err))
	}
	return since <= int64(version), nil
}

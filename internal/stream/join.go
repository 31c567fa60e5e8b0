package stream

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"presence/internal/presence"
	"presence/internal/replica"
	"presence/internal/room"
	"presence/internal/store"
)

const (
	// rotation is how long a stream that joins a user lasts at most: a proxy may hide for
	// long that the client is gone. It is up to rotationJitter less.
	rotation       = 5 * time.Minute
	rotationJitter = time.Minute

	// settling is how many members are looked up in Redis at a time.
	settling = 64
)

// seat names a connection in a room.
type seat struct{ room, connection string }

// joined is the member that a stream has joined. It is the member's socket.
type joined struct {
	stream *stream
	room   string
	user   string
	want   store.Wanted

	mu     sync.Mutex      // guards:
	member *replica.Member // nil: Redis could not be asked yet
	at     time.Time       // when it joined
	found  time.Time       // when it was last found not to have been ended
	over   bool
}

func (j *joined) seat() seat { return seat{j.room, j.want.Connection.ID} }

// join makes the user present, and returns the version of the room by which that is so.
func (j *joined) join(ctx context.Context) (int64, error) {
	ss := j.stream.all
	w := j.want
	w.Connection.Generation = presence.NewGeneration() // of a try that may have succeeded, nothing is left
	at := time.Now()
	member, held, err := ss.replica.Attend(ctx, j.room, w, j)
	if err != nil {
		return 0, err
	}
	j.mu.Lock()
	over := j.over
	if !over {
		j.member, j.at = member, at
	}
	j.mu.Unlock()
	if over {
		return 0, ss.replica.Release(member)
	}
	if former := ss.claim(j); former != nil {
		former.stream.finish(Replaced)
	}
	return held.Version, nil
}

// Answered returns when the stream was last found open, and its member not ended by others.
func (j *joined) Answered() time.Time {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.found
}

// Ping has the member looked up in Redis, since the peer of a stream can't answer.
func (j *joined) Ping() error {
	j.stream.all.doubt(j, HasLeft)
	return nil
}

// Ended ends the stream, whose member was removed, or found no place when it was to be put
// back.
func (j *joined) Ended(_ *replica.Member, why error) {
	if errors.Is(why, presence.ErrRemoved) {
		j.stream.finish(Removed)
		return
	}
	j.stream.finish(RoomFull)
}

// end releases the member, which counts for the leave grace, or until its token expires.
func (j *joined) end() {
	j.mu.Lock()
	member := j.member
	j.member, j.over = nil, true
	j.mu.Unlock()
	j.stream.all.unclaim(j)
	if member != nil {
		_ = j.stream.all.replica.Release(member) // else it ends with its lease
	}
}

// settle joins if that could not be done yet, and else finds out what became of the
// member: as is the code if somebody has ended it. The error is that it is not known.
func (j *joined) settle(ctx context.Context, as Code) error {
	j.mu.Lock()
	member, at, over := j.member, j.at, j.over
	j.mu.Unlock()
	rep := j.stream.all.replica
	if over {
		return nil
	}
	if member == nil {
		if err := rep.Trusted(j.room); err != nil {
			return err //nolint:wrapcheck // only that there is one counts
		}
		_, err := j.join(ctx)
		if isLimit(err) {
			j.stream.finish(RoomFull)
			return nil
		}
		return err
	}
	fate, err := rep.Fate(ctx, member, at)
	if err != nil {
		return err //nolint:wrapcheck // only that there is one counts
	}
	switch fate {
	case replica.Replaced:
		j.stream.finish(Replaced)
	case replica.Ended:
		if until := j.want.Connection.Until; !until.IsZero() && !time.Now().Before(until) {
			as = TokenExpired // its lease was no longer
		}
		j.stream.finish(as)
	case replica.Missing:
		j.stream.offer([]byte(keepalive))
		j.mu.Lock()
		j.found = time.Now()
		j.mu.Unlock()
	case replica.Here:
	}
	return nil
}

// doubtMembers has the members of streams looked up whose users view's change names. The
// caller holds f.mu.
func (f *feed) doubtMembers(view room.View) {
	if len(f.members) == 0 || view.Stale {
		return
	}
	doubt := func(user string, as Code) {
		for _, s := range f.members[user] {
			if view.Version >= s.joined {
				f.all.doubt(s.stream.joined, as)
			}
		}
	}
	switch {
	case view.Change != nil:
		for _, l := range view.Change.Left {
			as := HasLeft
			if l.Reason == presence.ReasonRemoved {
				as = Removed
			}
			doubt(l.User, as)
		}
		for _, m := range view.Change.Updated {
			doubt(m.ID, HasLeft)
		}
	case view.Complete(): // of larger rooms the heartbeat tells
		for user := range f.members {
			doubt(user, HasLeft)
		}
	}
}

// claim gives the connection to a joined stream, and returns the stream that had it.
func (ss *Streams) claim(j *joined) (former *joined) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	former = ss.seats[j.seat()]
	ss.seats[j.seat()] = j
	if former == j {
		return nil
	}
	return former
}

// unclaim ends claim.
func (ss *Streams) unclaim(j *joined) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if ss.seats[j.seat()] == j {
		delete(ss.seats, j.seat())
	}
}

// doubt has it found out what became of j: as is the code if somebody has ended it.
func (ss *Streams) doubt(j *joined, as Code) {
	ss.doubtsMu.Lock()
	defer ss.doubtsMu.Unlock()
	if ss.doubts[j] == "" || as == Removed {
		ss.doubts[j] = as
	}
	select {
	case ss.doubtful <- struct{}{}:
	default:
	}
}

// settle finds out what became of those in doubt, until ctx ends.
func (ss *Streams) settle(ctx context.Context) {
	retry := time.NewTicker(time.Second)
	defer retry.Stop()
	for {
		select {
		case <-ss.doubtful:
		case <-retry.C:
		case <-ctx.Done():
			return
		}
		ss.doubtsMu.Lock()
		doubts := ss.doubts
		ss.doubts = map[*joined]Code{}
		ss.doubtsMu.Unlock()
		var g errgroup.Group
		g.SetLimit(settling)
		for j, as := range doubts {
			g.Go(func() error {
				if j.settle(ctx, as) != nil {
					ss.doubtsMu.Lock()
					defer ss.doubtsMu.Unlock()
					ss.doubts[j] = as // until the ticker
				}
				return nil
			})
		}
		_ = g.Wait() // no error leaves a settle
	}
}

// rotate returns when a stream that joins now is to end.
func rotate(now time.Time) time.Time {
	return now.Add(rotation - time.Duration(rand.Int64N(int64(rotationJitter))))
}

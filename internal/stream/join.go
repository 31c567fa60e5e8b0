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
	// rotation is how long a stream that joins a user can last, since a proxy may hide
	// for long that the client is gone. Each stream ends up to rotationJitter earlier.
	rotation       = 5 * time.Minute
	rotationJitter = time.Minute

	// settling is how many members are looked up in Redis at a time.
	settling = 64
)

// seat identifies a connection in a room.
type seat struct{ room, connection string }

// joined is the member that a stream has joined. It is also the socket of the member.
type joined struct {
	stream *stream
	room   string
	user   string
	want   store.Wanted

	mu     sync.Mutex      // guards:
	member *replica.Member // nil: the join has not succeeded yet
	at     time.Time       // when it joined
	found  time.Time       // when a look-up last found that nobody had ended it
	over   bool
}

func (j *joined) seat() seat { return seat{j.room, j.want.Connection.ID} }

// join makes the user present, and returns the version of the room at which that is so.
func (j *joined) join(ctx context.Context) (int64, error) {
	ss := j.stream.all
	w := j.want
	w.Connection.Generation = presence.NewGeneration() // a new one, so that an earlier try which may have succeeded is replaced
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

// Answered returns when a look-up last found that the stream was open and that nobody had
// ended its member.
func (j *joined) Answered() time.Time {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.found
}

// Ping starts a look-up of the member in Redis, since the peer of a stream can't answer.
func (j *joined) Ping() error {
	j.stream.all.doubt(j, HasLeft)
	return nil
}

// Ended ends the stream. Its member was removed, or the room was full when the replica
// wanted to put the member back.
func (j *joined) Ended(_ *replica.Member, why error) {
	if errors.Is(why, presence.ErrRemoved) {
		j.stream.finish(Removed)
		return
	}
	j.stream.finish(RoomFull)
}

// end releases the member, which then counts for the leave grace or until its token
// expires.
func (j *joined) end() {
	j.mu.Lock()
	member := j.member
	j.member, j.over = nil, true
	j.mu.Unlock()
	j.stream.all.unclaim(j)
	if member != nil {
		_ = j.stream.all.replica.Release(member) // after an error it ends with its lease
	}
}

// settle joins the user if that has not succeeded yet. Otherwise it finds out what became
// of the member, and ends the stream if the member has ended: with the code as, if
// somebody ended it. It returns an error if the outcome is not known.
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
			return err //nolint:wrapcheck // only whether there is an error counts
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
		return err //nolint:wrapcheck // only whether there is an error counts
	}
	switch fate {
	case replica.Replaced:
		j.stream.finish(Replaced)
	case replica.Ended:
		if until := j.want.Connection.Until; !until.IsZero() && !time.Now().Before(until) {
			as = TokenExpired // its lease was not to last longer
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

// doubtMembers starts look-ups of the members of streams whose users are named in the
// change of view. The caller holds f.mu.
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
	case view.Complete(): // in larger rooms the heartbeat finds out
		for user := range f.members {
			doubt(user, HasLeft)
		}
	}
}

// claim assigns the connection to the stream of j, and returns the joined stream that had
// it.
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

// unclaim undoes claim.
func (ss *Streams) unclaim(j *joined) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if ss.seats[j.seat()] == j {
		delete(ss.seats, j.seat())
	}
}

// doubt starts a look-up of what became of j. as is the code for the case that somebody
// ended it.
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

// settle looks up the members in doubt, until ctx ends.
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
					ss.doubts[j] = as // the ticker tries again
				}
				return nil
			})
		}
		_ = g.Wait() // none returns an error
	}
}

// rotate returns when a stream that joins now has to end.
func rotate(now time.Time) time.Time {
	return now.Add(rotation - time.Duration(rand.Int64N(int64(rotationJitter))))
}

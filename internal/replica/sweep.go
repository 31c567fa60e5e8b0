package replica

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"presence/internal/presence"
	"presence/internal/store"
)

const (
	// sweepCalls is how many rooms share one round trip.
	sweepCalls = 100

	// maxBusiest is how many rooms are listed for people to go to.
	maxBusiest = 12

	// maxRanked is how many rooms are looked at for that where not all may be listed.
	maxRanked = 1000
)

// sweeper knows when each room has to be looked at next.
//
// A lease can't run out before the earliest deadline that the last look at the
// room found, except those of connections released since, which have the whole
// grace before them: so a look at that deadline, and one a grace, is enough, and
// misses nothing. A lease that is shorter than the grace calls soon.
type sweeper struct {
	tick time.Duration // precision
	look time.Duration // between two looks at the list of rooms

	// Owned by runSweep.
	due    map[string]time.Time
	listed time.Time

	mu      sync.Mutex // guards:
	busiest []store.RoomCount
	sooner  map[string]time.Time // rooms to look at before they are due
}

func newSweeper(o Options) *sweeper {
	tick := min(250*time.Millisecond, o.MemberTTL/40)
	return &sweeper{tick: tick, look: min(8*tick, 2*time.Second), due: map[string]time.Time{}, sooner: map[string]time.Time{}}
}

// soon has room looked at when a lease ends there that lasts that long from now.
func (s *sweeper) soon(room string, lease time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := time.Now().Add(lease)
	if known, ok := s.sooner[room]; !ok || at.Before(known) {
		s.sooner[room] = at
	}
}

// hurry takes over what soon has noted.
func (s *sweeper) hurry() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for room, at := range s.sooner {
		if due, ok := s.due[room]; !ok || at.Before(due) {
			s.due[room] = at
		}
	}
	clear(s.sooner)
}

// Busiest lists the rooms with the most users, as they were a few seconds ago, the largest
// first. Empty ones are left out.
func (r *Replica) Busiest() []store.RoomCount {
	r.sweeper.mu.Lock()
	defer r.sweeper.mu.Unlock()
	return r.sweeper.busiest
}

// runSweep sweeps what is due until ctx ends.
func (r *Replica) runSweep(ctx context.Context) error {
	tick := time.NewTicker(r.sweeper.tick)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			r.sweepOnce(ctx)
		case <-ctx.Done():
			return nil
		}
	}
}

// sweepOnce sweeps all rooms in which a lease may have run out.
func (r *Replica) sweepOnce(ctx context.Context) {
	s := r.sweeper
	since, held, sweep := r.link.held()
	if !sweep {
		return
	}
	if !held {
		since = store.NotHeld
	}
	now := time.Now()
	if now.Sub(s.listed) >= s.look {
		rooms, err := r.store.Rooms(ctx)
		if err != nil && r.roomFailed(ctx, "", err) {
			return
		}
		s.listed = now
		s.list(rooms, err != nil || held)
		r.troubles.keep(s.due)
		r.rankOnce(ctx)
	}
	s.hurry()
	var rooms []string
	for room, at := range s.due {
		if !at.After(now) {
			rooms = append(rooms, room)
		}
	}
	for start := 0; start < len(rooms); start += sweepCalls {
		if !r.sweepRooms(ctx, rooms[start:min(start+sweepCalls, len(rooms))], since) {
			return
		}
	}
}

// rankOnce looks up the busiest rooms.
func (r *Replica) rankOnce(ctx context.Context) {
	busiest, err := r.busiest(ctx)
	if err != nil {
		r.roomFailed(ctx, "", err)
		return
	}
	r.sweeper.mu.Lock()
	defer r.sweeper.mu.Unlock()
	r.sweeper.busiest = busiest
}

// busiest reads the busiest of the rooms that may be listed. What it returns does not
// depend on others: where these are not all rooms, it looks at the first of them by name.
func (r *Replica) busiest(ctx context.Context) ([]store.RoomCount, error) {
	if r.opts.Listed == nil || r.opts.Listed.All() {
		return r.store.Busiest(ctx, maxBusiest) //nolint:wrapcheck // says what was tried
	}
	var rooms []store.RoomCount
	for after := ""; len(rooms) < maxRanked; {
		more, next, err := r.store.List(ctx, r.opts.Listed, after, maxRanked-len(rooms))
		if err != nil {
			return nil, err //nolint:wrapcheck // likewise
		}
		rooms = append(rooms, more...)
		if after = next; next == "" {
			break
		}
	}
	slices.SortStableFunc(rooms, func(a, b store.RoomCount) int { return cmp.Compare(b.Users, a.Users) })
	return slices.Clone(rooms[:min(len(rooms), maxBusiest)]), nil
}

// list takes over the list of rooms in use. Those that are not on it are forgotten,
// or kept while the list is not known to be whole.
func (s *sweeper) list(rooms []string, keep bool) {
	due := make(map[string]time.Time, len(rooms))
	if keep {
		due = s.due
	}
	for _, room := range rooms {
		due[room] = s.due[room] // zero for a new one: at once
	}
	s.due = due
}

// sweepRooms sweeps rooms, again and again where there is more to remove than
// one call may, and reports whether Redis answered.
func (r *Replica) sweepRooms(ctx context.Context, rooms []string, since time.Duration) bool {
	s := r.sweeper
	var empty []string
	for len(rooms) > 0 {
		var more []string
		for i, swept := range r.store.Sweep(ctx, rooms, since, r.link.visits()) {
			room := rooms[i]
			if swept.Err != nil {
				if !errors.Is(swept.Err, presence.ErrUnavailable) {
					r.sweptRoom(room, false)
				}
				if r.roomFailed(ctx, room, swept.Err) {
					return false
				}
				s.due[room] = time.Now().Add(r.opts.LeaveGrace)
				continue
			}
			r.Saw(ctx, room, swept.Birth)
			r.sweptRoom(room, true)
			r.metrics.swept.Add(float64(swept.RemovedConnections))
			wait := min(swept.Next, r.opts.LeaveGrace)
			switch {
			case swept.Next < 0:
				empty = append(empty, room)
				wait = r.opts.LeaveGrace
			case swept.RemovedConnections+swept.Spared == store.BatchSize:
				more = append(more, room)
			}
			s.due[room] = time.Now().Add(max(wait, s.tick))
		}
		rooms = more
	}
	if len(empty) > 0 {
		if err := r.store.Forget(ctx, empty...); err != nil {
			return !r.roomFailed(ctx, "", err)
		}
	}
	return true
}

// sweptRoom notes whether a room could be swept. While it can't be, what Redis has
// of it may be wrong, and those who look are told so.
func (r *Replica) sweptRoom(room string, ok bool) {
	if r.troubles.sweep(room, ok) {
		r.views.Reread(room)
	}
}

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
	// sweepCalls is how many rooms share one round trip of sweeps, and lookCalls of looks.
	sweepCalls = 100
	lookCalls  = 1000

	// maxBusiest is how many of the busiest rooms pages list.
	maxBusiest = 12

	// maxRanked is how many rooms are ranked for that list where not all are public.
	maxRanked = 1000
)

// late is how long after a lease's end any other replica sweeps the room, if the replica
// to which the room belongs has not.
const late = 500 * time.Millisecond

// sweeper knows when each room has to be looked at next.
//
// A lease can't run out before the earliest deadline that the last look at the
// room found, except those of connections released since, which have the whole
// grace before them: so a look at that deadline, and one a grace, is enough, and
// misses nothing. A lease that is shorter than the grace calls soon. Where a look finds
// that a lease is over the room is swept; it is also swept once a member TTL, since that
// audits it.
//
// All replicas look, which is cheap. The replica to which the room belongs sweeps; the
// others sweep when it is late.
type sweeper struct {
	tick  time.Duration // precision
	look  time.Duration // between two looks at the list of rooms
	audit time.Duration // between two sweeps of a room in which no lease is over

	// Owned by runSweep.
	due    map[string]*visit
	listed time.Time

	mu      sync.Mutex // guards:
	busiest []store.RoomCount
	stepped map[*link]bool       // their clocks
	sooner  map[string]time.Time // rooms to look at before they are due
}

// visit is when a room is to be looked at, and what is known of it from the last time.
type visit struct {
	at    time.Time // when to look next
	audit time.Time // when to sweep, whatever a look finds
	ahead offset    // of the Redis that has the room
	used  bool      // somebody is in it
	clamp bool      // leases may end later than any should

	mine       bool // the room belongs to this replica, among
	generation int  // this set of replicas that sweep
}

func newSweeper(o Options) *sweeper {
	tick := min(250*time.Millisecond, o.MemberTTL/40)
	return &sweeper{
		tick: tick, look: min(8*tick, 2*time.Second), audit: o.MemberTTL,
		due: map[string]*visit{}, stepped: map[*link]bool{}, sooner: map[string]time.Time{},
	}
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

// unsure has all rooms of a node looked after anew, as its clock was stepped.
func (s *sweeper) unsure(l *link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stepped[l] = true
}

// hurry takes over the notes of soon and unsure.
func (s *sweeper) hurry(of func(room string) *link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.stepped) > 0 {
		for room, v := range s.due {
			if s.stepped[of(room)] {
				*v = visit{clamp: true, used: v.used}
			}
		}
		clear(s.stepped)
	}
	for room, at := range s.sooner {
		if v := s.due[room]; v == nil {
			s.due[room] = &visit{at: at}
		} else if at.Before(v.at) {
			v.at = at
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
			if r.links.of("").ready() == nil {
				// The others sweep its rooms at once. If this fails, they sweep late.
				_ = r.store.Depart(context.WithoutCancel(ctx), r.peers.id)
			}
			return nil
		}
	}
}

// round is what is to be done to rooms of one node.
type round struct{ looks, sweeps, clamped []string }

// sweepOnce sweeps the rooms in which a lease has run out.
func (r *Replica) sweepOnce(ctx context.Context) {
	s := r.sweeper
	works, sweeps, whole := false, false, true
	for _, l := range r.links.all() {
		_, held, sweep := l.held()
		works, sweeps, whole = works || sweep, sweeps || sweep && !held, whole && sweep && !held
	}
	if !works {
		return
	}
	r.announceOnce(ctx, sweeps)
	now := time.Now()
	if now.Sub(s.listed) >= s.look {
		rooms, err := r.store.Rooms(ctx)
		if err != nil && r.roomFailed(ctx, "", err) {
			if !r.store.Clustered() {
				return
			}
			rooms = r.localRooms() // other nodes have rooms still
		}
		s.listed = now
		s.list(rooms, err != nil || !whole)
		r.troubles.keep(func(room string) bool { return s.due[room] != nil })
		r.rankOnce(ctx)
	}
	s.hurry(r.links.of)
	rounds := map[*link]*round{}
	for room, v := range s.due {
		if v.at.After(now) {
			continue
		}
		l := r.links.of(room)
		todo := rounds[l]
		if todo == nil {
			todo = &round{}
			rounds[l] = todo
		}
		switch {
		case v.clamp:
			todo.clamped = append(todo.clamped, room)
		case r.mine(room, v) && (!v.audit.After(now) || v.clock(l) == 0):
			todo.sweeps = append(todo.sweeps, room)
		default:
			todo.looks = append(todo.looks, room)
		}
	}
	var nodes sync.WaitGroup // which do not wait for each other
	for l, todo := range rounds {
		if len(rounds) == 1 {
			r.sweepNode(ctx, l, todo)
			return
		}
		nodes.Go(func() { r.sweepNode(ctx, l, todo) })
	}
	nodes.Wait()
}

// sweepNode does what is to be done to rooms of one node.
func (r *Replica) sweepNode(ctx context.Context, l *link, todo *round) {
	since, held, sweep := l.held()
	if !sweep {
		return
	}
	sweeps := todo.sweeps
	for part := range slices.Chunk(todo.looks, lookCalls) {
		over, ok := r.lookAt(ctx, l, part)
		if !ok {
			return
		}
		sweeps = append(sweeps, over...)
	}
	terms := store.Terms{Held: held, Since: since, Visits: l.visits(), Brake: l.brakes() > 0, Clamp: true}
	for part := range slices.Chunk(todo.clamped, sweepCalls) {
		if !r.sweepRooms(ctx, l, part, terms) {
			return
		}
	}
	terms.Clamp = false
	for part := range slices.Chunk(sweeps, sweepCalls) {
		if !r.sweepRooms(ctx, l, part, terms) {
			return
		}
	}
}

// localRooms lists the rooms of which members or connections without a socket are known here.
func (r *Replica) localRooms() []string { return append(r.members.localRooms(), r.puts.inRooms()...) }

// mine reports whether room belongs to this replica.
func (r *Replica) mine(room string, v *visit) bool {
	if v.generation != r.peers.generation {
		v.mine, v.generation = r.peers.sweeps(room), r.peers.generation
	}
	return v.mine
}

// clock is what the clock of the room's Redis should show now, in ms; 0 where that is not
// known. What is known of the room itself is better than what probes told of its node.
func (v *visit) clock(l *link) int64 {
	if v.ahead != 0 {
		return clock() + int64(v.ahead)
	}
	return l.clock()
}

// lookAt looks when the next lease ends in each room, and returns those that are to be
// swept now. ok is false if Redis did not answer.
func (r *Replica) lookAt(ctx context.Context, l *link, rooms []string) (over []string, ok bool) {
	for i, looked := range r.store.Look(ctx, rooms) {
		room := rooms[i]
		if looked.Err != nil {
			if r.roomFailed(ctx, room, looked.Err) {
				return nil, false
			}
			over = append(over, room) // finds out what is wrong
			continue
		}
		v := r.sweeper.due[room]
		mine, now := r.mine(room, v), v.clock(l)
		left := time.Duration(looked.First-now) * time.Millisecond
		patience := late
		if mine {
			patience = 0
		}
		v.used = looked.First > 0
		switch {
		case now == 0, mine && !v.used, v.used && left+patience <= 0:
			over = append(over, room)
			continue
		case !v.used:
			left = r.opts.LeaveGrace
		}
		v.at = time.Now().Add(max(min(left, r.opts.LeaveGrace)+patience, r.sweeper.tick))
	}
	return over, true
}

// rankOnce looks up the busiest rooms.
func (r *Replica) rankOnce(ctx context.Context) {
	busiest, err := r.busiest(ctx)
	if err != nil {
		r.roomFailed(ctx, "", err)
		return
	}
	if len(busiest) == 0 {
		if noted, err := r.store.Busiest(ctx, 1); err == nil && len(noted) == 0 {
			r.sweeper.auditUsed() // the index may have been lost
		}
	}
	r.sweeper.mu.Lock()
	defer r.sweeper.mu.Unlock()
	r.sweeper.busiest = busiest
}

// busiest reads the busiest of the public rooms. The result does not depend on other
// rooms: where not all rooms are public, it ranks the first public ones by name.
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

// auditUsed has all rooms with users swept, which also notes their numbers in the index.
func (s *sweeper) auditUsed() {
	for _, v := range s.due {
		if v.used {
			v.at, v.audit = time.Time{}, time.Time{}
		}
	}
}

// list takes over the list of rooms in use. Those that are not on it are forgotten,
// or kept while the list is not known to be whole.
func (s *sweeper) list(rooms []string, keep bool) {
	due := make(map[string]*visit, len(rooms))
	if keep {
		due = s.due
	}
	for _, room := range rooms {
		if due[room] = s.due[room]; due[room] == nil {
			due[room] = &visit{} // at once
		}
	}
	s.due = due
}

// sweepRooms sweeps rooms, again and again where there is more to remove than
// one call may, and reports whether Redis answered.
func (r *Replica) sweepRooms(ctx context.Context, l *link, rooms []string, terms store.Terms) bool {
	s := r.sweeper
	var empty []string
	stepped := false // the clock of Redis
	for len(rooms) > 0 {
		var more []string
		terms.Expected = make([]int64, len(rooms))
		for i, room := range rooms {
			terms.Expected[i] = s.due[room].clock(l)
		}
		// After that: a probe may just have found that the clock was stepped.
		if since, held, _ := l.held(); held {
			terms.Held, terms.Since = true, since
		}
		asked, before := time.Now(), clock()
		results := r.store.Sweep(ctx, rooms, terms)
		after := clock()
		for i, swept := range results {
			room := rooms[i]
			v := s.due[room]
			if swept.Err != nil {
				if !errors.Is(swept.Err, presence.ErrUnavailable) {
					r.sweptRoom(room, false)
				}
				if r.roomFailed(ctx, room, swept.Err) {
					return false
				}
				v.at, v.audit = time.Now().Add(r.opts.LeaveGrace), time.Time{}
				continue
			}
			r.Saw(ctx, room, swept.Birth, asked)
			r.sweptRoom(room, true)
			known := v.ahead != 0
			ahead, step := v.ahead.sees(swept.Now, before, after)
			v.ahead, v.used = ahead, swept.Next >= 0
			if swept.Stepped {
				v.at = time.Now().Add(s.tick) // the call was late
				if !known {
					// Another node's clock was expected. A probe has the time to say
					// whether that one was stepped.
					v.at = time.Now().Add(2 * l.probe)
				}
				stepped = stepped || step != 0
				continue
			}
			v.clamp = false
			r.metrics.swept.Add(float64(swept.RemovedConnections))
			wait := min(swept.Next, r.opts.LeaveGrace)
			switch {
			case swept.Next < 0:
				empty = append(empty, room)
				wait = r.opts.LeaveGrace
			case swept.Braked:
				r.metrics.braked.Inc()
				wait = l.brakes()
			case swept.RemovedConnections+swept.Spared == store.SweepSize:
				more = append(more, room)
			}
			v.at, v.audit = time.Now().Add(max(wait, s.tick)), time.Now().Add(s.audit)
		}
		if stepped {
			r.probeOnce(ctx, l)
			if !l.unsteady() {
				l.unsettle() // the rooms came from a node with another clock
				r.stepped(ctx, l, 0)
			}
			return false
		}
		rooms = more
	}
	if len(empty) > 0 {
		if err := r.store.Forget(ctx, empty...); err != nil {
			return !r.roomFailed(ctx, "", err) || r.store.Clustered()
		}
	}
	return true
}

// sweptRoom notes whether a room could be swept. While it can't be, its data in Redis may
// be wrong, and its viewers see it marked stale.
func (r *Replica) sweptRoom(room string, ok bool) {
	if r.troubles.sweep(room, ok) {
		r.views.Reread(room)
	}
}

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
	// sweepCalls is how many rooms are swept in one round trip, and lookCalls how many
	// are looked at in one.
	sweepCalls = 100
	lookCalls  = 1000

	// sweepTurn is how long rooms with much to remove may be swept again and again. Other
	// rooms wait meanwhile, and so do the announcements of this replica.
	sweepTurn = time.Second

	// maxBusiest is how many of the busiest rooms pages list.
	maxBusiest = 12

	// maxRanked is how many public rooms are ranked for that list when not all rooms are
	// public.
	maxRanked = 1000
)

// late is how long after a lease's end any other replica sweeps the room, if the replica
// to which the room belongs has not done so.
const late = 500 * time.Millisecond

// sweeper knows when each room has to be looked at next.
//
// A look finds the earliest deadline of the room. Until then no lease can run out, except
// those of connections that are released after the look, and these have the whole grace
// left. So it misses nothing to look again at that deadline, or a grace after the last
// look. The replica that takes a lease shorter than the grace calls soon. When a look
// finds that a lease has ended, the room is swept. Each room is also swept once each
// member TTL, because a sweep audits it.
//
// All replicas look, which is cheap. The replica to which the room belongs sweeps; the
// others sweep only when it is late.
type sweeper struct {
	tick  time.Duration // between two passes over the rooms that are due
	look  time.Duration // between two reads of the list of rooms
	audit time.Duration // between two sweeps of a room in which no lease has ended

	// Owned by runSweep.
	due    map[string]*visit
	listed time.Time

	mu      sync.Mutex // guards:
	busiest []store.RoomCount
	stepped map[*link]bool       // nodes whose clocks were stepped
	sooner  map[string]time.Time // rooms to look at before they are due
}

// visit is when a room has to be looked at next, and what the last visit found.
type visit struct {
	at    time.Time // when to look next
	audit time.Time // when to sweep in any case
	ahead offset    // how far the clock of the room's node is ahead of ours
	used  bool      // somebody is in the room
	amiss bool      // it is not on the list of rooms in use, though somebody was in it
	clamp bool      // leases may end too late, since the clock was stepped

	mine       bool // the room belongs to this replica
	generation int  // peers.generation for which mine was computed
}

func newSweeper(o Options) *sweeper {
	tick := min(250*time.Millisecond, o.MemberTTL/40)
	return &sweeper{
		tick: tick, look: min(8*tick, 2*time.Second), audit: o.MemberTTL,
		due: map[string]*visit{}, stepped: map[*link]bool{}, sooner: map[string]time.Time{},
	}
}

// soon makes the sweeper look at room when a lease of this duration, which begins now,
// ends.
func (s *sweeper) soon(room string, lease time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := time.Now().Add(lease)
	if known, ok := s.sooner[room]; !ok || at.Before(known) {
		s.sooner[room] = at
	}
}

// unsure makes the sweeper visit all rooms of a node anew, because the node's clock was
// stepped.
func (s *sweeper) unsure(l *link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stepped[l] = true
}

// hurry applies what soon and unsure have noted.
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

// Busiest lists the rooms with the most users, as they were a few seconds ago, the
// largest first. It leaves out empty rooms.
func (r *Replica) Busiest() []store.RoomCount {
	r.sweeper.mu.Lock()
	defer r.sweeper.mu.Unlock()
	return r.sweeper.busiest
}

// runSweep sweeps the rooms that are due, until ctx ends.
func (r *Replica) runSweep(ctx context.Context) error {
	tick := time.NewTicker(r.sweeper.tick)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			r.sweepOnce(ctx)
		case <-ctx.Done():
			if r.links.of("").ready() == nil {
				// The other replicas then sweep our rooms at once. If this call fails,
				// they sweep them late.
				_ = r.store.Depart(context.WithoutCancel(ctx), r.peers.id)
			}
			return nil
		}
	}
}

// round is the work to do for rooms of one node.
type round struct{ looks, sweeps, clamped []string }

// sweepOnce looks at the rooms that are due, and sweeps those in which a lease has run
// out.
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
			rooms = r.localRooms() // the other nodes still have rooms
		}
		s.listed = now
		if amiss := s.list(rooms, err != nil || !whole); len(amiss) > 0 {
			if err := r.store.Keep(ctx, amiss...); err != nil {
				r.roomFailed(ctx, "", err) // the next look finds them again
			}
		}
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
	var nodes sync.WaitGroup // the nodes do not wait for each other
	for l, todo := range rounds {
		if len(rounds) == 1 {
			r.sweepNode(ctx, l, todo)
			return
		}
		nodes.Go(func() { r.sweepNode(ctx, l, todo) })
	}
	nodes.Wait()
}

// sweepNode does the work for rooms of one node.
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
	if r.sweepRooms(ctx, l, todo.clamped, terms) {
		terms.Clamp = false
		r.sweepRooms(ctx, l, sweeps, terms)
	}
}

// sweepRooms sweeps rooms, and reports whether Redis answered. A room that has more to
// remove than one call may remove waits for all others, and is then swept again, until
// the turn is over. What is left is due at the next tick.
func (r *Replica) sweepRooms(ctx context.Context, l *link, rooms []string, terms store.Terms) bool {
	for began := time.Now(); len(rooms) > 0; {
		part := rooms[:min(len(rooms), sweepCalls)]
		more, ok := r.sweepPart(ctx, l, part, terms)
		if !ok {
			return false
		}
		if rooms = rooms[len(part):]; time.Since(began) < sweepTurn {
			rooms = append(rooms, more...)
		}
	}
	return true
}

// localRooms lists the rooms in which this replica has members or connections without a
// socket.
func (r *Replica) localRooms() []string { return append(r.members.localRooms(), r.puts.inRooms()...) }

// mine reports whether room belongs to this replica.
func (r *Replica) mine(room string, v *visit) bool {
	if v.generation != r.peers.generation {
		v.mine, v.generation = r.peers.sweeps(room), r.peers.generation
	}
	return v.mine
}

// clock returns what the clock of the room's Redis shows now, in ms; 0 if that is not
// known. The room's own offset is more reliable than the one that probes found for its
// node.
func (v *visit) clock(l *link) int64 {
	if v.ahead != 0 {
		return clock() + int64(v.ahead)
	}
	return l.clock()
}

// lookAt finds when the next lease ends in each room, and returns the rooms to sweep now.
// ok is false if Redis did not answer.
func (r *Replica) lookAt(ctx context.Context, l *link, rooms []string) (over []string, ok bool) {
	for i, looked := range r.store.Look(ctx, rooms) {
		room := rooms[i]
		if looked.Err != nil {
			if r.roomFailed(ctx, room, looked.Err) {
				return nil, false
			}
			over = append(over, room) // the sweep finds out what is wrong
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

// busiest reads the busiest of the public rooms. The result does not depend on rooms that
// are not public: unless all rooms are, it ranks the first maxRanked public ones by name.
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

// auditUsed makes all rooms with users be swept now. A sweep also notes their numbers in
// the index.
func (s *sweeper) auditUsed() {
	for _, v := range s.due {
		if v.used {
			v.at, v.audit = time.Time{}, time.Time{}
		}
	}
}

// list takes over the list of rooms in use. It forgets rooms that are not on the list,
// unless keep says that the list may be incomplete. But when the last look at such a room
// found somebody there, list has the room looked at once more. It returns the rooms in which
// somebody still was then: Redis has lost them from the list, and perhaps no other replica
// knows them.
func (s *sweeper) list(rooms []string, keep bool) (amiss []string) {
	due := make(map[string]*visit, len(rooms))
	if keep {
		due = s.due
	}
	for _, room := range rooms {
		if due[room] = s.due[room]; due[room] == nil {
			due[room] = &visit{} // look at once
		}
		due[room].amiss = false
	}
	for room, v := range s.due {
		if due[room] != nil || !v.used {
			continue
		}
		if v.amiss {
			amiss = append(amiss, room)
		}
		v.at, v.amiss = time.Time{}, true
		due[room] = v
	}
	s.due = due
	return amiss
}

// sweepPart sweeps rooms in one round trip. It returns those that have more to remove, and
// reports whether Redis answered.
func (r *Replica) sweepPart(ctx context.Context, l *link, rooms []string, terms store.Terms) (more []string, ok bool) {
	s := r.sweeper
	var empty []string
	stepped := false // whether the clock of Redis was
	terms.Expected = make([]int64, len(rooms))
	for i, room := range rooms {
		terms.Expected[i] = s.due[room].clock(l)
	}
	// Ask this after computing the clocks: a probe may just have found that the clock
	// was stepped.
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
				return nil, false
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
			v.at = time.Now().Add(s.tick) // perhaps only the call was late
			if !known {
				// The sweep expected the clock of another node. Wait until a probe
				// has had the time to say whether this node's clock was stepped.
				v.at = time.Now().Add(2 * l.probe)
			}
			stepped = stepped || step != 0
			continue
		}
		r.metrics.swept.Add(float64(swept.RemovedConnections))
		wait, clamp := min(swept.Next, r.opts.LeaveGrace), false
		switch {
		case swept.Next < 0:
			empty = append(empty, room)
			wait = r.opts.LeaveGrace
		case swept.Braked:
			r.metrics.braked.Inc()
			wait = l.brakes()
		case swept.RemovedConnections+swept.Spared == store.SweepSize:
			more = append(more, room)
			clamp = v.clamp // perhaps another turn sweeps it again
		}
		v.clamp, v.at, v.audit = clamp, time.Now().Add(max(wait, s.tick)), time.Now().Add(s.audit)
	}
	if stepped {
		r.probeOnce(ctx, l)
		if !l.unsteady() {
			l.unsettle() // the rooms came from a node with another clock
			r.stepped(ctx, l, 0)
		}
		return nil, false
	}
	if len(empty) > 0 {
		if err := r.store.Forget(ctx, empty...); err != nil {
			return more, !r.roomFailed(ctx, "", err) || r.store.Clustered()
		}
	}
	return more, true
}

// sweptRoom notes whether a room could be swept. While it can't be, its data in Redis may
// be wrong, and its viewers see it marked stale.
func (r *Replica) sweptRoom(room string, ok bool) {
	if r.troubles.sweep(room, ok) {
		r.views.Reread(room)
	}
}

package store

import (
	"context"
	"errors"
	"hash/maphash"
	"maps"
	"slices"
	"sync"
	"time"

	"presence/internal/presence"
)

const (
	// lanes is the number of group-commit loops. A room belongs to one of them, so its
	// changes keep their order.
	lanes = 4

	// clusterLanes is the number of loops in a Cluster. Each node has its own loop; more
	// nodes than this share loops.
	clusterLanes = 16

	// laneQueue is how many changes may wait in a lane. When it is full callers wait,
	// each until its context ends.
	laneQueue = 4096

	// laneBatch is the most changes that are taken out of the queue for one
	// round trip.
	laneBatch = 2048

	// keepInterval is the longest time from a join until the room is on the list of rooms
	// in use again, if Redis has lost the list.
	keepInterval = time.Second
)

// opKind is the kind of change that a caller asks for.
type opKind uint8

const (
	opJoin opKind = iota
	opAttend
	opPut
	opResume
	opLeave
	opRelease
)

// joins reports whether an op of this kind can open a room.
func (k opKind) joins() bool { return k == opJoin || k == opAttend || k == opPut }

// how returns the join script's word for an op that joins.
func (k opKind) how() string {
	switch k {
	case opAttend:
		return "attend"
	case opPut:
		return "put"
	default:
		return "join"
	}
}

// op is one change, for which one caller waits.
type op struct {
	kind   opKind
	room   string
	conn   presence.Connection
	ttl    time.Duration // of opJoin, opAttend and opPut the lease; of opRelease the grace
	name   bool          // conn's name replaces the user's; not of opRelease
	meta   bool          // conn's metadata replace the user's; not of opRelease
	former string        // opJoin: the generation that it follows, or anyone

	answered bool // Lost.Answered

	ctx  context.Context //nolint:containedctx // the caller's context: an op is not sent after it has ended
	done chan result     // buffered, so that the lane never waits for a caller
}

// result is the outcome of an op.
type result struct {
	held Held
	err  error
}

// errStopped is the error for callers when the store no longer runs.
var errStopped = errors.New("the store has stopped")

// do hands o to the lane of its room and waits for the result or the end of ctx. If ctx
// ends before the op is sent, the op is never sent.
func (s *Store) do(ctx context.Context, o *op) (result, error) {
	o.ctx, o.done = ctx, make(chan result, 1)
	l := s.laneOf(o.room)
	select {
	case l.queue <- o:
	case <-l.stopped:
		return result{}, unavailable(errStopped)
	case <-ctx.Done():
		return result{}, unavailable(context.Cause(ctx))
	}
	select {
	case r := <-o.done:
		return r, r.err
	case <-l.stopped:
		return result{}, unavailable(errStopped)
	case <-ctx.Done():
		return result{}, unavailable(context.Cause(ctx))
	}
}

// seed makes the assignment of rooms to lanes differ between processes. So nobody can
// choose rooms that share a lane.
var seed = maphash.MakeSeed()

// lane is one group-commit loop. It takes the ops that have gathered, sends them in one
// round trip, and takes the ops that have gathered meanwhile. It never waits for more
// ops, so a lone join is not delayed.
type lane struct {
	store   *Store
	queue   chan *op
	stopped chan struct{}
	stop    sync.Once

	// Owned by run: when this process last registered each room before a join, and the
	// rooms joined since the last keep.
	registered map[string]time.Time
	joined     map[string]bool
}

func newLane(s *Store) *lane {
	return &lane{
		store:      s,
		queue:      make(chan *op, laneQueue),
		stopped:    make(chan struct{}),
		registered: map[string]time.Time{},
		joined:     map[string]bool{},
	}
}

// run sends ops until ctx ends.
func (l *lane) run(ctx context.Context) error {
	defer l.stop.Do(func() { close(l.stopped) })
	var held []*op // ops left over from the last round, since a round changes a connection only once
	var due <-chan time.Time
	for {
		if due == nil && len(l.joined) > 0 {
			due = time.After(keepInterval)
		}
		select {
		case <-due:
			l.keep(ctx)
			due = nil
			continue
		default:
		}
		batch := held
		if len(batch) == 0 {
			select {
			case o := <-l.queue:
				batch = append(batch, o)
			case <-due:
				l.keep(ctx)
				due = nil
				continue
			case <-ctx.Done():
				return nil
			}
		}
	gather:
		for len(batch) < laneBatch {
			select {
			case o := <-l.queue:
				batch = append(batch, o)
			default:
				break gather
			}
		}
		batch, held = distinct(batch)
		l.commit(ctx, batch)
	}
}

// distinct splits ops into those that are the first for their connection, and the rest.
// It keeps the order.
func distinct(ops []*op) (first, rest []*op) {
	type key struct{ room, id string }
	seen := make(map[key]bool, len(ops))
	first = ops[:0]
	for _, o := range ops {
		if k := (key{o.room, o.conn.ID}); seen[k] {
			rest = append(rest, o)
		} else {
			seen[k] = true
			first = append(first, o)
		}
	}
	return first, rest
}

// group is a set of ops that share one script call.
type group struct {
	call *call
	ops  []*op
}

// commit sends the ops whose callers still wait, and gives each caller the result.
func (l *lane) commit(ctx context.Context, ops []*op) {
	type key struct {
		kind  opKind
		room  string
		grace time.Duration // of a release; all releases of a call have the same
	}
	var groups []*group
	open := map[key]*group{}
	for _, o := range ops {
		if o.ctx.Err() != nil {
			continue // the caller has gone, and knows that nothing was sent
		}
		k := key{kind: o.kind, room: o.room}
		if o.kind == opRelease {
			k.grace = o.ttl
		}
		g := open[k]
		if g == nil || len(g.ops) == BatchSize {
			g = &group{}
			open[k] = g
			groups = append(groups, g)
		}
		g.ops = append(g.ops, o)
	}
	groups = l.register(ctx, groups)

	calls := make([]*call, len(groups))
	for i, g := range groups {
		g.call = l.store.callFor(g.ops)
		l.store.metrics.gathered(g.call.script.name, len(g.ops))
		calls[i] = g.call
	}
	l.store.run(ctx, calls...)
	for _, g := range groups {
		if o := g.ops[0]; o.kind.joins() && g.call.err == nil {
			l.joined[o.room] = true
		}
	}
	for _, g := range groups {
		g.tell(l.store)
	}
}

// callFor returns the script call for ops, which are of one kind and room.
func (s *Store) callFor(ops []*op) *call {
	room := ops[0].room
	if ops[0].kind.joins() {
		return s.joinCall(ops[0].kind.how(), ops)
	}
	conns := make([]presence.Connection, len(ops))
	for i, o := range ops {
		conns[i] = o.conn
	}
	switch ops[0].kind {
	case opResume:
		return s.pairsCall(resumeScript, room, conns, "take", s.opts.MemberTTL.Milliseconds())
	case opLeave:
		return s.pairsCall(leaveScript, room, conns, string(presence.ReasonLeft))
	default:
		return s.pairsCall(releaseScript, room, conns, ops[0].ttl.Milliseconds())
	}
}

// register puts the rooms of joins on the list that all replicas sweep, before anybody is
// in them. It returns the groups that may go on. A room that was registered less than
// half a member TTL ago is still on the list, since rooms are only removed after a whole
// one.
func (l *lane) register(ctx context.Context, groups []*group) []*group {
	now := time.Now()
	var rooms []string
	for _, g := range groups {
		if o := g.ops[0]; o.kind.joins() && now.Sub(l.registered[o.room]) > l.store.opts.MemberTTL/2 {
			rooms = append(rooms, o.room)
		}
	}
	if len(rooms) == 0 {
		return groups
	}
	if len(l.registered) > 4*laneBatch {
		clear(l.registered)
	}
	refused, err := l.registerNow(ctx, rooms)
	if err == nil {
		for _, room := range rooms {
			l.registered[room] = now
		}
		for _, room := range refused {
			delete(l.registered, room)
		}
	}
	kept := groups[:0]
	for _, g := range groups {
		switch o := g.ops[0]; {
		case errors.Is(err, presence.ErrUnavailable) && l.store.Clustered():
			kept = append(kept, g) // the list is on another node; keep registers the room later
		case !o.kind.joins() || !l.registered[o.room].IsZero() && now.Sub(l.registered[o.room]) <= l.store.opts.MemberTTL/2:
			kept = append(kept, g)
		case err != nil:
			g.fail(err)
		default:
			g.fail(presence.ErrTooManyRooms)
		}
	}
	return kept
}

// registerNow registers rooms. In a Cluster it waits only briefly, because the list may
// be on another node than the rooms.
func (l *lane) registerNow(ctx context.Context, rooms []string) (refused []string, err error) {
	ctx, cancel := l.store.shared(ctx)
	defer cancel()
	return l.store.Register(ctx, rooms...)
}

// shared limits, in a Cluster, how long a call to a node may take that need not be the
// node of the rooms concerned.
func (s *Store) shared(ctx context.Context) (context.Context, context.CancelFunc) {
	if s.Clustered() {
		return context.WithTimeout(ctx, sharedPatience)
	}
	return ctx, func() {}
}

// keep registers the rooms of recent joins again. Redis may have lost the registration,
// and in a room that no replica sweeps nobody is ever removed.
func (l *lane) keep(ctx context.Context) {
	ctx, cancel := l.store.shared(ctx)
	defer cancel()
	if l.store.Keep(ctx, slices.Collect(maps.Keys(l.joined))...) == nil {
		clear(l.joined)
	}
}

// fail gives every caller of the group the error err.
func (g *group) fail(err error) {
	for _, o := range g.ops {
		o.done <- result{err: err}
	}
}

// tell gives every caller of the group its part of the reply.
func (g *group) tell(s *Store) {
	results := make([]result, len(g.ops))
	switch {
	case g.call.err != nil:
		g.fail(g.call.err)
		return
	case g.ops[0].kind.joins():
		how := g.ops[0].kind.how()
		s.joined(g.call, how, results)
		for i, o := range g.ops {
			conn := &results[i].held.Connection
			conn.ID, conn.User.ID = o.conn.ID, o.conn.User.ID
			if how == "join" {
				since := conn.User.Since
				conn.Generation, conn.User = o.conn.Generation, o.conn.User
				conn.User.Since = since
			}
		}
	case g.ops[0].kind == opLeave:
		r := replyOf(g.call.reply)
		occupancy, birth := r.occupancy()
		for i := range results {
			results[i].held = Held{Occupancy: occupancy, Birth: birth}
			if r.int() < 0 {
				results[i].err = presence.ErrSuperseded
			}
		}
		if gone := int(r.int()); r.err == nil {
			s.metrics.left(presence.ReasonLeft, gone)
		}
	case g.ops[0].kind == opResume:
		birth, conns, err := resumed(g.call, len(g.ops))
		for i, o := range g.ops {
			if err != nil {
				results[i].err = err
				continue
			}
			results[i].held = Held{Birth: birth, Connection: conns[i], Came: conns[i].User.ID != ""}
			results[i].held.Connection.ID = o.conn.ID
		}
	}
	if held := results[0].held; held.Version > 0 {
		s.note(g.ops[0].room, held.Occupancy)
	}
	for i, o := range g.ops {
		o.done <- results[i]
	}
}

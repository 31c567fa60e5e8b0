package replica

import (
	"context"
	"errors"
	"hash/maphash"
	"maps"
	"slices"
	"sync"
	"time"

	"presence/internal/presence"
	"presence/internal/store"
)

// maxPuts is how many connections without a socket are remembered. Those beyond are not
// put back when Redis loses its data; they come back when they are renewed.
const maxPuts = 1_000_000

// puts are the connections without a socket that were put or renewed here: what is known
// of each, until its lease is over.
type puts struct {
	seed maphash.Seed // of the slots of rooms

	mu    sync.Mutex                  // guards:
	rooms map[string]map[string]lease // room -> connection
	n     int
}

// lease is a connection and until when it counts, by the clock of this process.
type lease struct {
	conn    presence.Connection
	until   time.Time
	version int64 // of the room, when its user was changed here last
}

func newPuts() *puts { return &puts{seed: maphash.MakeSeed(), rooms: map[string]map[string]lease{}} }

// remember notes that conn is in room for ttl from now.
func (p *puts) remember(room string, conn presence.Connection, ttl time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	known := p.rooms[room]
	if _, ok := known[conn.ID]; !ok {
		if p.n >= maxPuts {
			return
		}
		p.n++
	}
	if known == nil {
		known = map[string]lease{}
		p.rooms[room] = known
	}
	known[conn.ID] = lease{conn: conn, until: time.Now().Add(ttl)}
}

// forget forgets a connection.
func (p *puts) forget(room, id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forgetLocked(room, id)
}

func (p *puts) forgetLocked(room, id string) {
	if _, ok := p.rooms[room][id]; !ok {
		return
	}
	p.n--
	if delete(p.rooms[room], id); len(p.rooms[room]) == 0 {
		delete(p.rooms, room)
	}
}

// has reports whether a connection is known, and its lease is not over.
func (p *puts) has(room, id string) bool {
	left, _ := p.left(room, id)
	return left > 0
}

// left is for how long a connection that is known counts still, and where those are who
// asked for it.
func (p *puts) left(room, id string) (left time.Duration, address string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.rooms[room][id]
	return time.Until(l.until), l.conn.Address
}

// end forgets connections whose lease is over, of those rooms.
func (p *puts) end(of func(room string) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	for room, known := range p.rooms {
		if !of(room) {
			continue
		}
		for id, l := range known {
			if !now.Before(l.until) {
				p.forgetLocked(room, id)
			}
		}
	}
}

// inRooms lists the rooms that have such connections.
func (p *puts) inRooms() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Collect(maps.Keys(p.rooms))
}

// extend lets the leases of rooms, nil for all, last longer, by the time for which Redis
// could not be reached.
func (p *puts) extend(by time.Duration, rooms func(room string) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for room, known := range p.rooms {
		if rooms != nil && !rooms(room) {
			continue
		}
		for id, l := range known {
			l.until = l.until.Add(by)
			known[id] = l
		}
	}
}

// lost lists the connections of room to put back, each for the time that it has left.
func (p *puts) lost(room string) []store.Lost {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	var lost []store.Lost
	for _, l := range p.rooms[room] {
		if left := l.until.Sub(now); left > 0 {
			lost = append(lost, store.Lost{Connection: l.conn, TTL: left})
		}
	}
	return lost
}

// Put makes a user present in room through a connection without a socket, for w.TTL or
// until it is put or renewed again; the generation is made here. The rest, and the
// errors, are as with [store.Store.Put]. A put that failed with
// [presence.ErrUnavailable] is undone should it turn out to have brought the user in.
func (r *Replica) Put(ctx context.Context, room string, w store.Wanted) (store.Held, error) {
	if err := r.timely(); err != nil {
		return store.Held{}, err
	}
	tab := tabKey{room, w.Connection.ID}
	if err := r.members.reserve(tab, w.Connection.Address); err != nil {
		return store.Held{}, err
	}
	defer r.members.answered(tab)
	w.Connection.Generation = presence.NewHTTPGeneration()
	known := r.forgot(room)
	before := r.puts.recall(room, w)
	if known {
		w = before
	}
	held, err := r.store.Put(ctx, room, w)
	if err != nil {
		if errors.Is(err, presence.ErrUnavailable) {
			r.members.doubt(tab, w.Connection.Generation)
		}
		return held, err
	}
	r.saw(ctx, room, held.Birth)
	if !known && r.forgot(room) { // this put is the first to find it lost
		held = r.asBefore(ctx, room, before.Connection.User, held)
	}
	held.Connection.Address = w.Connection.Address
	r.remember(room, held.Connection, w.TTL)
	return held, nil
}

// asBefore gives a user whom a put has just brought back into a room that had lost its data
// the name and metadata of to, and returns what is held then.
func (r *Replica) asBefore(ctx context.Context, room string, to presence.User, held store.Held) store.Held {
	was := held.Connection.User
	if was.Since != held.Version { // was there already
		return held
	}
	if to.Since = was.Since; to == was {
		return held
	}
	member, occupancy, err := r.store.Update(ctx, room, held.Connection.ID, was, to)
	if err != nil { // somebody was faster, or it stays as it is
		return held
	}
	held.Connection.User, held.Occupancy = member.User, occupancy
	return held
}

// remember notes what is known of a connection that was put or renewed: as long as it has
// no socket, nobody else does.
func (r *Replica) remember(room string, conn presence.Connection, ttl time.Duration) {
	if !presence.IsHTTPGeneration(conn.Generation) {
		r.puts.forget(room, conn.ID)
		return
	}
	r.puts.remember(room, conn, ttl)
	r.endsSoon(room, ttl)
	r.members.leased(tabKey{room, conn.ID}, conn.Address, time.Now().Add(ttl))
}

// Renew renews, for ttl, connections of room that have no socket, and returns each as it
// is there, in order: the zero Connection for one that is not. The lease of a connection
// that has a socket is left to that. Those who ask are at address.
func (r *Replica) Renew(ctx context.Context, room string, ids []string, ttl time.Duration, address string) ([]presence.Connection, error) {
	conns, known := make([]presence.Connection, len(ids)), make([]store.Lease, len(ids))
	for i, id := range ids {
		conns[i] = presence.Connection{ID: id, Generation: presence.NewHTTPGeneration()}
		known[i] = r.puts.lease(room, id)
	}
	birth, found, err := r.store.Renew(ctx, room, conns, ttl)
	if err == nil && r.lacks(room, birth, found) {
		// Nobody is lost since Redis lost them.
		r.saw(ctx, room, birth)
		r.restorePuts(ctx, room)
		birth, found, err = r.store.Renew(ctx, room, conns, ttl)
	}
	if err != nil {
		return nil, err
	}
	for i, conn := range found {
		if conn.User.ID == "" {
			found[i] = presence.Connection{}
			r.puts.forgetLease(room, known[i])
			continue
		}
		r.saw(ctx, room, birth)
		conn.Address = address
		r.remember(room, conn, ttl)
	}
	return found, nil
}

// lacks reports whether some connections were not found in room though they are known
// here, since Redis has lost its data.
func (r *Replica) lacks(room, birth string, found []presence.Connection) bool {
	if birth != "" && !r.forgot(room) && !r.losses.has(room, birth, time.Now()) {
		return false
	}
	return slices.ContainsFunc(found, func(c presence.Connection) bool { return c.User.ID == "" && r.puts.has(room, c.ID) })
}

// End ends the connection id of room at once, through whatever it is there.
func (r *Replica) End(ctx context.Context, room, id string) (presence.Occupancy, error) {
	if err := r.timely(); err != nil {
		return presence.Occupancy{}, err
	}
	r.puts.forget(room, id)
	return r.leave(ctx, tabKey{room, id}, "")
}

// EndAs ends the connection id of room if it has no socket and userID is there by it. It
// reports whether that was so.
func (r *Replica) EndAs(ctx context.Context, room, id, userID string) (occupancy presence.Occupancy, ended bool, err error) {
	conn, found, err := r.findHTTP(ctx, room, id, userID)
	if err != nil || !found {
		return presence.Occupancy{}, false, err
	}
	r.puts.forget(room, id)
	occupancy, err = r.leave(ctx, tabKey{room, id}, conn.Generation)
	return occupancy, err == nil, err
}

// restorePuts puts the connections of room back that have no socket and are known here.
func (r *Replica) restorePuts(ctx context.Context, room string) {
	lost := r.puts.lost(room)
	if len(lost) == 0 {
		return
	}
	birth, errs := r.store.Restore(ctx, room, lost)
	r.losses.put(room, birth)
	restored := 0
	for i, err := range errs {
		switch {
		case err == nil:
			restored++
			r.endsSoon(room, lost[i].TTL)
		case errors.Is(err, presence.ErrSuperseded), errors.Is(err, presence.ErrRoomFull), errors.Is(err, presence.ErrRemoved):
			// Another has it, or its place, or nobody may.
			r.puts.forgetLease(room, store.Lease{ID: lost[i].Connection.ID, Generation: lost[i].Connection.Generation})
		default:
			r.roomFailed(ctx, room, err)
		}
	}
	r.restored(ctx, room, restored)
}

// recall completes what is wanted of a connection of a room that has lost its data: a user
// who was there comes back as before.
func (p *puts) recall(room string, w store.Wanted) store.Wanted {
	p.mu.Lock()
	defer p.mu.Unlock()
	l, ok := p.rooms[room][w.Connection.ID]
	if user := &w.Connection.User; ok && l.conn.User.ID == user.ID && time.Now().Before(l.until) {
		user.Since, user.Guest = l.conn.User.Since, l.conn.User.Guest
		if !w.SetName {
			user.Name = l.conn.User.Name
		}
		if !w.SetMeta {
			user.Meta = l.conn.User.Meta
		}
	}
	return w
}

// slack is how much earlier than is remembered here a lease may end in Redis: the answer
// to a put is under way for a while.
const slack = 250 * time.Millisecond

// checkPuts looks after the connections without a socket that are known here, those of the
// rooms of one slot: nothing else would tell that the data of a room were lost that has no
// members here. Those are forgotten that Redis has under another generation, or no more: they
// ended, or were put through another replica. After an outage leases are made to last for
// the time that it took.
//
// With first, where the clock of a node was just stepped, none lasts longer there, either. A
// later call must not do that: another replica may have renewed a lease meanwhile, and makes
// it last again by its next call.
func (r *Replica) checkPuts(ctx context.Context, slot int, first bool) {
	byNode := map[*link][]*store.Beats{}
	for _, room := range r.puts.inSlot(slot) {
		l := r.links.of(room)
		byNode[l] = append(byNode[l], r.puts.beats(room)...)
	}
	for l, beats := range byNode {
		r.checkNode(ctx, beats, first && l.unsteady())
	}
}

// checkNode is checkPuts for what is on one node; exact says that its clock was stepped.
func (r *Replica) checkNode(ctx context.Context, beats []*store.Beats, exact bool) {
	for part := range slices.Chunk(beats, beatCalls) {
		r.store.Extend(ctx, part, slack, exact)
		for _, b := range part {
			if b.Err != nil {
				r.roomFailed(ctx, b.Room, b.Err)
				continue
			}
			// A room outlives those who were in it: without a birth it was lost.
			if r.saw(ctx, b.Room, b.Birth) || b.Birth == "" || r.forgot(b.Room) {
				continue
			}
			for _, at := range b.Lost {
				r.puts.forgetLease(b.Room, b.Leases[at])
			}
		}
	}
}

// inSlot lists the rooms of one slot.
func (p *puts) inSlot(slot int) (rooms []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for room := range p.rooms {
		if int(maphash.String(p.seed, room)%slots) == slot {
			rooms = append(rooms, room)
		}
	}
	return rooms
}

// beats lists what is known of a room, by the batch.
func (p *puts) beats(room string) (beats []*store.Beats) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	for id, l := range p.rooms[room] {
		left := l.until.Sub(now)
		if left <= 0 {
			continue
		}
		last := len(beats) - 1
		if last < 0 || len(beats[last].Leases) == store.BatchSize {
			beats = append(beats, &store.Beats{Room: room})
			last++
		}
		beats[last].Leases = append(beats[last].Leases, store.Lease{ID: id, Generation: l.conn.Generation})
		beats[last].Left = append(beats[last].Left, left)
	}
	return beats
}

// lease is what is known here of a connection.
func (p *puts) lease(room, id string) store.Lease {
	p.mu.Lock()
	defer p.mu.Unlock()
	return store.Lease{ID: id, Generation: p.rooms[room][id].conn.Generation}
}

// forgetLease forgets a connection, unless it was put anew meanwhile.
func (p *puts) forgetLease(room string, lease store.Lease) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.rooms[room][lease.ID].conn.Generation == lease.Generation {
		p.forgetLocked(room, lease.ID)
	}
}

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

// maxPuts is how many connections without a socket are remembered. When Redis loses its
// data, those beyond this number are not put back; they return when they are renewed.
const maxPuts = 1_000_000

// puts remembers the connections without a socket that were put or renewed here, each
// until its lease ends.
type puts struct {
	seed maphash.Seed // hashes rooms to slots

	mu    sync.Mutex                  // guards:
	rooms map[string]map[string]lease // room -> connection
	n     int
}

// lease is a connection and the end of its lease, by the clock of this process.
type lease struct {
	conn    presence.Connection
	until   time.Time
	version int64 // of the room, when this replica last changed the user; 0: never
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

// has reports whether a connection is known and its lease has not ended.
func (p *puts) has(room, id string) bool {
	left, _ := p.remaining(room, id)
	return left > 0
}

// remaining returns how long the lease of a known connection still lasts, and the
// connection.
func (p *puts) remaining(room, id string) (left time.Duration, conn presence.Connection) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.rooms[room][id]
	return time.Until(l.until), l.conn
}

// end forgets connections whose leases have ended, in the rooms for which of returns
// true.
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

// extend prolongs the leases of rooms (nil: all) by the time for which Redis could not
// be reached, but none beyond the end of the right to be there.
func (p *puts) extend(by time.Duration, rooms func(room string) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for room, known := range p.rooms {
		if rooms != nil && !rooms(room) {
			continue
		}
		for id, l := range known {
			if l.until = l.until.Add(by); !l.conn.Until.IsZero() && l.until.After(l.conn.Until) {
				l.until = l.conn.Until
			}
			known[id] = l
		}
	}
}

// toRestore lists the connections of room to put back, each with the time that its lease
// still lasts.
func (p *puts) toRestore(room string) []store.Lost {
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

// Put makes a user present in room through a connection without a socket. The lease
// lasts for w.TTL, or until the connection is put or renewed again. Put makes the
// generation. Everything else, also the errors, is as with [store.Store.Put]. If a put
// failed with [presence.ErrUnavailable] but has brought the user in, the replica undoes
// it.
func (r *Replica) Put(ctx context.Context, room string, w store.Wanted) (store.Held, error) {
	if err := r.timely(); err != nil {
		return store.Held{}, err
	}
	tab := tabKey{room, w.Connection.ID}
	if err := r.members.reserve(tab, w.Connection.Address); err != nil {
		return store.Held{}, err
	}
	defer r.members.unreserve(tab)
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
	if !known && r.forgot(room) { // this put is the first call to find the loss
		held = r.asBefore(ctx, room, before.Connection.User, held)
	}
	held.Connection.Address, held.Connection.Until = w.Connection.Address, w.Connection.Until
	r.remember(room, held.Connection, w.TTL)
	return held, nil
}

// asBefore is for a user whom a put has just brought back into a room that had lost its
// data. It gives the user the name and metadata of to, as they were before, and returns
// the connection as it is then.
func (r *Replica) asBefore(ctx context.Context, room string, to presence.User, held store.Held) store.Held {
	was := held.Connection.User
	if was.Since != held.Version { // the user was there already
		return held
	}
	if to.Since = was.Since; to == was {
		return held
	}
	member, occupancy, err := r.store.Update(ctx, room, held.Connection.ID, was, to)
	if err != nil { // somebody was faster, or Redis failed: leave it
		return held
	}
	held.Connection.User, held.Occupancy = member.User, occupancy
	return held
}

// remember notes a connection that was put or renewed here. As long as the connection
// has no socket, nobody else remembers it.
func (r *Replica) remember(room string, conn presence.Connection, ttl time.Duration) {
	if !presence.IsHTTPGeneration(conn.Generation) {
		r.puts.forget(room, conn.ID)
		return
	}
	r.puts.remember(room, conn, ttl)
	r.endsSoon(room, ttl)
	r.members.leased(tabKey{room, conn.ID}, conn.Address, time.Now().Add(ttl))
}

// Renew renews connections of room that have no socket, for ttl. It returns the
// connections in the order of ids, with the zero Connection for each that does not
// exist. If a connection has a socket, Renew does not change its lease. address is
// where the request came from, and until when its sender may be there (zero: without an
// end): ttl is no longer, and no outage prolongs it beyond that.
func (r *Replica) Renew(ctx context.Context, room string, ids []string, ttl time.Duration, address string, until time.Time) ([]presence.Connection, error) {
	conns, known := make([]presence.Connection, len(ids)), make([]store.Holder, len(ids))
	for i, id := range ids {
		conns[i] = presence.Connection{ID: id, Generation: presence.NewHTTPGeneration()}
		known[i] = r.puts.holder(room, id)
	}
	birth, found, err := r.store.Renew(ctx, room, conns, ttl)
	if err == nil && r.lacks(room, birth, found) {
		// They are missing because Redis has lost them, not because they ended.
		r.saw(ctx, room, birth)
		r.restorePuts(ctx, &trip{}, room)
		birth, found, err = r.store.Renew(ctx, room, conns, ttl)
	}
	if err != nil {
		return nil, err
	}
	for i, conn := range found {
		if conn.User.ID == "" {
			found[i] = presence.Connection{}
			r.puts.forgetHolder(room, known[i])
			continue
		}
		r.saw(ctx, room, birth)
		conn.Address, conn.Until = address, until
		r.remember(room, conn, ttl)
	}
	return found, nil
}

// lacks reports whether Redis has lost connections that are known here: some were not
// found, and the room has lost its data.
func (r *Replica) lacks(room, birth string, found []presence.Connection) bool {
	if birth != "" && !r.forgot(room) && !r.losses.hasOlder(room, birth, time.Now()) {
		return false
	}
	return slices.ContainsFunc(found, func(c presence.Connection) bool { return c.User.ID == "" && r.puts.has(room, c.ID) })
}

// End ends the connection id of room at once, whether it has a socket or not.
func (r *Replica) End(ctx context.Context, room, id string) (presence.Occupancy, error) {
	if err := r.timely(); err != nil {
		return presence.Occupancy{}, err
	}
	r.puts.forget(room, id)
	return r.endTab(ctx, tabKey{room, id}, "")
}

// EndAs ends the connection id of room if it has no socket and belongs to userID. It
// reports whether it ended the connection.
func (r *Replica) EndAs(ctx context.Context, room, id, userID string) (occupancy presence.Occupancy, ended bool, err error) {
	conn, found, err := r.findHTTP(ctx, room, id, userID)
	if err != nil || !found {
		return presence.Occupancy{}, false, err
	}
	r.puts.forget(room, id)
	occupancy, err = r.endTab(ctx, tabKey{room, id}, conn.Generation)
	return occupancy, err == nil, err
}

// restorePuts puts back the connections of room that have no socket and are known here.
func (r *Replica) restorePuts(ctx context.Context, t *trip, room string) {
	lost := r.puts.toRestore(room)
	if len(lost) == 0 {
		return
	}
	birth, errs := r.store.Restore(ctx, room, lost)
	r.losses.put(room, birth)
	restored := 0
	for i, err := range errs {
		conn := lost[i].Connection
		switch {
		case err == nil:
			restored++
			r.endsSoon(room, lost[i].TTL)
		case errors.Is(err, presence.ErrSuperseded), errors.Is(err, presence.ErrRoomFull), errors.Is(err, presence.ErrRemoved):
			// Another replica has the connection, others took its place, or its user
			// was removed.
			r.puts.forgetHolder(room, store.Holder{ID: conn.ID, Generation: conn.Generation})
			continue
		default:
			r.tripFailed(ctx, t, room, err)
		}
		if r.puts.holder(room, conn.ID).Generation == "" { // what ended it meanwhile may have found nothing in Redis
			r.members.doubt(tabKey{room, conn.ID}, conn.Generation)
		}
	}
	r.restored(ctx, room, restored)
}

// recall completes a put into a room that has lost its data, so that a user who was
// there comes back as before.
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

// slack is how much earlier a lease may end in Redis than this replica remembers, since
// the answer to a put takes some time to arrive.
const slack = 250 * time.Millisecond

// checkPuts checks, in the rooms of one slot, the connections without a socket that are
// known here. Nothing else would notice that a room without members here has lost its
// data. It forgets connections that Redis no longer has, or has under another
// generation: they ended, or were put through another replica. After an outage it
// prolongs leases in Redis by the time that the outage took.
//
// With first, and when the clock of the node was just stepped, it also shortens leases
// that end too late. A later call must not do that, because another replica may have
// renewed a lease meanwhile. That replica's next call makes the lease long again.
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

// checkNode is checkPuts for the connections on one node. exact says that the node's
// clock was stepped.
func (r *Replica) checkNode(ctx context.Context, beats []*store.Beats, exact bool) {
	for part := range slices.Chunk(beats, beatCalls) {
		r.store.Extend(ctx, part, slack, exact)
		var t trip
		for _, b := range part {
			if b.Err != nil {
				r.tripFailed(ctx, &t, b.Room, b.Err)
				continue
			}
			// A room outlives its members, so a room without a birth has lost its data.
			if r.saw(ctx, b.Room, b.Birth) || b.Birth == "" || r.forgot(b.Room) {
				continue
			}
			for _, at := range b.Lost {
				r.puts.forgetHolder(b.Room, b.Holders[at])
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

// beats lists the known connections of a room, in batches.
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
		if last < 0 || len(beats[last].Holders) == store.BatchSize {
			beats = append(beats, &store.Beats{Room: room})
			last++
		}
		beats[last].Holders = append(beats[last].Holders, store.Holder{ID: id, Generation: l.conn.Generation})
		beats[last].Left = append(beats[last].Left, left)
	}
	return beats
}

// holder returns the generation that a connection has here.
func (p *puts) holder(room, id string) store.Holder {
	p.mu.Lock()
	defer p.mu.Unlock()
	return store.Holder{ID: id, Generation: p.rooms[room][id].conn.Generation}
}

// forgetHolder forgets a connection, unless it was put again meanwhile.
func (p *puts) forgetHolder(room string, h store.Holder) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.rooms[room][h.ID].conn.Generation == h.Generation {
		p.forgetLocked(room, h.ID)
	}
}

package replica

import (
	"context"
	"errors"
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
	mu    sync.Mutex                  // guards:
	rooms map[string]map[string]lease // room -> connection
	n     int
}

// lease is a connection and until when it counts, by the clock of this process.
type lease struct {
	conn  presence.Connection
	until time.Time
}

func newPuts() *puts { return &puts{rooms: map[string]map[string]lease{}} }

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
	known[conn.ID] = lease{conn, time.Now().Add(ttl)}
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
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Now().Before(p.rooms[room][id].until)
}

// end forgets connections whose lease is over.
func (p *puts) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	for room, known := range p.rooms {
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

// extend lets all leases last longer, by the time for which Redis could not be reached.
func (p *puts) extend(by time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, known := range p.rooms {
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
// [presence.ErrUnavailable] is undone should it turn out to have taken place.
func (r *Replica) Put(ctx context.Context, room string, w store.Wanted) (store.Held, error) {
	tab := tabKey{room, w.Connection.ID}
	if err := r.members.reserve(tab, w.Connection.Address); err != nil {
		return store.Held{}, err
	}
	defer r.members.answered(tab)
	w.Connection.Generation = presence.NewHTTPGeneration()
	held, err := r.store.Put(ctx, room, w)
	if err != nil {
		if errors.Is(err, presence.ErrUnavailable) {
			r.members.doubt(tab, w.Connection.Generation)
		}
		return held, err
	}
	r.saw(ctx, room, held.Birth)
	held.Connection.Address = w.Connection.Address
	r.remember(room, held.Connection, w.TTL)
	return held, nil
}

// remember notes what is known of a connection that was put or renewed: as long as it has
// no socket, nobody else does.
func (r *Replica) remember(room string, conn presence.Connection, ttl time.Duration) {
	if !presence.IsHTTPGeneration(conn.Generation) {
		r.puts.forget(room, conn.ID)
		return
	}
	r.puts.remember(room, conn, ttl)
	if ttl < r.opts.LeaveGrace {
		r.sweeper.soon(room, ttl)
	}
	r.members.leased(tabKey{room, conn.ID}, conn.Address, time.Now().Add(ttl))
}

// Renew renews, for ttl, connections of room that have no socket, and returns each as it
// is there, in order: the zero Connection for one that is not. The lease of a connection
// that has a socket is left to that. Those who ask are at address.
func (r *Replica) Renew(ctx context.Context, room string, ids []string, ttl time.Duration, address string) ([]presence.Connection, error) {
	conns := make([]presence.Connection, len(ids))
	for i, id := range ids {
		conns[i] = presence.Connection{ID: id, Generation: presence.NewHTTPGeneration()}
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
			r.puts.forget(room, conn.ID)
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
	if birth != "" && !r.forgot(room) && !r.losses.has(room, birth) {
		return false
	}
	return slices.ContainsFunc(found, func(c presence.Connection) bool { return c.User.ID == "" && r.puts.has(room, c.ID) })
}

// End ends the connection id of room at once, through whatever it is there.
func (r *Replica) End(ctx context.Context, room, id string) (presence.Occupancy, error) {
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
			if ttl := lost[i].TTL; ttl < r.opts.LeaveGrace {
				r.sweeper.soon(room, ttl)
			}
		case errors.Is(err, presence.ErrSuperseded), errors.Is(err, presence.ErrRoomFull):
			r.puts.forget(room, lost[i].Connection.ID) // another has it, or its place
		default:
			r.roomFailed(ctx, room, err)
		}
	}
	r.restored(ctx, room, restored)
}

// checkPuts looks at rooms that are known here by connections without a socket alone:
// nothing else would tell that their data were lost.
func (r *Replica) checkPuts(ctx context.Context, rooms []string) {
	for part := range slices.Chunk(rooms, store.BatchSize/4) {
		haves := make([]store.Have, len(part))
		for i, room := range part {
			haves[i] = store.Have{Room: room, Numbers: true}
		}
		readings, _, err := r.store.Read(ctx, haves...)
		if err != nil {
			r.redisFailed(ctx, err)
			return
		}
		for i, reading := range readings {
			if reading.Err == nil {
				r.saw(ctx, part[i], reading.Birth)
			}
		}
	}
}

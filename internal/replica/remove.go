package replica

import (
	"context"
	"errors"
	"time"

	"presence/internal/presence"
)

// Remove ends all connections of a user in room, of every kind, with
// [presence.ReasonRemoved]. It returns the room's occupancy afterwards. No replica puts
// the connections back. Sockets of the user are told; those at other replicas as soon
// as these read of the removal.
func (r *Replica) Remove(ctx context.Context, room, user string) (presence.Occupancy, error) {
	if err := r.timely(); err != nil {
		return presence.Occupancy{}, err
	}
	ended, occupancy, err := r.store.Remove(ctx, room, user)
	for _, id := range ended {
		r.puts.forget(room, id)
		r.members.unlease(tabKey{room, id})
	}
	if len(ended) > 0 {
		r.Removed(room, user, occupancy.Version)
	}
	return occupancy, err
}

// WasRemoved reports whether a user who was in room since then was removed later, and
// recently.
func (r *Replica) WasRemoved(ctx context.Context, room, user string, since int64) (bool, error) {
	return r.store.WasRemoved(ctx, room, user, since)
}

// Removed takes the news that a user was removed from room at that version. It ends the
// user's members and connections here that are older.
func (r *Replica) Removed(room, user string, version int64) {
	r.puts.forgetUsers(room, map[string]int64{user: version})
	for _, m := range r.members.removeUser(room, user, version) {
		tell(m, presence.ErrRemoved)
	}
}

// Left takes the news that users have left room, each at a version of it. It forgets
// their connections without a socket that are older. Another replica ended these
// connections, and this one would put them back when Redis loses its data.
func (r *Replica) Left(room string, users map[string]int64) { r.puts.forgetUsers(room, users) }

// tell tells the socket of a member that the member has ended, and why.
func tell(m *Member, why error) {
	if e, ok := m.socket.(Ender); ok {
		e.Ended(m, why)
	}
}

// removeUser takes out the members of a user who came before the room had that version,
// and returns them.
func (ms *members) removeUser(room, user string, version int64) (gone []*Member) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	for _, cohorts := range ms.slots {
		for c := range cohorts {
			if c.room != room {
				continue
			}
			for _, m := range c.all() {
				if m.conn.User.ID == user && m.conn.User.Since <= version {
					gone = append(gone, m)
				}
			}
		}
	}
	for _, m := range gone {
		m.left = true
		ms.removeLocked(m)
	}
	return gone
}

// unlease frees the place of a tab that has no socket.
func (ms *members) unlease(tab tabKey) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	ms.ledger.lease(tab, time.Time{})
	ms.ledger.free(tab, len(ms.tabs[tab]) > 0)
}

// forgetUsers forgets the connections of users who came before the room had the version given
// for each.
func (p *puts) forgetUsers(room string, users map[string]int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, l := range p.rooms[room] {
		if version, ok := users[l.conn.User.ID]; ok && l.conn.User.Since <= version {
			p.forgetLocked(room, id)
		}
	}
}

// Update changes the name and metadata of the user of connection id in room, and
// returns the member. It calls change with the present user, and change returns the new
// one, or an error that Update returns. It calls change again when somebody else has
// changed the user in between. Other errors are [presence.ErrNotPresent] and those of
// the store.
func (r *Replica) Update(ctx context.Context, room, id string, change func(presence.User) (presence.User, error)) (presence.Member, presence.Occupancy, error) {
	if err := r.timely(); err != nil {
		return presence.Member{}, presence.Occupancy{}, err
	}
	for sought := false; ; {
		conn, connections, found, err := r.store.Find(ctx, room, id)
		if err == nil && !found {
			if left, known := r.puts.remaining(room, id); left > 0 && !sought { // Redis may have lost it
				sought = true
				if _, err = r.Renew(ctx, room, []string{id}, left, known.Address, known.Until); err == nil {
					continue
				}
			} else {
				err = presence.ErrNotPresent
			}
		}
		if err != nil {
			return presence.Member{}, presence.Occupancy{}, err
		}
		to, err := change(conn.User)
		if err != nil {
			return presence.Member{}, presence.Occupancy{}, err
		}
		if to == conn.User {
			return presence.Member{User: to, Connections: connections}, presence.Occupancy{}, nil
		}
		member, occupancy, err := r.store.Update(ctx, room, id, conn.User, to)
		if errors.Is(err, presence.ErrConflict) {
			continue // somebody else made a change each time, and ctx bounds it
		}
		if err == nil {
			r.puts.update(room, id, member.User, occupancy.Version)
		}
		return member, occupancy, err
	}
}

// update notes the user of a connection, as of that version of the room.
func (p *puts) update(room, id string, user presence.User, version int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l, ok := p.rooms[room][id]; ok && l.conn.User.ID == user.ID && l.version < version {
		l.conn.User, l.version = user, version
		p.rooms[room][id] = l
	}
}

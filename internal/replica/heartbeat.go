package replica

import (
	"context"
	"errors"
	"time"

	"presence/internal/presence"
	"presence/internal/store"
)

// beatCalls is how many script calls share one round trip.
const beatCalls = 64

// runHeartbeat renews one slot after the other until ctx ends, and all of them
// whenever Redis was regained.
func (r *Replica) runHeartbeat(ctx context.Context) error {
	tick := time.NewTicker(r.opts.HeartbeatInterval / slots)
	defer tick.Stop()
	for slot := 0; ; {
		select {
		case <-tick.C:
			for room, members := range r.members.contests() {
				r.restore(ctx, room, members)
			}
			r.beatOnce(ctx, slot)
			if slot = (slot + 1) % slots; slot == 0 {
				r.registerOnce(ctx)
			}
		case <-r.link.regained:
			r.registerOnce(ctx)
			for slot := range slots {
				r.beatOnce(ctx, slot)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// registerOnce keeps the rooms of local members on the list that all replicas
// sweep, and undoes joins of which nobody knows whether they took place.
func (r *Replica) registerOnce(ctx context.Context) {
	if rooms := r.members.localRooms(); len(rooms) > 0 {
		if _, err := r.store.Register(ctx, rooms...); err != nil {
			r.redisFailed(ctx, err)
			return
		}
	}
	for key, generation := range r.members.doubts() {
		if !r.members.doubted(key, generation) {
			continue // joined again meanwhile
		}
		if _, err := r.store.Leave(ctx, key.room, key.id, generation); err != nil {
			r.redisFailed(ctx, err)
			return
		}
		r.members.certain(key.room, key.id)
	}
}

// beatOnce renews the leases of one slot.
func (r *Replica) beatOnce(ctx context.Context, slot int) {
	lists := r.members.inSlot(slot)
	for start := 0; start < len(lists); start += beatCalls {
		part := lists[start:min(start+beatCalls, len(lists))]
		beats := make([]*store.Beats, len(part))
		for i, list := range part {
			beats[i] = &store.Beats{Room: list[0].room, Leases: make([]store.Lease, len(list))}
			for j, m := range list {
				beats[i].Leases[j] = store.Lease{ID: m.conn.ID, Generation: m.conn.Generation}
			}
		}
		r.store.Heartbeat(ctx, beats)
		for i, b := range beats {
			if b.Err != nil {
				r.redisFailed(ctx, b.Err)
				continue
			}
			lost := make([]*Member, len(b.Lost))
			for j, at := range b.Lost {
				lost[j] = part[i][at]
			}
			r.restore(ctx, b.Room, lost)
		}
	}
}

// silence is how long a living socket may go without being heard of: sockets are
// pinged every 15 s and given 10 s to answer.
const silence = 25 * time.Second

// restore puts members of one room back that Redis does not know. Those whose
// sockets were not heard of lately, or not since this process was stopped, are
// left out: they may have gone, or moved, long ago. If they are still there they
// are heard of soon, and put back by a later heartbeat.
//
// A member whose connection another socket has is contested: if that socket was
// only a latecomer and closes, this one is the tab's after all.
func (r *Replica) restore(ctx context.Context, room string, lost []*Member) {
	var back []*Member
	var conns []presence.Connection
	woke := r.link.lastStop()
	for _, m := range lost {
		if heard := m.heard(); r.members.has(m) && heard.After(woke) && time.Since(heard) < silence {
			back = append(back, m)
			conns = append(conns, m.conn)
		}
	}
	if len(back) == 0 {
		return
	}
	restored := 0
	for i, err := range r.store.Restore(ctx, room, conns) {
		m := back[i]
		switch {
		case err == nil:
			restored++
			r.members.contest(m, false)
			if !r.members.has(m) { // its socket closed meanwhile, and found nothing to release
				if err := r.store.Release(ctx, room, m.conn.ID, m.conn.Generation); err != nil {
					r.redisFailed(ctx, err)
				}
			}
		case errors.Is(err, presence.ErrSuperseded):
			r.members.contest(m, true)
		default:
			r.redisFailed(ctx, err) // lost again at the next heartbeat
		}
	}
	if restored > 0 {
		r.metrics.restored.Add(float64(restored))
		r.log.InfoContext(ctx, "put back members that redis had lost", "room", room, "members", restored)
	}
}

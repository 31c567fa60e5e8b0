package replica

import (
	"context"
	"errors"
	"iter"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"presence/internal/presence"
	"presence/internal/store"
)

const (
	// beatCalls is how many script calls share one round trip.
	beatCalls = 64

	// restoreRooms is how many rooms are put back at the same time. It leaves some of the
	// connections to Redis to other calls.
	restoreRooms = 8
)

// runHeartbeat renews one slot after the other until ctx ends, and all slots when Redis
// answers again.
func (r *Replica) runHeartbeat(ctx context.Context) error {
	tick := time.NewTicker(r.opts.HeartbeatInterval / slots)
	defer tick.Stop()
	for slot := 0; ; {
		select {
		case <-tick.C:
			proven := r.members.proven(r.links.settle / 2)
			inEach(maps.Keys(proven), func(t *trip, room string) { r.restore(ctx, t, room, proven[room]) })
			r.members.expire(time.Now())
			r.undoOnce(ctx) // also members that were put back but have left meanwhile
			r.beatOnce(ctx, slot)
			r.checkPuts(ctx, slot, false)
			if slot = (slot + 1) % slots; slot == 0 {
				r.registerOnce(ctx)
			}
		case <-r.links.regained:
			r.registerOnce(ctx)
			for slot := range slots {
				r.beatOnce(ctx, slot)
			}
			inEach(slices.Values(r.puts.inRooms()), func(t *trip, room string) {
				if r.links.of(room).forgot() {
					r.restorePuts(ctx, t, room)
				}
			})
			for slot := range slots {
				r.checkPuts(ctx, slot, true)
			}
		case <-r.losses.wake:
			lost := r.losses.take()
			var lists [][]*Member
			for room := range lost {
				lists = append(lists, r.members.inRoom(room)...)
			}
			r.beat(ctx, lists)
			inEach(maps.Keys(lost), func(t *trip, room string) { r.restorePuts(ctx, t, room) })
		case <-ctx.Done():
			return nil
		}
	}
}

// inEach calls do for rooms, for several at the same time. All must be put back before
// the settle time is over, however many they are.
func inEach(rooms iter.Seq[string], do func(t *trip, room string)) {
	var t trip
	var g errgroup.Group
	g.SetLimit(restoreRooms)
	for room := range rooms {
		g.Go(func() error {
			do(&t, room)
			return nil
		})
	}
	_ = g.Wait() // none returns an error
}

// registerOnce keeps the rooms of local members on the list of rooms that all replicas
// sweep.
func (r *Replica) registerOnce(ctx context.Context) {
	rooms := r.members.localRooms()
	known := make(map[string]bool, len(rooms))
	for _, room := range rooms {
		known[room] = true
	}
	r.puts.end(func(room string) bool {
		return r.links.of(room).trusted() == nil // the time for which Redis is away does not count
	})
	for _, room := range r.puts.inRooms() {
		if !known[room] {
			known[room] = true
			rooms = append(rooms, room)
		}
	}
	r.losses.keep(known)
	if len(rooms) > 0 {
		if err := r.store.Keep(ctx, rooms...); err != nil && r.roomFailed(ctx, "", err) {
			return
		}
	}
}

// undoOnce ends the joins of unknown outcome that have taken place. It ends each
// generation by itself, so whatever the tab has done since, here or elsewhere, stays. If
// the tab's earlier member is still here, it is asked for a sign of life, and then gets
// the connection back.
func (r *Replica) undoOnce(ctx context.Context) {
	doubts := r.members.doubts()
	doubts = slices.DeleteFunc(doubts, func(c claim) bool { return r.links.of(c.room).ready() != nil })
	if len(doubts) == 0 {
		return
	}
	var t trip
	var g errgroup.Group
	g.SetLimit(store.BatchSize) // the calls share round trips
	for _, c := range doubts {
		g.Go(func() error {
			if _, err := r.store.Leave(ctx, c.room, c.id, c.generation); errors.Is(err, presence.ErrUnavailable) {
				r.tripFailed(ctx, &t, c.room, err)
				return nil // the next tick tries again
			}
			r.members.forgetDoubt(c)
			if m := r.members.newest(c.tabKey); m != nil {
				r.members.ask(m, false)
			}
			return nil
		})
	}
	_ = g.Wait() // none returns an error
}

// beatOnce renews the leases of one slot.
func (r *Replica) beatOnce(ctx context.Context, slot int) { r.beat(ctx, r.members.inSlot(slot)) }

// beat renews the leases of members; each list is of one room. Nodes do not wait for each
// other.
func (r *Replica) beat(ctx context.Context, lists [][]*Member) {
	byNode := map[*link][][]*Member{}
	for _, list := range r.apart(lists) {
		l := r.links.of(list[0].room)
		byNode[l] = append(byNode[l], list)
	}
	var nodes sync.WaitGroup
	for _, lists := range byNode {
		if len(byNode) == 1 {
			r.beatNode(ctx, lists)
			return
		}
		nodes.Go(func() { r.beatNode(ctx, lists) })
	}
	nodes.Wait()
}

// beatNode is beat for the rooms of one node.
func (r *Replica) beatNode(ctx context.Context, lists [][]*Member) {
	for start := 0; start < len(lists); start += beatCalls {
		part := lists[start:min(start+beatCalls, len(lists))]
		beats := make([]*store.Beats, len(part))
		for i, list := range part {
			beats[i] = &store.Beats{Room: list[0].room, Holders: make([]store.Holder, len(list)), TTL: r.lease(list[0].conn)}
			for j, m := range list {
				beats[i].Holders[j] = store.Holder{ID: m.conn.ID, Generation: m.conn.Generation}
			}
		}
		r.store.Heartbeat(ctx, beats)
		var t trip
		for i, b := range beats {
			if b.Err != nil {
				r.tripFailed(ctx, &t, b.Room, b.Err)
				continue
			}
			lost := r.saw(ctx, b.Room, b.Birth) // perhaps before a probe has found it
			for _, at := range b.Lost {
				r.members.ask(part[i][at], lost || r.forgot(b.Room))
			}
		}
	}
}

// apart splits lists by the lease that members get. A member whose lease is shorter than
// the member TTL gets a list of its own. A member whose right to be there has ended is
// left out, and ends by its lease.
func (r *Replica) apart(lists [][]*Member) [][]*Member {
	bounded := func(m *Member) bool { return m.conn.Lease(r.opts.MemberTTL) < r.opts.MemberTTL }
	for i, list := range lists {
		if !slices.ContainsFunc(list, bounded) {
			continue
		}
		for _, m := range list {
			if lease := m.conn.Lease(r.opts.MemberTTL); lease > 0 && bounded(m) {
				lists = append(lists, []*Member{m})
				r.endsSoon(m.room, lease)
			}
		}
		lists[i] = slices.DeleteFunc(list, bounded)
	}
	return slices.DeleteFunc(lists, func(list []*Member) bool { return len(list) == 0 })
}

// restore puts back members of one room that Redis does not have. Each has just given a
// sign of life. A silent tab may have gone, moved, or left elsewhere long ago, and only
// its old socket has not noticed. When Redis has lost everything, members that are slow
// to answer come back as well: they were there a moment ago, and their next ping shows
// whether they still are.
//
// If another socket has a member's connection, the member stays in doubt. When that other
// socket turns out to be a late one and closes, the tab uses this member after all.
func (r *Replica) restore(ctx context.Context, t *trip, room string, back []*Member) {
	lost := make([]store.Lost, len(back))
	for i, m := range back {
		lost[i] = store.Lost{Connection: m.conn, TTL: r.lease(m.conn), Answered: r.members.heard(m)}
	}
	restored := 0
	birth, errs := r.store.Restore(ctx, room, lost)
	r.losses.put(room, birth)
	for i, m := range back {
		switch err := errs[i]; {
		case err == nil:
			restored++
			r.members.trust(m)
			r.revoke(ctx, m)
		case errors.Is(err, presence.ErrSuperseded):
			r.members.ask(m, false)
		case errors.Is(err, presence.ErrRoomFull):
			// Others have taken its place. It does not come back by itself when one of
			// them leaves.
			r.members.removeTab(m.tab())
			r.tripFailed(ctx, t, room, err)
			tell(m, err)
		case errors.Is(err, presence.ErrRemoved):
			r.members.removeTab(m.tab())
			tell(m, err)
		default:
			r.tripFailed(ctx, t, room, err) // the next heartbeat finds it lost again
			r.revoke(ctx, m)
		}
	}
	r.restored(ctx, room, restored)
}

// restored counts and logs the members that were put back.
func (r *Replica) restored(ctx context.Context, room string, n int) {
	if n > 0 {
		r.metrics.restored.Add(float64(n))
		r.log.InfoContext(ctx, "put back members that redis had lost", "room", room, "members", n)
	}
}

// revoke is called after a restore of m, which may have succeeded. If m is no longer a
// member, it ends or releases m in Redis. What ended m meanwhile found nothing in Redis.
func (r *Replica) revoke(ctx context.Context, m *Member) {
	switch in, left := r.members.has(m); {
	case left:
		r.members.doubt(m.tab(), m.conn.Generation)
	case in:
	default:
		if err := r.store.ReleaseFor(ctx, m.room, m.conn.ID, m.conn.Generation, m.conn.Lease(r.opts.LeaveGrace)); err != nil {
			r.roomFailed(ctx, m.room, err)
		}
	}
}

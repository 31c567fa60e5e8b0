package replica

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

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
			for room, members := range r.members.proven(r.links.settle / 2) {
				r.restore(ctx, room, members)
			}
			r.members.expire(time.Now())
			r.undoOnce(ctx) // what was put back for nothing, too
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
			for _, room := range r.puts.inRooms() {
				if r.links.of(room).forgot() {
					r.restorePuts(ctx, room)
				}
			}
			for slot := range slots {
				r.checkPuts(ctx, slot, true)
			}
		case <-r.losses.wake:
			for room := range r.losses.take() {
				r.beat(ctx, r.members.inRoom(room))
				r.restorePuts(ctx, room)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// registerOnce keeps the rooms of local members on the list that all replicas
// sweep.
func (r *Replica) registerOnce(ctx context.Context) {
	rooms := r.members.localRooms()
	known := make(map[string]bool, len(rooms))
	for _, room := range rooms {
		known[room] = true
	}
	r.puts.end(func(room string) bool {
		return r.links.of(room).trusted() == nil // time in which Redis is away does not count
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

// undoOnce undoes what of unknown outcome has taken place: each generation by itself,
// so that whatever the tab did since, here or elsewhere, stays. A member that was
// overtaken by what was undone is the tab's again.
func (r *Replica) undoOnce(ctx context.Context) {
	doubts := r.members.doubts()
	doubts = slices.DeleteFunc(doubts, func(c claim) bool { return r.links.of(c.room).ready() != nil })
	if len(doubts) == 0 {
		return
	}
	var once sync.Map // links of which it is known that they failed
	var g errgroup.Group
	g.SetLimit(store.BatchSize) // they share round trips
	for _, c := range doubts {
		g.Go(func() error {
			if _, err := r.store.Leave(ctx, c.room, c.id, c.generation); errors.Is(err, presence.ErrUnavailable) {
				if _, known := once.LoadOrStore(r.links.of(c.room), true); !known {
					r.roomFailed(ctx, c.room, err) // once for all: they shared the trouble
				}
				return nil // again at the next tick
			}
			r.members.certain(c)
			if m := r.members.among(c.tabKey); m != nil {
				r.members.ask(m, false)
			}
			return nil
		})
	}
	_ = g.Wait() // none returns an error
}

// beatOnce renews the leases of one slot.
func (r *Replica) beatOnce(ctx context.Context, slot int) { r.beat(ctx, r.members.inSlot(slot)) }

// beat renews the leases of members, each list of one room. Nodes do not wait for each
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
			beats[i] = &store.Beats{Room: list[0].room, Leases: make([]store.Lease, len(list)), TTL: r.lease(list[0].conn)}
			for j, m := range list {
				beats[i].Leases[j] = store.Lease{ID: m.conn.ID, Generation: m.conn.Generation}
			}
		}
		r.store.Heartbeat(ctx, beats)
		for i, b := range beats {
			if b.Err != nil {
				r.roomFailed(ctx, b.Room, b.Err)
				continue
			}
			r.saw(ctx, b.Room, b.Birth)
			for _, at := range b.Lost {
				r.members.ask(part[i][at], r.forgot(b.Room))
			}
		}
	}
}

// apart returns lists in which a member is alone whose lease is to be shorter than that of
// others, and in which those are missing whose right to be there has ended: they end by
// their leases.
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

// restore puts members of one room back that Redis does not know, and who have
// just given a sign of life: a tab that is silent may have gone, or moved, or left
// elsewhere long ago, and its old socket only not have noticed. Only when Redis
// lost everything, and so the good with the bad, those come back too who are slow
// to answer: they were there a moment ago, and their next ping tells.
//
// A member whose connection another socket has stays in doubt: if that socket was
// only a latecomer and closes, this one is the tab's after all.
func (r *Replica) restore(ctx context.Context, room string, back []*Member) {
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
			// Others came in its place. It does not come back by itself, whenever
			// one of them should leave.
			r.members.leave(m.tab())
			r.roomFailed(ctx, room, err)
			tell(m, err)
		case errors.Is(err, presence.ErrRemoved):
			r.members.leave(m.tab())
			tell(m, err)
		default:
			r.roomFailed(ctx, room, err) // lost again at the next heartbeat
			r.revoke(ctx, m)
		}
	}
	r.restored(ctx, room, restored)
}

// restored counts what was put back.
func (r *Replica) restored(ctx context.Context, room string, n int) {
	if n > 0 {
		r.metrics.restored.Add(float64(n))
		r.log.InfoContext(ctx, "put back members that redis had lost", "room", room, "members", n)
	}
}

// revoke takes back that m was, or may have been, put back if it is no longer a
// member: what ended it meanwhile found nothing to end in Redis.
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

package replica

import (
	"context"
	"errors"
	"maps"
	"sync"
	"time"

	"presence/internal/presence"
	"presence/internal/store"
)

const (
	// troubleInterval is the shortest time between two log lines about one room.
	troubleInterval = time.Minute

	// maxTroubled is how many rooms are remembered. When there are more, nothing is
	// logged about the others until a room can be forgotten.
	maxTroubled = 1000

	// movePatience is how long a room may take to move to another node of a Cluster
	// before it is marked stale.
	movePatience = 2 * time.Second
)

// troubles remembers the rooms that have a problem of their own, which affects no other
// room.
type troubles struct {
	mu      sync.Mutex // guards:
	logged  map[string]time.Time
	unswept map[string]bool // rooms that could not be swept, so Redis may list users who are gone
	moving  map[string]span // rooms on their way to another node
}

// span holds when something was first and last seen.
type span struct{ first, last time.Time }

func newTroubles() *troubles {
	return &troubles{logged: map[string]time.Time{}, unswept: map[string]bool{}, moving: map[string]span{}}
}

// moves notes that room is moving to another node, and reports whether the move takes
// longer than movePatience.
func (t *troubles) moves(room string, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	over := func(_ string, s span) bool { return now.Sub(s.last) > movePatience }
	maps.DeleteFunc(t.moving, over)
	s, known := t.moving[room]
	if !known {
		s.first = now
	}
	s.last = now
	t.moving[room] = s
	return now.Sub(s.first) > movePatience
}

// due reports whether an error of room should be logged now.
func (t *troubles) due(room string, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if at, ok := t.logged[room]; ok && now.Sub(at) < troubleInterval {
		return false
	}
	if len(t.logged) >= maxTroubled {
		for room, at := range t.logged {
			if now.Sub(at) >= troubleInterval {
				delete(t.logged, room)
			}
		}
		if len(t.logged) >= maxTroubled {
			return false
		}
	}
	t.logged[room] = now
	return true
}

// sweep notes whether room could be swept, and reports whether that has changed.
func (t *troubles) sweep(room string, ok bool) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.unswept[room] == !ok || !ok && len(t.unswept) >= maxTroubled {
		return false
	}
	if ok {
		delete(t.unswept, room)
	} else {
		t.unswept[room] = true
	}
	return true
}

// keep forgets the rooms that are no longer in use.
func (t *troubles) keep(used func(room string) bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for room := range t.unswept {
		if !used(room) {
			delete(t.unswept, room)
		}
	}
}

// hasGhosts reports whether Redis may list users in room who are gone, because the room
// can't be swept.
func (t *troubles) hasGhosts(room string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.unswept[room]
}

// roomFailed takes the error of a call about one room, or with room "" about the list
// of rooms. It reports whether the error means that Redis is away. Any other error is
// the room's own, and is logged once a minute at most.
func (r *Replica) roomFailed(ctx context.Context, room string, err error) (away bool) {
	return r.tripFailed(ctx, &trip{}, room, err)
}

// trip remembers which nodes did not answer, for calls that fail together: those of one
// round trip, or those that run at the same time. Together they are one failure of a
// node, because one late answer must not make Redis count as away.
type trip struct {
	mu     sync.Mutex // guards:
	silent map[*link]bool
}

// fails notes that a node did not answer, and reports whether that is new.
func (t *trip) fails(l *link) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.silent[l] {
		return false
	}
	if t.silent == nil {
		t.silent = map[*link]bool{}
	}
	t.silent[l] = true
	return true
}

// tripFailed is roomFailed for one of the calls of a trip.
func (r *Replica) tripFailed(ctx context.Context, t *trip, room string, err error) (away bool) {
	if errors.Is(err, presence.ErrUnavailable) {
		switch {
		case r.store.Clustered() && room == "":
			// The probes find out whether the nodes answer. This call is about what all
			// rooms share.
		case errors.Is(err, store.ErrAvoided), r.isMoving(room, err):
		default:
			if l := r.links.of(room); t.fails(l) {
				r.redisFailed(ctx, l, err)
			}
		}
		return true
	}
	if ctx.Err() == nil && r.troubles.due(room, time.Now()) {
		r.log.WarnContext(ctx, "room in trouble", "room", room, "err", err)
	}
	if room != "" && errors.Is(err, presence.ErrDamaged) {
		r.repair(ctx, room)
	}
	return false
}

// repair makes a damaged room begin anew. It deletes the room's data, unless another
// replica did so a moment ago, and all replicas put back their members. Until they
// have, the room is stale.
func (r *Replica) repair(ctx context.Context, room string) {
	l := r.links.of(room)
	if l.trusted() != nil {
		return // the room is stale anyway, and perhaps only half put back
	}
	cleared, err := r.store.Clear(ctx, room, l.settle)
	if err != nil {
		r.redisFailed(ctx, l, err)
		return
	}
	if cleared {
		r.metrics.repaired.Inc()
		r.losses.over(room) // members that were put back before this are gone again
		r.peers.clears(room)
	}
	r.views.MarkLost(room, r.Lost(ctx, room))
	r.sweptRoom(room, true) // the room is empty now: nobody is listed who is gone
}

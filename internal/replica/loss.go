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

// Views is informed when the views of rooms can't be trusted, and when they can again.
// [presence/internal/room.Rooms] implements it.
type Views interface {
	// MarkStale marks the views of rooms (nil: all) as stale until the rooms are read
	// again.
	MarkStale(rooms func(room string) bool)

	// MarkLost marks the view of a room as stale until the room is read again. That read
	// happens at that time or later.
	MarkLost(room string, at time.Time)

	// Settled says that reads of rooms (nil: all) can be trusted again. The next read
	// replaces the view, even if the room's data were lost in between.
	Settled(rooms func(room string) bool)

	// Reread makes one room be read again.
	Reread(room string)
}

// blind ignores everything. It stands for the views until [Replica.Tell] is called.
type blind struct{}

// MarkStale does nothing.
func (blind) MarkStale(func(string) bool) {}

// MarkLost does nothing.
func (blind) MarkLost(string, time.Time) {}

// Settled does nothing.
func (blind) Settled(func(string) bool) {}

// Reread does nothing.
func (blind) Reread(string) {}

// losses holds the rooms that lost their data one by one, for example by an eviction, a
// DEL or a failover. A room whose birth has changed has lost its data.
type losses struct {
	wake chan struct{} // holds one token: renew the members of the rooms in renew

	mu     sync.Mutex           // guards:
	births map[string]birth     // births of rooms with members here, as last read
	until  map[string]time.Time // when a room that lost its data can be trusted again
	renew  map[string]bool
}

// birth is the birth of a room, and when it was last noted.
type birth struct {
	id    string
	noted time.Time
}

func newLosses() *losses {
	return &losses{wake: make(chan struct{}, 1), births: map[string]birth{}, until: map[string]time.Time{}, renew: map[string]bool{}}
}

// see notes the birth of a room that has members here, and reports whether the room has
// lost its data since the birth that was known before.
func (l *losses) see(room, id string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	known := l.births[room].id
	if id != "" { // otherwise the room does not exist in Redis now
		l.births[room] = birth{id, time.Now()}
	}
	return known != "" && known != id
}

// hasOlder reports whether this replica has members in an earlier life of room than the one
// with birth id. asked is when the read began that found id. If the known birth was noted
// after that, the read proves nothing.
func (l *losses) hasOlder(room, id string, asked time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	known := l.births[room]
	return known.id != "" && known.id != id && !asked.Before(known.noted)
}

// current reports whether room had this birth when members of this replica were last seen
// in it.
func (l *losses) current(room, birth string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return birth != "" && l.births[room].id == birth
}

// over ends the time for which a lost room can't be trusted. If the room is found lost
// again, that counts as a new loss.
func (l *losses) over(room string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.until, room)
}

// put notes the birth of a room after members were put back into it.
func (l *losses) put(room, id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if id != "" {
		l.births[room] = birth{id, time.Now()}
	}
}

// keep forgets the births of all other rooms, and losses that are over for a minute.
func (l *losses) keep(rooms map[string]bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for room := range l.births {
		if !rooms[room] {
			delete(l.births, room)
		}
	}
	for room, until := range l.until {
		if time.Since(until) > time.Minute {
			delete(l.until, room)
		}
	}
}

// unknown forgets the births of rooms (nil: all). While this replica was stopped or Redis
// was empty, other replicas may have ended these members and rooms for good reasons.
func (l *losses) unknown(rooms func(room string) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	maps.DeleteFunc(l.births, func(room string, _ birth) bool { return rooms == nil || rooms(room) })
}

// lost notes that room has lost its data. It returns when the room can be trusted again,
// and whether this loss is new.
func (l *losses) lost(room string, settle time.Duration) (until time.Time, isNew bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if until = l.until[room]; until.After(now) {
		return until, false
	}
	until = now.Add(settle)
	l.until[room] = until
	l.renew[room] = true
	select {
	case l.wake <- struct{}{}:
	default:
	}
	return until, true
}

// take returns the rooms whose members have to be renewed at once.
func (l *losses) take() map[string]bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	taken := l.renew
	l.renew = map[string]bool{}
	return taken
}

// untilTrusted returns how long it takes until a lost room can be trusted again; 0 or less if it
// can be trusted now.
func (l *losses) untilTrusted(room string) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	until, ok := l.until[room]
	if !ok {
		return 0
	}
	return time.Until(until)
}

// Tell sets the views that the replica informs. It must be called once, before Run.
func (r *Replica) Tell(views Views) { r.views = views }

// Trusted returns nil when the data of room in Redis may be shown.
func (r *Replica) Trusted(room string) error {
	if err := r.links.of(room).trusted(); err != nil {
		return err
	}
	if r.losses.untilTrusted(room) > 0 {
		return errSettling
	}
	return nil
}

// Await waits until the data of room in Redis may be shown, while replicas put back what
// Redis lost. Otherwise it returns the reason why they may not: at once when Redis is
// away, or when ctx ends.
func (r *Replica) Await(ctx context.Context, room string) error {
	for {
		soon, err := r.links.of(room).pending()
		if soon == nil && err != nil {
			return err
		}
		var wait <-chan time.Time
		if soon == nil {
			left := r.losses.untilTrusted(room)
			if left <= 0 {
				return nil
			}
			wait, err = time.After(left), errSettling
		}
		select {
		case <-soon:
		case <-wait:
		case <-ctx.Done():
			return err
		}
	}
}

// Current reports whether all these epochs are the known ones and their data may be
// shown. When an epoch is not the known one, or the node's clock was stepped ahead, Current
// probes the node to find out what happened.
func (r *Replica) Current(ctx context.Context, epochs ...store.Epoch) bool {
	current := true
	for _, e := range epochs {
		same, known := r.links.epochs.is(e)
		l := r.links.tagged(e.Tag)
		if l != nil && (!same || l.jumped(e.Now)) {
			if r.probeOnce(ctx, l); !known { // slots have moved
				same, _ = r.links.epochs.is(e)
			}
		}
		current = current && same && l != nil && l.trusted() == nil
	}
	return current
}

// Doubtful reports whether Redis may still list users in room who are gone, because the
// room can't be swept.
func (r *Replica) Doubtful(room string) bool { return r.troubles.hasGhosts(room) }

// Failed takes the error of a call about room, and reports whether it means that Redis is
// away.
func (r *Replica) Failed(ctx context.Context, room string, err error) (away bool) {
	return r.roomFailed(ctx, room, err)
}

// Lost takes the news that Redis has lost the data of room. It makes this replica put
// back its members of the room and its connections without a socket. It returns when the
// other replicas will have done the same.
func (r *Replica) Lost(ctx context.Context, room string) time.Time {
	if l := r.links.of(room); l.trusted() != nil && !l.regaining() {
		return time.Now().Add(r.links.settle) // all rooms are being put back, or Redis is away
	}
	until, isNew := r.losses.lost(room, r.links.settle)
	if isNew {
		r.metrics.lost.Inc()
		if r.troubles.due(room, time.Now()) {
			r.log.WarnContext(ctx, "redis lost the data of a room", "room", room)
		}
	}
	return until
}

// Saw takes the birth of a room from a read that began at asked. If this replica has
// members of the room, and only in an earlier life of it, the room has lost its data.
func (r *Replica) Saw(ctx context.Context, room, birth string, asked time.Time) {
	if r.losses.hasOlder(room, birth, asked) {
		r.saw(ctx, room, birth)
	}
}

// saw notes the birth of a room that has members here, and reports whether the room has
// lost its data since.
func (r *Replica) saw(ctx context.Context, room, birth string) (lost bool) {
	if lost = r.losses.see(room, birth); lost {
		if birth != "" {
			r.losses.over(room) // a new life has begun, and our members may not be in it
		}
		r.views.MarkLost(room, r.Lost(ctx, room))
	}
	return lost
}

// shown reports whether the data of the node of room may be shown.
func (r *Replica) shown(room string) bool { return r.links.of(room).trusted() == nil }

// missing is called when a connection was not found in room, which has that birth. It
// returns an error if Redis has just lost the room, and not everything has been put back
// yet. asked is when the search began.
func (r *Replica) missing(ctx context.Context, room, birth string, asked time.Time) error {
	r.Saw(ctx, room, birth, asked)
	if !r.shown(room) || r.losses.current(room, birth) {
		return nil
	}
	epochs, err := r.store.Epochs(ctx, room) // if nobody here is in the room, only the epoch tells
	if err == nil && !r.Current(ctx, epochs...) {
		err = presence.ErrUnavailable
	}
	return err
}

// forgot reports whether Redis has just lost the data of room. Then Redis lost the
// members that a call does not find.
func (r *Replica) forgot(room string) bool {
	return r.links.of(room).forgot() || r.losses.untilTrusted(room) > 0
}

// errSettling is the reason why rooms are not read while replicas put back members.
var errSettling = errors.New("Redis lost its data or was away; replicas are putting back what they hold")

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

// Views is told when the views of rooms can't be trusted, and when they can again.
// [presence/internal/room.Rooms] implements it.
type Views interface {
	// MarkStale marks the views of rooms, nil for all, until they are read again.
	MarkStale(rooms func(room string) bool)

	// MarkLost marks the view of a room until it is read again, not before at.
	MarkLost(room string, at time.Time)

	// Settled says that what is read of rooms, nil for all, from now on counts, whatever it
	// is.
	Settled(rooms func(room string) bool)

	// Reread has a room read again.
	Reread(room string)
}

// blind are views of nothing.
type blind struct{}

// MarkStale does nothing.
func (blind) MarkStale(func(string) bool) {}

// MarkLost does nothing.
func (blind) MarkLost(string, time.Time) {}

// Settled does nothing.
func (blind) Settled(func(string) bool) {}

// Reread does nothing.
func (blind) Reread(string) {}

// losses is which rooms have lost their data, each by itself: by an eviction, a DEL, a
// failover. A room's birth tells.
type losses struct {
	wake chan struct{} // holds one: members of rooms are to be renewed at once

	mu     sync.Mutex           // guards:
	births map[string]birth     // of rooms with members here, as Redis had it last
	until  map[string]time.Time // of rooms that were lost lately, when they may be trusted again
	renew  map[string]bool
}

// birth is that of a room, and when it was noted last.
type birth struct {
	id    string
	noted time.Time
}

func newLosses() *losses {
	return &losses{wake: make(chan struct{}, 1), births: map[string]birth{}, until: map[string]time.Time{}, renew: map[string]bool{}}
}

// see notes the birth of a room that has members here, and reports whether that says that
// the room has lost its data.
func (l *losses) see(room, id string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	known := l.births[room].id
	if id != "" { // else members are in no life of the room yet
		l.births[room] = birth{id, time.Now()}
	}
	return known != "" && known != id
}

// has reports whether members of room were known here, and in another life of it, when what
// has this birth was asked for: an older answer tells nothing.
func (l *losses) has(room, id string, asked time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	known := l.births[room]
	return known.id != "" && known.id != id && !asked.Before(known.noted)
}

// current reports whether room has members here, and had that birth when they were seen
// there last.
func (l *losses) current(room, birth string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return birth != "" && l.births[room].id == birth
}

// over ends the time in which room, as it was lost, is not to be trusted: what is found
// to be lost next is so for another reason.
func (l *losses) over(room string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.until, room)
}

// put notes the birth of a room into which members were put back.
func (l *losses) put(room, id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if id != "" {
		l.births[room] = birth{id, time.Now()}
	}
}

// keep forgets the births of rooms but these.
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

// unknown forgets the births of rooms, nil for all, since members here may have been ended
// meanwhile with good reason, and rooms with them.
func (l *losses) unknown(rooms func(room string) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	maps.DeleteFunc(l.births, func(room string, _ birth) bool { return rooms == nil || rooms(room) })
}

// lost notes that room has lost its data, and returns when it may be trusted again, and
// whether that is new.
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

// take returns the rooms whose members are to be renewed at once.
func (l *losses) take() map[string]bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	taken := l.renew
	l.renew = map[string]bool{}
	return taken
}

// left is for how long room is not to be trusted yet, as it was lost; 0 or less: it is.
func (l *losses) left(room string) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	until, ok := l.until[room]
	if !ok {
		return 0
	}
	return time.Until(until)
}

// Tell sets the views that the replica informs. It must be called before Run, once.
func (r *Replica) Tell(views Views) { r.views = views }

// Trusted returns nil when what Redis holds of room may be shown.
func (r *Replica) Trusted(room string) error {
	if err := r.links.of(room).trusted(); err != nil {
		return err
	}
	if r.losses.left(room) > 0 {
		return errSettling
	}
	return nil
}

// Await waits, while replicas put back what Redis lost, until what it holds of room may
// be shown, and returns why it may not: at once when Redis is away, and when ctx ends.
func (r *Replica) Await(ctx context.Context, room string) error {
	for {
		soon, err := r.links.of(room).pending()
		if soon == nil && err != nil {
			return err
		}
		var wait <-chan time.Time
		if soon == nil {
			left := r.losses.left(room)
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

// Current reports whether all epochs are those of the data which is known, and may be
// shown; if not, what has become of it is found out.
func (r *Replica) Current(ctx context.Context, epochs ...store.Epoch) bool {
	current := true
	for _, e := range epochs {
		same, known := r.links.epochs.is(e)
		l := r.links.tagged(e.Tag)
		if l != nil && !same {
			if r.probeOnce(ctx, l); !known { // slots have moved
				same, _ = r.links.epochs.is(e)
			}
		}
		current = current && same && l != nil && l.trusted() == nil
	}
	return current
}

// Doubtful reports whether users may be in room in Redis who are gone, since it can't be
// swept.
func (r *Replica) Doubtful(room string) bool { return r.troubles.hasGhosts(room) }

// Failed takes an error of a call about room, and reports whether it says that Redis is
// away.
func (r *Replica) Failed(ctx context.Context, room string, err error) (away bool) {
	return r.roomFailed(ctx, room, err)
}

// Lost takes the news that Redis has lost the data of room: members and connections
// without a socket that are known here are put back. It returns when other replicas will
// have done the same.
func (r *Replica) Lost(ctx context.Context, room string) time.Time {
	if l := r.links.of(room); l.trusted() != nil && !l.regaining() {
		return time.Now().Add(r.links.settle) // that of all rooms was, or Redis is away
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

// Saw takes the birth of a room as it was read, by a call that was made then: if members
// were known here, and none of them in this life of the room, its data were lost.
func (r *Replica) Saw(ctx context.Context, room, birth string, asked time.Time) {
	if r.losses.has(room, birth, asked) {
		r.saw(ctx, room, birth)
	}
}

// saw notes the birth of a room that has members here, and reports whether that says that
// the room has lost its data.
func (r *Replica) saw(ctx context.Context, room, birth string) (lost bool) {
	if lost = r.losses.see(room, birth); lost {
		if birth != "" {
			r.losses.over(room) // it began anew, and members here may not be in it
		}
		r.views.MarkLost(room, r.Lost(ctx, room))
	}
	return lost
}

// shown reports whether what the node of room holds may be shown.
func (r *Replica) shown(room string) bool { return r.links.of(room).trusted() == nil }

// missing returns an error if a connection is not in room, which has that birth, since
// Redis has just lost it, and not all is put back yet. asked is when it was looked for.
func (r *Replica) missing(ctx context.Context, room, birth string, asked time.Time) error {
	r.Saw(ctx, room, birth, asked)
	if !r.shown(room) || r.losses.current(room, birth) {
		return nil
	}
	epochs, err := r.store.Epochs(ctx, room) // of a room with nobody here only this tells
	if err == nil && !r.Current(ctx, epochs...) {
		err = presence.ErrUnavailable
	}
	return err
}

// forgot reports whether members of room whom Redis does not know are among all those
// that it just lost.
func (r *Replica) forgot(room string) bool {
	return r.links.of(room).forgot() || r.losses.left(room) > 0
}

// errSettling is why rooms are not read.
var errSettling = errors.New("Redis lost its data or was away; replicas are putting back what they hold")

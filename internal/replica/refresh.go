package replica

import (
	"context"
	"runtime"
	"time"

	"presence/internal/store"
)

const (
	// refreshRooms is how many rooms are read in one round trip.
	refreshRooms = 128

	// retryRead is the wait after a read that failed.
	retryRead = 250 * time.Millisecond

	// maxFanOut and fanOutShare bound how long a room waits for nearly all of its
	// viewers to be shown the last view before it is read again: a share for each
	// viewer, many times what sending it takes, so that in a small room nobody waits
	// for somebody who hangs.
	maxFanOut   = 5 * time.Second
	fanOutShare = 2 * time.Millisecond
)

// window returns how long after viewers were told of a room they may be told
// again, and whether it is known yet. It is the coalescing window, or longer if
// showing the last view took long: that uses at most all processors for that time,
// so that with twice their number of times it uses half a processor. A room that
// changes faster than its pages can be sent the changes so slows down by itself,
// instead of starving the joins that it is about. The caller holds rooms.mu.
func (r *Replica) window(rm *room, now time.Time) (window time.Duration, known bool) {
	if rm.telling.pending && now.Sub(rm.telling.at) < min(maxFanOut, time.Duration(len(rm.viewers))*fanOutShare) {
		return r.opts.Coalesce, false
	}
	stretch := 2 * runtime.GOMAXPROCS(0)
	return max(r.opts.Coalesce, min(time.Duration(stretch)*rm.telling.took, maxFanOut)), true
}

// changed takes a message, or the advice to read a room again, from the watch.
func (r *Replica) changed(e store.Event) {
	r.rooms.mu.Lock()
	defer r.rooms.mu.Unlock()
	rm := r.rooms.byName[e.Room]
	if rm == nil || !e.Resync && e.Occupancy.Version <= rm.view.Load().Version {
		return // nobody looks any more, or it was read after this change already
	}
	if !e.Resync && rm.heard.IsZero() {
		rm.heard = time.Now()
	}
	r.markDirtyLocked(rm)
}

// markDirtyLocked has rm read as soon as the coalescing window allows: at once
// after a quiet time, else when the window since the last push has passed.
func (r *Replica) markDirtyLocked(rm *room) {
	if !rm.dirty {
		rm.dirty = true
		r.rooms.rouse()
	}
}

// readAll has every watched room read.
func (r *Replica) readAll() {
	r.rooms.mu.Lock()
	defer r.rooms.mu.Unlock()
	for _, rm := range r.rooms.byName {
		r.markDirtyLocked(rm)
	}
	r.rooms.rouse() // also for those that became dirty when nothing could be read
}

// markStale marks every watched room and tells those who look.
func (r *Replica) markStale() {
	for _, rm := range r.rooms.watched() {
		r.markRoomStale(rm)
	}
}

// markRoomStale marks one watched room, and tells those who look if that is new.
func (r *Replica) markRoomStale(rm *room) {
	if view := *rm.view.Load(); !view.Stale {
		view.Stale = true
		r.show(rm, view, true)
	}
}

// runRefresh reads rooms that changed, and from time to time all, until ctx ends.
func (r *Replica) runRefresh(ctx context.Context) error {
	resync := time.NewTicker(resyncInterval)
	defer resync.Stop()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-r.rooms.wake:
		case <-resync.C:
			r.readAll()
			r.remind()
		case <-ctx.Done():
			return nil
		}
		if next, ok := r.refreshOnce(ctx); ok {
			timer.Reset(next)
		}
	}
}

// refreshOnce reads the rooms that are due, and returns the time until the next
// is, and whether there is one.
func (r *Replica) refreshOnce(ctx context.Context) (next time.Duration, ok bool) {
	if r.link.trusted() != nil {
		return 0, false // they stay dirty; all are read when Redis is to be trusted again
	}
	batch, next, ok := r.takeDue(time.Now())
	if len(batch) == 0 {
		return next, ok
	}
	names := make([]string, len(batch))
	for i, rm := range batch {
		names[i] = rm.name
	}
	readings, epoch, err := r.store.Snapshots(ctx, names...)
	if err != nil || !r.link.sameEpoch(epoch) {
		r.putBack(batch)
		if err != nil {
			r.redisFailed(ctx, err)
		} else {
			r.probeOnce(ctx) // the data was lost: what was read is not what there is to see
		}
		return retryRead, true
	}
	if r.link.trusted() != nil {
		r.putBack(batch)
		return 0, false
	}
	for i, rm := range batch {
		if err := readings[i].Err; err != nil {
			if r.roomFailed(ctx, rm.name, err) {
				r.putBack(batch[i : i+1])
			} else {
				r.markRoomStale(rm) // read again at the next resync
			}
			continue
		}
		view := View{Snapshot: readings[i].Snapshot, Stale: r.troubles.hasGhosts(rm.name), AsOf: time.Now()}
		old := rm.view.Load()
		if view.Occupancy == old.Occupancy && view.Stale == old.Stale && !old.AsOf.IsZero() {
			r.rooms.confirm(rm, old, view.AsOf)
			continue
		}
		// Lower versions are taken too: what was read is what there is.
		r.show(rm, view, true)
	}
	batch, next, ok = r.nextDue(time.Now())
	if len(batch) > 0 {
		return 0, true
	}
	return next, ok
}

// takeDue takes up to refreshRooms rooms that are due and marks them clean: a
// change that is heard of while they are being read makes them dirty again.
func (r *Replica) takeDue(now time.Time) (batch []*room, next time.Duration, ok bool) {
	batch, next, ok = r.nextDue(now)
	r.rooms.mu.Lock()
	defer r.rooms.mu.Unlock()
	for _, rm := range batch {
		rm.dirty = false
		rm.read, rm.heard = rm.heard, time.Time{}
	}
	return batch, next, ok
}

// nextDue lists up to refreshRooms rooms that are due at now, and the time
// until the next of the others is.
func (r *Replica) nextDue(now time.Time) (batch []*room, next time.Duration, ok bool) {
	r.rooms.mu.Lock()
	defer r.rooms.mu.Unlock()
	for _, rm := range r.rooms.byName {
		if !rm.dirty {
			continue
		}
		wait := max(0, rm.retry.Sub(now), rm.telling.at.Add(r.opts.Coalesce).Sub(now))
		if wait == 0 {
			window, known := r.window(rm, now)
			if wait = max(0, rm.telling.at.Add(window).Sub(now)); !known {
				wait = r.opts.Coalesce
			}
		}
		if wait == 0 && len(batch) < refreshRooms {
			batch = append(batch, rm)
			continue
		}
		if !ok || wait < next {
			next, ok = wait, true
		}
	}
	return batch, next, ok
}

// putBack makes rooms dirty again whose reading failed.
func (r *Replica) putBack(batch []*room) {
	r.rooms.mu.Lock()
	defer r.rooms.mu.Unlock()
	for _, rm := range batch {
		if !rm.read.IsZero() {
			rm.heard = rm.read
		}
		rm.dirty, rm.retry = true, time.Now().Add(retryRead)
	}
}

// remind tells the viewers of rooms in which somebody has not looked at the
// newest view again: the push may have been dropped by a full queue.
func (r *Replica) remind() {
	for _, rm := range r.rooms.watched() {
		r.rooms.mu.Lock()
		if rm.behind() && !rm.telling.running && time.Since(rm.telling.at) > r.opts.Coalesce {
			r.metrics.reminders.Inc()
			r.tellLocked(rm)
		}
		r.rooms.mu.Unlock()
	}
}

package room

import (
	"context"
	"errors"
	"sync"
	"time"

	"presence/internal/presence"
	"presence/internal/store"
)

const (
	// resyncInterval is how often rooms are read of which no change was heard. It bounds
	// how late a lost message can make a count.
	resyncInterval = 5 * time.Second

	// refreshRooms is how many rooms are read in one round trip.
	refreshRooms = 128

	// retryRead is the wait after a read that failed.
	retryRead = 250 * time.Millisecond
)

// changed takes a message from the watch, or its advice to read a room again.
func (rs *Rooms) changed(e store.Event) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rm := rs.byName[e.Room]
	if rm == nil || !e.Resync && e.Occupancy.Version <= rm.view.Load().Version {
		return // the room has no viewer any more, or has already been read after this change
	}
	if !e.Resync && rm.heardAt.IsZero() {
		rm.heardAt = time.Now()
	}
	rm.heardVersion = max(rm.heardVersion, e.Occupancy.Version)
	rs.markDirtyLocked(rm)
}

// markDirtyLocked makes rm be read as soon as one of its audiences can be shown it.
func (rs *Rooms) markDirtyLocked(rm *room) {
	if !rm.dirty {
		rm.dirty = true
		rs.rouse()
	}
}

// Reread makes a room be read again, if it has viewers.
func (rs *Rooms) Reread(name string) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if rm := rs.byName[name]; rm != nil {
		rs.markDirtyLocked(rm)
	}
}

// Settled says that reads of rooms (nil: all) can be trusted again: Redis answers, and
// the replicas have put back their members. The next read replaces the view, even if the
// room's data were lost in between.
func (rs *Rooms) Settled(rooms func(room string) bool) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for name, rm := range rs.byName {
		if rooms != nil && !rooms(name) {
			continue
		}
		rm.lost, rm.retry = true, time.Time{}
		rs.markDirtyLocked(rm)
	}
	rs.rouse() // also reads rooms that became dirty while nothing could be read
}

// resync makes every room be read again.
func (rs *Rooms) resync() {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for _, rm := range rs.byName {
		rs.markDirtyLocked(rm)
	}
}

// MarkStale marks the views of rooms (nil: all) as stale until the rooms are read again.
func (rs *Rooms) MarkStale(rooms func(room string) bool) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for name, rm := range rs.byName {
		if rooms == nil || rooms(name) {
			rs.markStaleLocked(rm)
		}
	}
}

// MarkLost marks the view of a room whose data Redis has lost, until the room is read
// again. That read happens at that time or later.
func (rs *Rooms) MarkLost(name string, at time.Time) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if rm := rs.byName[name]; rm != nil {
		rs.markLostLocked(rm, at)
	}
}

func (rs *Rooms) markLostLocked(rm *room, at time.Time) {
	rm.lost, rm.dirty, rm.retry = true, true, at
	rs.markStaleLocked(rm)
	rs.rouse()
}

func (rs *Rooms) markStaleLocked(rm *room) {
	if view := *rm.view.Load(); !view.Stale {
		view.Stale = true
		rs.showNewLocked(rm, view, nil)
	}
}

// showNewLocked makes view the newest view of rm.
func (rs *Rooms) showNewLocked(rm *room, view View, change *presence.Change) {
	view.Sequence = rs.sequence.Add(1)
	rm.view.Store(&view)
	for _, a := range rm.audiences {
		a.news(change)
		if !view.Stale && a.heardAt.IsZero() {
			a.heardAt = rm.readHeardAt
		}
	}
	if !view.Stale {
		rm.readHeardAt = time.Time{}
	}
	rs.rouse()
}

// refresh reads rooms that changed, and from time to time all rooms, and gives them to
// their audiences, until ctx ends.
func (rs *Rooms) refresh(ctx context.Context) {
	resync := time.NewTicker(resyncInterval)
	defer resync.Stop()
	timer := time.NewTimer(0)
	defer timer.Stop()
	var reads sync.WaitGroup
	defer reads.Wait()
	for {
		select {
		case <-timer.C:
		case <-rs.wake:
		case <-resync.C:
			rs.resync()
			rs.remind()
		case <-ctx.Done():
			return
		}
		for rs.refreshOnce(ctx, &reads) && ctx.Err() == nil {
		}
		if next, ok := rs.giveDue(time.Now()); ok {
			timer.Reset(next)
		}
	}
}

// refreshOnce reads rooms that are due, and reports whether more rooms may be. The nodes
// of a Cluster do not wait for each other: their reads run in goroutines, which reads
// waits for.
func (rs *Rooms) refreshOnce(ctx context.Context, reads *sync.WaitGroup) (more bool) {
	batch := rs.takeDue(time.Now())
	if len(batch) == 0 {
		return false
	}
	if !rs.store.Clustered() {
		rs.readTaken(ctx, batch)
		return len(batch) == refreshRooms
	}
	byNode := map[string][]*room{}
	for _, rm := range batch {
		node := rs.store.NodeOf(rm.name)
		byNode[node] = append(byNode[node], rm)
	}
	for node, part := range byNode {
		rs.setReading(node, true)
		reads.Go(func() {
			rs.readTaken(ctx, part)
			rs.setReading(node, false)
		})
	}
	return len(batch) == refreshRooms
}

// setReading notes whether rooms of a node are being read.
func (rs *Rooms) setReading(node string, on bool) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if on {
		rs.reading[node] = true
		return
	}
	delete(rs.reading, node)
	rs.rouse()
}

// waitsLocked reports whether rm can't be read now, because rm or other rooms of its node
// are being read.
func (rs *Rooms) waitsLocked(rm *room) bool {
	return rm.busy || len(rs.reading) > 0 && rs.reading[rs.store.NodeOf(rm.name)]
}

// readTaken reads rooms that [room.takeLocked] has marked as being read.
func (rs *Rooms) readTaken(ctx context.Context, batch []*room) {
	defer rs.release(batch)
	haves := make([]store.Have, len(batch))
	for i, rm := range batch {
		view := rm.view.Load()
		haves[i] = store.Have{Room: rm.name, Version: view.Version, Birth: view.Birth}
	}
	if again := rs.readBatch(ctx, batch, haves); len(again) > 0 {
		whole := make([]store.Have, len(again))
		for i, rm := range again {
			whole[i] = store.Have{Room: rm.name}
		}
		rs.readBatch(ctx, again, whole)
	}
}

// release ends the reading of rooms, and wakes the goroutines that wait for it.
func (rs *Rooms) release(batch []*room) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for _, rm := range batch {
		rm.busy = false
		rm.tryLocked()
	}
	rs.rouse()
}

// readBatch reads rooms. It returns the rooms that have to be read whole, because the
// changes do not continue from the view.
func (rs *Rooms) readBatch(ctx context.Context, batch []*room, haves []store.Have) (again []*room) {
	asOf := time.Now() // a view is as old as its question
	readings, err := rs.store.Read(ctx, haves...)
	if err != nil {
		readings = make([]store.Reading, len(batch))
		for i := range readings {
			readings[i].Err = err
		}
	}
	silent := map[string]bool{}       // nodes that did not answer
	current := map[store.Epoch]bool{} // whether each epoch is current
	for i, rm := range batch {
		r := readings[i]
		if errors.Is(r.Err, presence.ErrUnavailable) && silent[rs.store.NodeOf(rm.name)] {
			rs.putBack(ctx, rm) // the node's failure has been reported already
			continue
		}
		if r.Err != nil {
			if rs.readFailed(ctx, rm, r.Err) {
				silent[rs.store.NodeOf(rm.name)] = true
			}
			continue
		}
		is, known := current[r.Epoch]
		if !known {
			is = rs.trust.Current(ctx, r.Epoch)
			current[r.Epoch] = is
		}
		switch {
		case !is:
			rs.putBack(ctx, rm)
		case !rs.apply(ctx, rm, r, asOf):
			again = append(again, rm)
		}
	}
	return again
}

// readFailed handles a room that could not be read. If Redis is away, the room is read
// again soon. Otherwise the room is damaged: it is marked as stale, and read again at the
// next resync.
func (rs *Rooms) readFailed(ctx context.Context, rm *room, err error) (away bool) {
	if rs.trust.Failed(ctx, rm.name, err) {
		rs.putBack(ctx, rm)
		return true
	}
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.markStaleLocked(rm)
	rm.tryLocked()
	return false
}

// tryLocked wakes the viewers that wait for the first read, which has ended.
func (rm *room) tryLocked() {
	close(rm.tried)
	rm.tried = make(chan struct{})
}

// apply makes the reading r, which began at asOf, the view of rm, unless the data can't be
// trusted any more. It reports false if the changes do not lead from the view to the
// room's present state: then the whole room has to be read.
func (rs *Rooms) apply(ctx context.Context, rm *room, r store.Reading, asOf time.Time) bool {
	left := map[string]int64{}
	for _, c := range r.Changes {
		for _, l := range c.Left {
			switch l.Reason {
			case presence.ReasonRemoved:
				rs.trust.Removed(rm.name, l.User, c.Version)
			case presence.ReasonLeft:
				left[l.User] = c.Version
			case presence.ReasonClosed, presence.ReasonTimeout: // the lease ran out; each replica that remembers it knows when
			}
		}
	}
	if len(left) > 0 {
		rs.trust.Left(rm.name, left)
	}
	old := *rm.view.Load()
	next, change, ok := follow(old.Snapshot, r)
	if !ok {
		return false
	}
	if rs.trust.Trusted(rm.name) == nil {
		rs.trust.Saw(ctx, rm.name, r.Birth, asOf)
	}
	stale := rs.trust.Doubtful(rm.name)
	lost := lostSince(old.Snapshot, r)
	rs.mu.Lock()
	defer rs.mu.Unlock()
	// Ask this within the lock: a goroutine that withdraws the trust marks the view
	// afterwards.
	if rs.trust.Trusted(rm.name) != nil {
		rs.putBackLocked(ctx, rm)
		return true
	}
	if lost && !rm.lost {
		rs.markLostLocked(rm, rs.trust.Lost(ctx, rm.name))
		return true
	}
	rm.lost = false
	if !rm.dirty { // no change was heard of during the read
		rm.heardVersion = next.Version
	}
	defer rm.tryLocked()
	view := View{Snapshot: next, Stale: stale, AsOf: asOf}
	if old = *rm.view.Load(); !old.AsOf.IsZero() && view.Stale == old.Stale && view.Occupancy == old.Occupancy && view.Birth == old.Birth {
		view.Sequence = old.Sequence // read again, but nothing is new
		rm.view.Store(&view)
		return true
	}
	rs.showNewLocked(rm, view, change)
	return true
}

// follow returns the room after a reading by a reader who had old, and the change that
// leads to it; nil if there is none, or it is not known. ok is false if the reading does
// not continue from old.
func follow(old presence.Snapshot, r store.Reading) (next presence.Snapshot, change *presence.Change, ok bool) {
	if r.Whole {
		return r.Snapshot, nil, true
	}
	next = old
	for i, c := range r.Changes {
		if next, ok = next.Apply(c); !ok {
			return old, nil, false
		}
		if i > 0 {
			c = change.Then(c)
		}
		change = &c
	}
	return next, change, next.Occupancy == r.Occupancy
}

// lostSince reports whether a room that was old has lost its data before it was read as
// r, by a flush, an eviction or a failover. That is so if its version went back, or if it
// has another birth although users were in it.
func lostSince(old presence.Snapshot, r store.Reading) bool {
	if r.Birth == old.Birth {
		return r.Version < old.Version || r.Version == old.Version && r.Occupancy != old.Occupancy
	}
	return old.Users > 0
}

// takeDue returns up to refreshRooms rooms that have to be read now, and marks them
// clean. A change that is heard of during the read makes a room dirty again.
func (rs *Rooms) takeDue(now time.Time) (batch []*room) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for _, rm := range rs.byName {
		if rm.dirty && !rs.waitsLocked(rm) && rs.readInLocked(rm, now) <= 0 && rs.trust.Trusted(rm.name) == nil {
			rm.takeLocked()
			if batch = append(batch, rm); len(batch) == refreshRooms {
				break
			}
		}
	}
	return batch
}

// takeLocked marks rm clean and as being read. The caller reads it.
func (rm *room) takeLocked() {
	rm.busy, rm.dirty = true, false
	rm.readHeardAt, rm.heardAt = rm.heardAt, time.Time{}
}

// readInLocked returns how long after now rm, which is dirty, has to be read: as soon as
// one of its audiences could be shown it.
func (rs *Rooms) readInLocked(rm *room, now time.Time) time.Duration {
	soonest := time.Duration(-1)
	for _, a := range rm.audiences {
		if wait := a.wait(now, rs.opts.Coalesce); soonest < 0 || wait < soonest {
			soonest = wait
		}
	}
	return max(soonest, rm.retry.Sub(now))
}

// giveDue gives the newest view to each audience that lacks it and can be given it. It
// returns the time until there is more to do, and whether there is any.
func (rs *Rooms) giveDue(now time.Time) (next time.Duration, ok bool) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	later := func(wait time.Duration) {
		if !ok || wait < next {
			next, ok = wait, true
		}
	}
	for _, rm := range rs.byName {
		newest := rm.view.Load().Sequence
		for _, a := range rm.audiences {
			if a.givenSequence == newest {
				continue
			}
			if wait := a.wait(now, rs.opts.Coalesce); wait > 0 {
				later(wait)
				continue
			}
			rs.giveLocked(rm, a, now)
		}
		switch {
		case !rm.dirty || rs.waitsLocked(rm): // the end of the read rouses us
		case rs.trust.Trusted(rm.name) == nil:
			later(max(rs.readInLocked(rm, now), time.Millisecond))
		default: // no event says when a single room can be trusted again
			later(max(rm.retry.Sub(now), retryRead))
		}
	}
	return next, ok
}

// putBack makes a room dirty again whose read failed.
func (rs *Rooms) putBack(ctx context.Context, rm *room) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.putBackLocked(ctx, rm)
}

func (rs *Rooms) putBackLocked(ctx context.Context, rm *room) {
	if !rm.readHeardAt.IsZero() {
		rm.heardAt = rm.readHeardAt
	}
	// When the caller has gone, the failure says nothing about Redis: others read at once.
	if at := time.Now().Add(retryRead); ctx.Err() == nil && at.After(rm.retry) {
		rm.retry = at
	}
	rm.dirty = true
	rm.tryLocked()
}

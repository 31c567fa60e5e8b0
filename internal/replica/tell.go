package replica

import "time"

// telling is what viewers of a room are still to be told. A goroutine exists while
// there is something, for one room each: one that takes long holds up no other, and
// what changes meanwhile is told once, after that.
type telling struct {
	at      time.Time     // when there was something to tell last
	count   int           // how often there was, reminders left out
	took    time.Duration // from then to nearly all being shown it, lately
	pending bool          // that is not so yet

	heard   time.Time // when a change was heard of that they are still to be told; zero: none
	due     bool      // there is something
	counts  bool      // and it is more than a reminder
	running bool      // the goroutine exists
}

// tell tells viewers of rm that there is something new to see.
func (r *Replica) tell(rm *room) {
	r.rooms.mu.Lock()
	defer r.rooms.mu.Unlock()
	rm.telling.count++
	rm.telling.pending, rm.telling.counts = true, true
	if !rm.view.Load().Stale {
		if rm.telling.heard.IsZero() {
			rm.telling.heard = rm.read
		}
		rm.read = time.Time{}
	}
	r.tellLocked(rm)
}

// tellLocked has the viewers of rm look at it, by rooms.mu.
func (r *Replica) tellLocked(rm *room) {
	rm.telling.at, rm.telling.due = time.Now(), true
	if !rm.telling.running && !r.rooms.ended {
		rm.telling.running = true
		r.rooms.tellers.Go(func() { r.runTelling(rm) })
	}
}

// runTelling tells viewers of rm for as long as there is something to tell.
func (r *Replica) runTelling(rm *room) {
	for {
		shown, due := r.nextTelling(rm)
		if !due {
			return
		}
		r.opts.Notify(rm.name, shown)
	}
}

// nextTelling takes what is to be told, and returns what is to be called when nearly
// all have been shown it.
func (r *Replica) nextTelling(rm *room) (shown func(), due bool) {
	r.rooms.mu.Lock()
	defer r.rooms.mu.Unlock()
	t := &rm.telling
	if !t.due || r.rooms.ended {
		t.running = false
		return nil, false
	}
	at, count, counts := t.at, t.count, t.counts
	t.due, t.counts = false, false
	if !counts {
		return func() {}, true
	}
	var heard time.Time
	if !rm.view.Load().Stale {
		heard, t.heard = t.heard, time.Time{}
	}
	return func() {
		r.rooms.mu.Lock()
		defer r.rooms.mu.Unlock()
		t.took = time.Since(at)
		if !heard.IsZero() {
			r.metrics.shown.Observe(time.Since(heard).Seconds())
		}
		t.pending = t.count != count
	}, true
}

// stopTelling returns when nobody is being told of anything any more, and nobody will
// be.
func (r *Replica) stopTelling() {
	r.rooms.mu.Lock()
	r.rooms.ended = true
	r.rooms.mu.Unlock()
	r.rooms.tellers.Wait()
}

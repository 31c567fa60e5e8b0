package harness

import (
	"fmt"
	"slices"
	"time"
)

// Now returns what the page shows. Socket is false while there is no connection.
func (v *Visitor) Now() Sight {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.nowLocked()
}

func (v *Visitor) nowLocked() Sight {
	if len(v.history) == 0 {
		return Sight{}
	}
	now := v.history[len(v.history)-1]
	now.Socket = now.Socket && v.live
	return now
}

// Roster returns the names on the page, in their order. It needs Options.Names.
func (v *Visitor) Roster() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return readRoster(v.htmlLocked())
}

// Since returns everything that the page showed since an instant, including what it showed
// at that instant.
func (v *Visitor) Since(from time.Time) []Sight {
	v.mu.Lock()
	defer v.mu.Unlock()
	start := 0
	for i, s := range v.history {
		if !s.At.After(from) {
			start = i
		}
	}
	return slices.Clone(v.history[start:])
}

// Endings returns the ends of the visitor's sockets so far.
func (v *Visitor) Endings() []Ending {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Clone(v.endings)
}

// Frames returns how many updates came so far, first frames and answers included.
func (v *Visitor) Frames() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.frames
}

// Problem returns the mistake in a frame of the server, or nil if there was none.
func (v *Visitor) Problem() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.problem
}

// waiter is a goroutine that waits for a sight.
type waiter struct {
	cond func(Sight) bool
	done chan struct{}
}

// wakeLocked wakes the waiters whose condition holds.
func (v *Visitor) wakeLocked() {
	now := v.nowLocked()
	v.waiting = slices.DeleteFunc(v.waiting, func(w *waiter) bool {
		if !w.cond(now) {
			return false
		}
		close(w.done)
		return true
	})
}

// Await is Sees, but reports whether it happened instead of failing the test. It may be
// called from any goroutine.
func (v *Visitor) Await(limit time.Duration, cond func(Sight) bool) (time.Duration, bool) {
	start := time.Now()
	w := &waiter{cond: cond, done: make(chan struct{})}
	v.mu.Lock()
	v.waiting = append(v.waiting, w)
	v.wakeLocked()
	v.mu.Unlock()
	select {
	case <-w.done:
		return time.Since(start), true
	case <-time.After(limit):
		return limit, false
	}
}

// Sees waits until the page shows what cond asks for, and returns how long that
// took. It fails the test when that does not happen within limit.
func (v *Visitor) Sees(limit time.Duration, what string, cond func(Sight) bool) time.Duration {
	v.t.Helper()
	took, ok := v.Await(limit, cond)
	if !ok {
		sights := v.Since(time.Time{})
		v.t.Fatalf("not within %v, at %s: %s. It saw\n\t%v", limit.Round(time.Millisecond), time.Now().Format("05.000"), what,
			sights[max(0, len(sights)-8):])
	}
	return took
}

// SeesUsers waits until the page shows a count that is not stale, as Sees does.
func (v *Visitor) SeesUsers(limit time.Duration, users int) time.Duration {
	v.t.Helper()
	return v.Sees(limit, fmt.Sprintf("%d user(s) online", users), func(s Sight) bool {
		return s.Socket && s.Known && !s.Stale && s.Users == users
	})
}

// Package terse keeps a log readable while something goes wrong again and again.
// A [Line] is logged at most once in a while. A [State] is something that works or does
// not, with lines when that changes. Both count the lines they leave out, so that the
// next line can say the number.
package terse

import (
	"sync"
	"time"
)

const (
	// Interval is the least time between two lines about the same thing.
	Interval = time.Minute

	// lasts is how long a failure must last to be logged, even if another was logged
	// within the last Interval: the log must not end with outdated good news.
	lasts = 5 * time.Second
)

// Line is a line of the log that would come too often. The zero value is ready, and
// several goroutines may use it.
type Line struct {
	// Every is the least time between two lines; 0 means [Interval]. It must not
	// be changed after the first use.
	Every time.Duration

	mu   sync.Mutex // guards:
	said time.Time
	left int
}

// Due reports whether the line is to be written now, and how many were left out
// since the last one.
func (l *Line) Due() (leftOut int, due bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	every := l.Every
	if every == 0 {
		every = Interval
	}
	now := time.Now()
	if !l.said.IsZero() && now.Sub(l.said) < every {
		l.left++
		return 0, false
	}
	leftOut, l.left, l.said = l.left, 0, now
	return leftOut, true
}

// State is something that works or does not: a connection, a server. One line says
// that it fails, one each [Interval] that it still fails, and one that it works again.
// If it fails and recovers all the time, there are two lines each Interval. The zero
// value works, and several goroutines may use it.
type State struct {
	mu      sync.Mutex // guards:
	failing bool
	since   time.Time // when it began to fail
	told    bool      // that it fails was logged
	said    time.Time // when that was logged last, in this failure or an earlier one
	left    int
}

// Fails notes a failure. It reports whether to log it now, and how many failures were
// not logged since the last one that was.
func (s *State) Fails() (leftOut int, due bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if !s.failing {
		s.failing, s.since = true, now
	}
	switch {
	case s.said.IsZero(), now.Sub(s.said) >= Interval:
	case !s.told && now.Sub(s.since) >= lasts:
	default:
		s.left++
		return 0, false
	}
	leftOut, s.left, s.told, s.said = s.left, 0, true, now
	return leftOut, true
}

// Works notes that it works. It reports for how long it failed, and whether to log
// that it works again: only if the failure was logged.
func (s *State) Works() (lasted time.Duration, due bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.failing {
		return 0, false
	}
	due = s.told
	s.failing, s.told = false, false
	return time.Since(s.since), due
}

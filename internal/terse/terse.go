// Package terse keeps a log readable while something goes wrong again and again.
// A [Line] is what is said at most once in a while, and a [State] is what works or
// does not. Both count what they leave out, for the next line to tell.
package terse

import (
	"sync"
	"time"
)

const (
	// Interval is the least time between two lines about the same thing.
	Interval = time.Minute

	// lasts is how long a failure goes on until it is said although one was said
	// within the last Interval: the log must not end with good news that are wrong.
	lasts = 5 * time.Second
)

// Line is one line of the log that would come too often. The zero value is ready,
// and may be used by several goroutines.
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
// that it fails, one an [Interval] that it still does, and one that it works again.
// If it comes and goes, it is two lines an Interval. The zero value works, and may be
// used by several goroutines.
type State struct {
	mu      sync.Mutex // guards:
	failing bool
	since   time.Time // when it began to fail
	told    bool      // that it fails
	said    time.Time // when that was said last, this time or before
	left    int
}

// Fails notes that it does not work. It reports whether that is to be said now, and
// how many times it was not since it was said last.
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

// Works notes that it works. It reports whether that is to be said, since it was
// said that it does not, and for how long it did not.
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

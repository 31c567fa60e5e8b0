package app

import (
	"context"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	// postRate is how many forms a second one address may post, and how many calls
	// a second of the API an address without a key, or a member token, may make.
	// Offices and mobile networks share addresses. Behind a proxy that is not
	// trusted all visitors share one.
	postRate  = 200
	postBurst = bursts * postRate

	// bursts is how many seconds' worth may come at once. An empty bucket is full again
	// after that time.
	bursts = 2

	// forgetAddress is how long a sender is remembered after the last form or call:
	// longer than its bucket takes to fill.
	forgetAddress = 10 * time.Second
)

// limiter limits form posts, or calls of the API, for each address or other sender.
type limiter struct {
	perSecond int

	mu      sync.Mutex // guards:
	buckets map[string]*bucket
}

type bucket struct {
	*rate.Limiter
	used time.Time
}

func newLimiter(perSecond int) *limiter {
	return &limiter{perSecond: perSecond, buckets: map[string]*bucket{}}
}

// allow reports whether the sender may post or call once more now.
func (l *limiter) allow(sender string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.buckets[sender]
	if b == nil {
		b = &bucket{Limiter: rate.NewLimiter(rate.Limit(l.perSecond), bursts*l.perSecond)}
		l.buckets[sender] = b
	}
	b.used = time.Now()
	return b.Allow()
}

// run forgets senders until ctx ends.
func (l *limiter) run(ctx context.Context) error {
	tick := time.NewTicker(forgetAddress)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			l.mu.Lock()
			for sender, b := range l.buckets {
				if now.Sub(b.used) > forgetAddress {
					delete(l.buckets, sender)
				}
			}
			l.mu.Unlock()
		case <-ctx.Done():
			return nil
		}
	}
}

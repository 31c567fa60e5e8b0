package app

import (
	"context"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	// postRate and postBurst are how many forms a second one address may post, and
	// how often it may call the API without a key.
	// Offices and mobile networks share addresses, and behind a proxy that is
	// not trusted everybody does.
	postRate  = 200
	postBurst = 400

	// forgetAddress is how long an address is remembered after its last form:
	// longer than its bucket takes to fill.
	forgetAddress = 10 * time.Second
)

// limiter limits form posts, or calls of the API, for each address.
type limiter struct {
	mu      sync.Mutex // guards:
	buckets map[string]*bucket
}

type bucket struct {
	*rate.Limiter
	used time.Time
}

func newLimiter() *limiter { return &limiter{buckets: map[string]*bucket{}} }

// allow reports whether ip may post or call once more now.
func (l *limiter) allow(ip string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.buckets[ip]
	if b == nil {
		b = &bucket{Limiter: rate.NewLimiter(postRate, postBurst)}
		l.buckets[ip] = b
	}
	b.used = time.Now()
	return b.Allow()
}

// run forgets addresses until ctx ends.
func (l *limiter) run(ctx context.Context) error {
	tick := time.NewTicker(forgetAddress)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			l.mu.Lock()
			for ip, b := range l.buckets {
				if now.Sub(b.used) > forgetAddress {
					delete(l.buckets, ip)
				}
			}
			l.mu.Unlock()
		case <-ctx.Done():
			return nil
		}
	}
}

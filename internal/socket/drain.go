package socket

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/gorilla/websocket"
)

// Drain closes all connections with 1012 (service restart), in random order and evenly
// over the given time, so that their clients do not all reconnect at once. If over is 0,
// it closes them at once. From then on every new connection is accepted and closed at
// once: the listener should accept connections until the balancer has stopped sending
// them.
//
// It returns nil when no connection is left. If ctx ends first, it returns an error that
// wraps ctx's, and the remaining connections stay open.
func (u *Upgrader) Drain(ctx context.Context, over time.Duration) error {
	u.mu.Lock()
	if !u.draining && len(u.conns) == 0 {
		close(u.drained)
	}
	u.draining = true
	conns := slices.Collect(maps.Keys(u.conns))
	u.mu.Unlock()
	rand.Shuffle(len(conns), func(i, j int) { conns[i], conns[j] = conns[j], conns[i] })

	start := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	next := 0
	for {
		select {
		case <-u.drained:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("drain: %d connections left: %w", u.Len(), ctx.Err())
		case <-timer.C:
		}
		// Close all that are due: a timer may be late, and turns may be close together.
		for elapsed := time.Since(start); next < len(conns) && turn(next, len(conns), over) <= elapsed; next++ {
			_ = conns[next].CloseWith(websocket.CloseServiceRestart, "service restart")
		}
		if next < len(conns) {
			timer.Reset(turn(next, len(conns), over) - time.Since(start))
		}
	}
}

// turn returns when the i-th of n is due, from 0 to just before the end of over.
func turn(i, n int, over time.Duration) time.Duration {
	return time.Duration(float64(over) * float64(i) / float64(n))
}

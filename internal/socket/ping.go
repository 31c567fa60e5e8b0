package socket

import (
	"context"
	"math/rand/v2"
	"time"
)

// ticksPerPing is the number of ticks in a ping interval. The pings of many connections
// are spread over the ticks. A silent peer is dropped at most one tick late.
const ticksPerPing = 30

// firstPing returns when to first ping a connection: at a random time in the first
// interval. So connections that came together, after a restart, are not pinged together.
func firstPing(born time.Time, interval time.Duration) time.Time {
	return born.Add(time.Duration(rand.Int64N(int64(interval)) + 1))
}

// Run pings the peers and drops silent ones until ctx ends. It starts no goroutine that
// outlives it. Afterwards open connections stay open and are no longer watched, so call
// [Upgrader.Drain] first. Run must not be called twice at a time.
func (u *Upgrader) Run(ctx context.Context) error {
	p := u.newPinger(time.Now())
	ticker := time.NewTicker(p.every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			p.tickOnce(time.Now()) // the tick's own time may be long ago
		}
	}
}

// pinger is the state of Run.
type pinger struct {
	u     *Upgrader
	every time.Duration // between two ticks
	last  time.Time     // the last tick
	mercy time.Time     // no peer is dropped before this

	due, silent []*Conn // of one tick; kept to reuse their memory
}

func (u *Upgrader) newPinger(now time.Time) *pinger {
	return &pinger{u: u, every: max(u.opts.PingInterval/ticksPerPing, time.Millisecond), last: now}
}

// tickOnce pings the peers whose turn it is, and drops the silent ones.
//
// After a pause of the whole process all peers look silent, although this process did not
// listen. So if a tick is late, all peers are pinged, and none is dropped before it had
// time to answer. A pause of up to half a PongTimeout needs no such care, since the
// answers to the last pings still come in time.
func (p *pinger) tickOnce(now time.Time) {
	opts := &p.u.opts
	late := now.Sub(p.last) > p.every+opts.PongTimeout/2
	p.last = now
	if late {
		p.mercy = now.Add(opts.PongTimeout)
	}
	p.due, p.silent = p.due[:0], p.silent[:0]
	p.u.mu.Lock()
	for c := range p.u.conns {
		switch {
		case !now.Before(p.mercy) && now.Sub(c.Heard()) >= opts.PingInterval+opts.PongTimeout:
			p.silent = append(p.silent, c)
		case late || !now.Before(c.nextPing):
			c.nextPing = now.Add(opts.PingInterval)
			p.due = append(p.due, c)
		}
	}
	p.u.mu.Unlock()
	for _, c := range p.silent {
		c.drop(reasonPingTimeout)
	}
	for _, c := range p.due {
		_ = c.Ping() // fails if the connection has ended meanwhile
	}
	clear(p.due) // so that connections which have ended can be freed
	clear(p.silent)
}

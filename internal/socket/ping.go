package socket

import (
	"context"
	"math/rand/v2"
	"time"
)

// ticksPerPing is into how many portions a ping interval is divided: so many
// connections' pings are not one burst, and a silent peer is dropped at most this
// part of an interval late.
const ticksPerPing = 30

// firstPing returns when to ping a connection first: anywhere in the first
// interval, so that those that came together, after a restart, are spread.
func firstPing(born time.Time, interval time.Duration) time.Time {
	return born.Add(time.Duration(rand.Int64N(int64(interval)) + 1))
}

// Run pings the peers and drops the silent ones until ctx ends, and returns nil
// when it has stopped. It starts no goroutine that lasts. Connections that are
// open then stay so, and are no longer watched: [Upgrader.Drain] comes first.
// Run must not be called twice at a time.
func (u *Upgrader) Run(ctx context.Context) error {
	p := u.newPinger(time.Now())
	ticker := time.NewTicker(p.every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			p.tickOnce(time.Now()) // the tick's own time may be long past
		}
	}
}

// pinger is the state of Run.
type pinger struct {
	u     *Upgrader
	every time.Duration // the distance of ticks
	last  time.Time     // the last tick
	mercy time.Time     // nobody is judged before this

	due, silent []*Conn // of one tick, kept for their memory
}

func (u *Upgrader) newPinger(now time.Time) *pinger {
	return &pinger{u: u, every: max(u.opts.PingInterval/ticksPerPing, time.Millisecond), last: now}
}

// tickOnce pings those whose turn it is and drops the silent.
//
// After a pause of the whole process all peers look silent, though it is us who
// did not listen. So if a tick comes late, everybody is pinged, and nobody is
// judged before there was time to answer. A pause of up to half a PongTimeout
// needs no such care: an answer to the last ping still comes in time.
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
		_ = c.Ping() // fails if it has ended meanwhile
	}
	clear(p.due) // what has ended shall not be held
	clear(p.silent)
}

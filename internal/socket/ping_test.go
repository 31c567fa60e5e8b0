package socket

import (
	"context"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// countPings makes the peer read, and sends a value for each ping, whether the peer
// answers it or not.
func (p *peer) countPings(answer bool) <-chan struct{} {
	pings := make(chan struct{}, 10_000)
	pong := p.PingHandler()
	p.SetPingHandler(func(payload string) error {
		pings <- struct{}{}
		if answer {
			return pong(payload)
		}
		return nil
	})
	go func() {
		for {
			if _, _, err := p.ReadMessage(); err != nil {
				return
			}
		}
	}()
	return pings
}

func TestTickDropsExactlyTheSilent(t *testing.T) {
	f := serve(t, Options{})
	_, c := f.join()
	limit := c.Heard().Add(DefaultPingInterval + DefaultPongTimeout)
	p := f.up.newPinger(limit.Add(-2))
	p.tickOnce(limit.Add(-1))
	if n := f.up.Len(); n != 1 {
		t.Fatal("the peer was dropped too early")
	}
	p.tickOnce(limit)
	if n := f.up.Len(); n != 0 {
		t.Fatal("the silent peer was not dropped")
	}
	f.wantEnd(reasonPingTimeout)
	next(t, f.errs)
}

func TestTickPingsEachOnceAnIntervalAndSpread(t *testing.T) {
	f := serve(t, Options{})
	const peers = 60
	for range peers {
		f.join()
	}
	now := time.Now()
	p := f.up.newPinger(now)
	total, most := 0, 0
	for range ticksPerPing {
		now = now.Add(p.every)
		before := nextPings(f.up)
		p.tickOnce(now)
		pinged := 0
		for c, at := range nextPings(f.up) {
			if at != before[c] {
				pinged++
			}
		}
		total += pinged
		most = max(most, pinged)
	}
	if total != peers {
		t.Errorf("%d pings in one interval, want %d", total, peers)
	}
	if most > peers/3 {
		t.Errorf("%d of %d pings in one tick", most, peers)
	}
}

func nextPings(u *Upgrader) map[*Conn]time.Time {
	u.mu.Lock()
	defer u.mu.Unlock()
	m := make(map[*Conn]time.Time)
	for c := range u.conns {
		m[c] = c.nextPing
	}
	return m
}

func TestAfterAPauseEverybodyIsPingedBeforeAnybodyIsJudged(t *testing.T) {
	f := serve(t, Options{})
	peer, c := f.join()
	pings := peer.countPings(false)
	p := f.up.newPinger(c.Heard())

	now := c.Heard().Add(10 * time.Minute)
	p.tickOnce(now)
	next(t, pings)
	now = now.Add(p.every)
	p.tickOnce(now)
	if f.up.Len() != 1 {
		t.Fatal("the peer had no time to answer")
	}
	for mercy := now.Add(DefaultPongTimeout); now.Before(mercy); now = now.Add(p.every) {
		p.tickOnce(now)
	}
	if f.up.Len() != 0 {
		t.Fatal("the peer that did not answer is still there")
	}
	f.wantEnd(reasonPingTimeout)
}

func TestRunKeepsThoseThatAnswerAndDropsTheOthers(t *testing.T) {
	f := serve(t, Options{PingInterval: 60 * time.Millisecond, PongTimeout: 2 * time.Second})
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- f.up.Run(ctx) }()

	alive, _ := f.join()
	pings := alive.countPings(true)
	deaf, _ := f.join()
	deaf.countPings(false)
	_, stuck := f.joinTight()
	_ = stuck.WriteMessage(websocket.TextMessage, huge) // holds up nobody's pings

	f.wantEnd(reasonPingTimeout)
	f.wantEnd(reasonPingTimeout)
	for range 10 {
		next(t, pings)
	}
	if n := f.up.Len(); n != 1 {
		t.Errorf("%d connections are left, want the one that answers", n)
	}
	cancel()
	if err := next(t, ran); err != nil {
		t.Errorf("Run returned %v", err)
	}
}

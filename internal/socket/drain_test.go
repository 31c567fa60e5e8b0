package socket

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

func TestDrainSpreadsItsClosesAndRefusesNewcomers(t *testing.T) {
	f := serve(t, Options{})
	const n, over = 10, 500 * time.Millisecond
	start := time.Now()
	closed := make(chan time.Duration, n)
	for range n {
		p, _ := f.join()
		go func() {
			p.wantClose(websocket.CloseServiceRestart)
			closed <- time.Since(start)
		}()
	}
	start = time.Now()
	drained := make(chan error, 2)
	go func() { drained <- f.up.Drain(context.Background(), over) }()

	first := next(t, closed)
	f.dial(nil).wantClose(websocket.CloseServiceRestart)
	refused := 0
	var last time.Duration
	for range n - 1 {
		last = next(t, closed)
	}
	if err := next(t, drained); err != nil {
		t.Errorf("Drain returned %v", err)
	}
	// The lower bound is ours; the upper one is the machine's.
	if spread := last - first; spread < over/2 {
		t.Errorf("all were closed within %v, want about %v", spread, over)
	}
	for range n + 1 {
		if errors.Is(next(t, f.errs), ErrDraining) {
			refused++
		}
	}
	if refused != 1 {
		t.Errorf("Upgrade returned ErrDraining %d times, want once", refused)
	}
	if got := f.metric("presence_socket_closes_total", reasonDrain); got != n+1 {
		t.Errorf("closes_total{reason=drain} is %v, want %d", got, n+1)
	}
	go func() { drained <- f.up.Drain(context.Background(), over) }()
	if err := next(t, drained); err != nil {
		t.Errorf("the second Drain returned %v", err)
	}
	f.dial(nil).wantClose(websocket.CloseServiceRestart)
}

func TestDrainEndsWithItsContext(t *testing.T) {
	f := serve(t, Options{})
	f.join()
	_, c := f.join()
	ctx, cancel := context.WithCancel(context.Background())
	drained := make(chan error, 1)
	go func() { drained <- f.up.Drain(ctx, time.Hour) }()
	f.wantEnd(reasonDrain) // the first at once, the second in half an hour
	cancel()
	if err := next(t, drained); !errors.Is(err, context.Canceled) {
		t.Errorf("Drain returned %v, want context.Canceled", err)
	}
	if n := f.up.Len(); n != 1 {
		t.Errorf("Len is %d, want 1", n)
	}
	_ = c
}

func TestDrainsOfTwoAreBothDone(t *testing.T) {
	f := serve(t, Options{})
	p, _ := f.join()
	f.join()
	drained := make(chan error, 2)
	for range 2 {
		go func() { drained <- f.up.Drain(context.Background(), 0) }()
	}
	p.wantClose(websocket.CloseServiceRestart)
	for range 2 { // one peer does not answer
		if err := next(t, drained); err != nil {
			t.Errorf("Drain returned %v", err)
		}
	}
}

func TestDrainOfNobodyReturns(t *testing.T) {
	if err := New(Options{}).Drain(context.Background(), time.Hour); err != nil {
		t.Error(err)
	}
}

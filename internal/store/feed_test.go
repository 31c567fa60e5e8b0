package store

import (
	"bytes"
	"context"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"presence/internal/redistest"
)

// A listener without rooms ends after a while, since its node may be gone. It starts
// again with the next room.
func TestListenerWithoutRoomsEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(redistest.NewFake(t).Client(t), Options{})
		heard := make(chan Event, 16)
		w := s.NewWatch(quiet(), func(ev Event) { heard <- ev })
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _ = w.Run(ctx) })
		listeners := func() int {
			synctest.Wait()
			stacks := make([]byte, 1<<20)
			return bytes.Count(stacks[:runtime.Stack(stacks, true)], []byte("store.(*feed).run("))
		}
		for range 2 {
			w.Add("r")
			if ev := <-heard; ev.Room != "r" || !ev.Resync {
				t.Fatalf("heard %+v", ev)
			}
			if n := listeners(); n != 1 {
				t.Fatalf("%d listeners while there is a room", n)
			}
			w.Remove("r")
			time.Sleep(feedPatience + 2*probeInterval)
			if n := listeners(); n != 0 {
				t.Fatalf("%d listeners without a room", n)
			}
		}
		cancel()
		wg.Wait()
	})
}

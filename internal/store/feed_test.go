package store

import (
	"bytes"
	"context"
	"fmt"
	"runtime"
	"slices"
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

// watch runs a watch of s until the test ends.
func watch(t *testing.T, s *Store, tell func(Event)) *Watch {
	t.Helper()
	w := s.NewWatch(quiet(), tell)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = w.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return w
}

// When the room with the probe loses its last viewer, the probe moves to another room. The
// subscription keeps no channel of the room before.
func TestProbeLeavesNoChannelBehind(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		s := New(e.client(t), Options{})
		heard := make(chan Event, 16)
		w := watch(t, s, func(ev Event) { heard <- ev })
		for i := range 5 {
			room := fmt.Sprint("r", i)
			w.Add(room)
			if ev := <-heard; ev.Room != room || !ev.Resync {
				t.Fatalf("heard %+v, want a resync of %s", ev, room)
			}
			w.Remove(fmt.Sprint("r", i-1))
			want := []string{s.keys.channel(room), s.keys.probe(room, w.id)}
			var got []string
			for range 500 {
				got = must(e.admin.PubSubChannels(t.Context(), "presence:*").Result())
				if slices.Sort(got); slices.Equal(got, want) {
					break
				}
				time.Sleep(10 * time.Millisecond)
			}
			if !slices.Equal(got, want) {
				t.Fatalf("subscribed to %q, want %q", got, want)
			}
		}
	})
}

// A viewer may come back before Redis has confirmed that the room's subscription has ended.
// That is not taken for a room that has moved: other rooms are not read again.
func TestOwnUnsubscribeIsNoMove(t *testing.T) {
	server := redistest.Start(t)
	s := New(server.UserClient(t), Options{Sharded: true})
	admin := server.Client(t)
	stays, reloads := s.keys.channel("stays"), s.keys.channel("reloads")
	subscribed := func(channel string, n int64) {
		t.Helper()
		redistest.Eventually(t, 10*time.Second, fmt.Sprint(n, " subscribe to ", channel), func() bool {
			return must(admin.PubSubShardNumSub(t.Context(), channel).Result())[channel] == n
		})
	}
	// A watch that was held up for as long as a probe may take subscribes again rightly.
	for range 10 {
		start := time.Now()
		heard, held := make(chan Event, 16), make(chan struct{})
		w := s.NewWatch(quiet(), func(ev Event) {
			heard <- ev
			if !ev.Resync {
				<-held
			}
		})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _ = w.Run(ctx) })
		hears := func(room string, resync bool) bool {
			select {
			case ev := <-heard:
				return ev.Room == room && ev.Resync == resync
			case <-time.After(10 * time.Second):
				return false
			}
		}
		w.Add("stays")
		ok := hears("stays", true)
		w.Add("reloads")
		ok = ok && hears("reloads", true)
		admin.SPublish(t.Context(), stays, `{"version":1,"users":1,"connections":1}`)
		ok = ok && hears("stays", false) // now the watch reads nothing until it is let go
		w.Remove("reloads")
		subscribed(reloads, 0)
		w.Add("reloads")
		subscribed(reloads, 1)
		close(held)
		ok = ok && hears("reloads", true)
		admin.SPublish(t.Context(), stays, `{"version":2,"users":1,"connections":1}`)
		ok = ok && hears("stays", false)
		slow := time.Since(start) > probeDeadline
		cancel()
		wg.Wait()
		if ok {
			return
		}
		if !slow {
			t.Fatal("the subscription began anew")
		}
	}
	t.Error("the machine is too slow for this test")
}

// A room that moves to another node of a Cluster is noticed, also if its last viewer went and
// came back before.
func TestMoveIsNoticedAfterOwnUnsubscribes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := redistest.NewFakeCluster(t, 2)
		s := New(cluster.Client(t), Options{Sharded: true})
		heard := make(chan Event, 16)
		w := watch(t, s, func(ev Event) { heard <- ev })
		other := "a"
		for cluster.NodeOf(s.keys.channel(other)) != cluster.NodeOf(s.keys.channel("r")) {
			other += "a"
		}
		for range 3 {
			w.Add("r")
			if ev := <-heard; ev != (Event{Room: "r", Resync: true}) {
				t.Fatalf("heard %+v, want a resync", ev)
			}
			w.Add(other) // keeps the subscription
			w.Remove("r")
			synctest.Wait()
			for len(heard) > 0 {
				<-heard
			}
		}
		w.Add("r")
		if ev := <-heard; ev != (Event{Room: "r", Resync: true}) {
			t.Fatalf("heard %+v, want a resync", ev)
		}
		for range 3 {
			channel := s.keys.channel("r")
			if err := cluster.Move(channel, 1-cluster.NodeOf(channel)); err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			ev := <-heard
			for ev.Room == other {
				ev = <-heard
			}
			if ev != (Event{Room: "r", Resync: true}) || time.Since(start) > probeInterval+2*retryDelay {
				t.Fatalf("heard %+v %v after the move, want a resync", ev, time.Since(start))
			}
		}
	})
}

package store

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"presence/internal/presence"
	"presence/internal/redistest"
)

// env is a Redis of either kind, and a way to let time pass.
type env struct {
	// unit is a second in a bubble, and an hour on a real server, where the
	// time that the test itself takes must not count.
	unit time.Duration

	client  func(t testing.TB) redis.UniversalClient // with the rights of a store
	admin   redis.UniversalClient                    // the test's own, with all rights
	advance func(units int)
}

// each runs the test on miniredis in a bubble, and on a real server.
func each(t *testing.T, test func(t *testing.T, e *env)) {
	t.Run("miniredis", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			fake := redistest.NewFake(t)
			test(t, &env{
				unit:    time.Second,
				client:  fake.Client,
				admin:   fake.Client(t),
				advance: func(n int) { time.Sleep(time.Duration(n) * time.Second) }, // a bubble's: takes no time
			})
		})
	})
	t.Run("redis", func(t *testing.T) {
		server := redistest.Start(t)
		rdb := server.Client(t)
		test(t, &env{
			unit:   time.Hour,
			client: server.UserClient,
			admin:  rdb,
			// Leases are the only thing that ages: bring them nearer instead of waiting.
			advance: func(n int) {
				keys := must(rdb.Keys(t.Context(), "*:beats").Result())
				for _, key := range keys {
					for _, member := range must(rdb.ZRange(t.Context(), key, 0, -1).Result()) {
						rdb.ZIncrBy(t.Context(), key, -float64(n)*float64(time.Hour.Milliseconds()), member)
					}
				}
			},
		})
	})
}

// theOnly is the node of a Redis that is not a Cluster.
var theOnly = Node{Secret: true}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// store returns a running store with its own client, as a replica has one.
func (e *env) store(t *testing.T, opts Options) *Store {
	t.Helper()
	opts.MemberTTL, opts.LeaveGrace = 30*e.unit, 10*e.unit
	s := New(e.client(t), opts)
	e.run(t, s)
	return s
}

// run runs s until the test ends.
func (e *env) run(t *testing.T, s *Store) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

func user(name string) presence.User {
	return presence.User{ID: "id-of-" + strings.ReplaceAll(name, " ", "-"), Name: name}
}

// read returns the whole room.
func read(t testing.TB, s *Store, room string) presence.Snapshot {
	t.Helper()
	readings, err := s.Read(t.Context(), Have{Room: room})
	if err != nil || readings[0].Err != nil || !readings[0].Whole {
		t.Fatalf("Read(%s) = %+v, %v", room, readings, err)
	}
	return readings[0].Snapshot
}

func conn(id, generation, name string) presence.Connection {
	return presence.Connection{ID: id, Generation: generation, User: user(name)}
}

// check fails unless all keys of room have exactly these users, by name in the order of
// the roster, and that many connections.
func check(t *testing.T, s *Store, room string, connections int, names ...string) presence.Snapshot {
	t.Helper()
	snap := read(t, s, room)
	var roster []string
	for _, m := range snap.Members {
		roster = append(roster, m.Name)
	}
	if got, want := fmt.Sprint(snap.Users, snap.Connections, roster), fmt.Sprint(len(names), connections, names); got != want {
		t.Fatalf("room %s has users, connections and roster %s, want %s", room, got, want)
	}
	if n := must(s.rdb.SCard(t.Context(), s.keys.online(room)).Result()); int(n) != len(names) {
		t.Fatalf("SCARD = %d, want %d", n, len(names))
	}
	if n := must(s.rdb.HLen(t.Context(), s.keys.conns(room)).Result()); int(n) != connections {
		t.Fatalf("HLEN conns = %d, want %d", n, connections)
	}
	return snap
}

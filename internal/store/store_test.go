package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"presence/internal/presence"
	"presence/internal/redistest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func join(t *testing.T, s *Store, room string, c presence.Connection) presence.Occupancy {
	t.Helper()
	held, err := s.Join(t.Context(), room, c)
	if err != nil {
		t.Fatalf("Join(%s, %v): %v", room, c, err)
	}
	return held.Occupancy
}

func TestJoinAndLeaveAreSeenByEveryReplica(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		a, b := e.store(t, Options{}), e.store(t, Options{})
		join(t, a, "lobby", conn("c1", "gen1", "Alice"))
		if o := join(t, b, "lobby", conn("c2", "gen1", "Bob B")); o.Users != 2 || o.Connections != 2 {
			t.Fatalf("after the second join: %+v", o)
		}
		first := check(t, a, "lobby", 2, "Alice", "Bob B")
		if _, err := b.Leave(t.Context(), "lobby", "c1", ""); err != nil {
			t.Fatal(err)
		}
		if second := check(t, a, "lobby", 1, "Bob B"); second.Version <= first.Version {
			t.Fatalf("version %d after %d", second.Version, first.Version)
		}
		check(t, a, "other", 0)
	})
}

func TestTwoTabsOfOneUserCountOnce(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		s := e.store(t, Options{})
		join(t, s, "r", conn("c1", "gen1", "Ann"))
		join(t, s, "r", conn("c2", "gen1", "Ann"))
		join(t, s, "r", conn("c3", "gen1", "Ann"))
		check(t, s, "r", 3, "Ann")
		for i, id := range []string{"c2", "c1", "c3"} {
			if _, err := s.Leave(t.Context(), "r", id, "gen1"); err != nil {
				t.Fatal(err)
			}
			if i < 2 {
				check(t, s, "r", 2-i, "Ann")
			}
		}
		check(t, s, "r", 0)
	})
}

func TestRepeatedJoinRenewsAndAnotherNameReplaces(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		s := e.store(t, Options{})
		one := join(t, s, "r", conn("c1", "gen1", "Ann"))
		if two := join(t, s, "r", conn("c1", "gen1", "Ann")); two != one {
			t.Fatalf("a repeated join changed %+v to %+v", one, two)
		}
		join(t, s, "r", conn("c1", "gen1", "Anna"))
		check(t, s, "r", 1, "Anna")
	})
}

func TestReleasedConnectionLeavesAfterTheGraceUnlessResumed(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		s := e.store(t, Options{})
		join(t, s, "r", conn("c1", "gen1", "Ann"))
		join(t, s, "r", conn("c2", "gen1", "Ben"))
		for _, id := range []string{"c1", "c2"} {
			if err := s.Release(t.Context(), "r", id, "gen1"); err != nil {
				t.Fatal(err)
			}
		}
		e.advance(9)
		if n := s.Sweep(t.Context(), []string{"r"}, Terms{})[0].RemovedConnections; n != 0 {
			t.Fatalf("swept %d within the grace", n)
		}
		before := check(t, s, "r", 2, "Ann", "Ben")
		got, _, found, err := s.Resume(t.Context(), "r", "c1", "gen2")
		if err != nil || !found || got.User.ID != user("Ann").ID || got.User.Name != "Ann" || got.Generation != "gen2" {
			t.Fatalf("Resume = %v, %v, %v", got, found, err)
		}
		if after := check(t, s, "r", 2, "Ann", "Ben"); after.Version != before.Version {
			t.Fatal("others were told of a resume")
		}
		e.advance(1)
		if swept := s.Sweep(t.Context(), []string{"r"}, Terms{})[0]; swept.RemovedConnections != 1 || swept.RemovedUsers != 1 {
			t.Fatalf("after the grace: %+v", swept)
		}
		check(t, s, "r", 1, "Ann")
	})
}

func TestLateReleaseOfAnOlderSocketChangesNothing(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		s := e.store(t, Options{})
		join(t, s, "r", conn("c1", "gen1", "Ann"))
		if _, _, found, err := s.Resume(t.Context(), "r", "c1", "gen2"); !found || err != nil {
			t.Fatal(found, err)
		}
		if err := s.Release(t.Context(), "r", "c1", "gen1"); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Leave(t.Context(), "r", "c1", "gen1"); !errors.Is(err, presence.ErrSuperseded) {
			t.Fatalf("a leave of the older: %v", err)
		}
		e.advance(20)
		s.Sweep(t.Context(), []string{"r"}, Terms{})
		check(t, s, "r", 1, "Ann")
	})
}

func TestJoinFollowsOneGenerationOrNone(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		s := e.store(t, Options{})
		follow := func(former, generation, name string, want error) {
			t.Helper()
			if _, err := s.Follow(t.Context(), "r", conn("c1", generation, name), former); !errors.Is(err, want) {
				t.Fatalf("%s follows %q: %v, want %v", name, former, err, want)
			}
		}
		follow("gen0", "gen1", "Ann", nil) // nobody has it
		follow("gen0", "gen1", "Ann", nil) // a repetition
		follow("", "gen2", "Late", presence.ErrSuperseded)
		follow("gen0", "gen2", "Late", presence.ErrSuperseded)
		check(t, s, "r", 1, "Ann")
		follow("gen1", "gen2", "Ben", nil)
		check(t, s, "r", 1, "Ben")
		if err := s.Release(t.Context(), "r", "c1", "gen2"); err != nil {
			t.Fatal(err)
		}
		follow("", "gen3", "Late", presence.ErrSuperseded) // its socket was released, but it was a newer one
		join(t, s, "r", conn("c1", "gen3", "Cid"))         // this takes it from any generation
		check(t, s, "r", 1, "Cid")
		if _, err := s.Leave(t.Context(), "r", "c1", ""); err != nil {
			t.Fatal(err)
		}
		follow("", "gen4", "Dan", nil)
		check(t, s, "r", 1, "Dan")
	})
}

func TestHeartbeatOfAReleasedConnectionRenewsNothing(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		s := e.store(t, Options{})
		join(t, s, "r", conn("c1", "gen1", "Ann"))
		if err := s.Release(t.Context(), "r", "c1", "gen1"); err != nil {
			t.Fatal(err)
		}
		beats := &Beats{Room: "r", Holders: []Holder{{"c1", "gen1"}}}
		s.Heartbeat(t.Context(), []*Beats{beats})
		if len(beats.Lost) != 1 {
			t.Fatalf("Lost = %v", beats.Lost)
		}
		e.advance(10)
		s.Sweep(t.Context(), []string{"r"}, Terms{})
		check(t, s, "r", 0)
	})
}

func TestRestoreTakesWhatNobodyHas(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		s := e.store(t, Options{})
		older := []Lost{{Connection: conn("c1", "gen1", "Ann")}}
		join(t, s, "r", older[0].Connection)
		if _, _, found, err := s.Resume(t.Context(), "r", "c1", "gen2"); err != nil || !found {
			t.Fatal(found, err)
		}
		if _, errs := s.Restore(t.Context(), "r", older); !errors.Is(errs[0], presence.ErrSuperseded) {
			t.Fatalf("Restore of what a newer socket has = %v", errs)
		}
		if err := s.Release(t.Context(), "r", "c1", "gen2"); err != nil {
			t.Fatal(err)
		}
		if _, errs := s.Restore(t.Context(), "r", older); errs[0] != nil {
			t.Fatalf("Restore of connections that nobody has = %v", errs)
		}
		e.advance(20)
		s.Sweep(t.Context(), []string{"r"}, Terms{})
		check(t, s, "r", 1, "Ann")
	})
}

func TestRestoreKeepsTheRosterAsItWasShown(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		a, b := e.store(t, Options{}), e.store(t, Options{})
		var conns []presence.Connection
		for i, name := range []string{"Ann", "Ben", "Cid", "Dan"} {
			held, err := a.Join(t.Context(), "r", conn(fmt.Sprint("c", i), "gen1", name))
			if err != nil {
				t.Fatal(err)
			}
			conns = append(conns, held.Connection)
		}
		check(t, a, "r", 4, "Ann", "Ben", "Cid", "Dan")
		e.admin.FlushAll(t.Context())
		e.advance(1)
		join(t, a, "r", conn("new", "gen1", "Eve"))
		for s, back := range map[*Store][]Lost{a: {{Connection: conns[3]}, {Connection: conns[2]}, {Connection: conns[0]}}, b: {{Connection: conns[1]}}} {
			_, errs := s.Restore(t.Context(), "r", back)
			for _, err := range errs {
				if err != nil {
					t.Fatal(err)
				}
			}
		}
		check(t, b, "r", 5, "Ann", "Ben", "Cid", "Dan", "Eve")
	})
}

func TestHeartbeatsKeepAndSweepRemoves(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		s := e.store(t, Options{})
		var kept []Holder
		for i := range 1200 { // more than two batches
			join(t, s, "r", conn(fmt.Sprintf("c%04d", i), "gen1", fmt.Sprintf("user %04d", i)))
			if i%2 == 0 {
				kept = append(kept, Holder{fmt.Sprintf("c%04d", i), "gen1"})
			}
		}
		e.advance(20)
		beats := []*Beats{{Room: "r", Holders: kept[:500]}, {Room: "r", Holders: kept[500:]}}
		s.Heartbeat(t.Context(), beats)
		for _, b := range beats {
			if b.Err != nil || len(b.Lost) != 0 {
				t.Fatalf("Heartbeat: lost %v, %v", b.Lost, b.Err)
			}
		}
		e.advance(10)
		calls, removed := 0, 0
		for {
			swept := s.Sweep(t.Context(), []string{"r"}, Terms{})[0]
			if swept.Err != nil {
				t.Fatal(swept.Err)
			}
			calls++
			removed += swept.RemovedConnections
			if swept.Next != 0 {
				if swept.Next <= 19*e.unit || swept.Next > 20*e.unit {
					t.Fatalf("Next = %v", swept.Next)
				}
				break
			}
		}
		if calls != 600/SweepSize || removed != 600 {
			t.Fatalf("%d calls removed %d", calls, removed)
		}
		if snap := read(t, s, "r"); snap.Users != 600 || len(snap.Members) < presence.RosterSize {
			t.Fatalf("after the sweep: %d users, %d listed", snap.Users, len(snap.Members))
		}
	})
}

func TestHeldSweepRemovesOnlyWhatWasReleasedSince(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		s := e.store(t, Options{})
		for i, name := range []string{"renewed never", "released before", "released since"} {
			join(t, s, "r", conn(fmt.Sprint("c", i), "gen1", name))
		}
		release := func(id string) {
			if err := s.Release(t.Context(), "r", id, "gen1"); err != nil {
				t.Fatal(err)
			}
		}
		release("c1")
		e.advance(19) // everybody was away from before here ...
		release("c2")
		e.advance(11) // ... until now
		swept := s.Sweep(t.Context(), []string{"r"}, Terms{Held: true, Since: 12 * e.unit})[0]
		if swept.RemovedConnections != 1 {
			t.Fatalf("held sweep removed %d", swept.RemovedConnections)
		}
		check(t, s, "r", 2, "renewed never", "released before")
		s.Sweep(t.Context(), []string{"r"}, Terms{})
		check(t, s, "r", 0)
	})
}

// Connections without a socket get more time after an outage. However many there are,
// they delay no other connection.
func TestSweepSparesVisits(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		s := e.store(t, Options{})
		var conns []Lost
		for i := range SweepSize + 10 {
			conns = append(conns, Lost{Connection: conn(fmt.Sprint("v", i), "~abc", fmt.Sprint("visitor", i))})
		}
		_, errs := s.Restore(t.Context(), "r", conns)
		for i, err := range errs {
			if err != nil {
				t.Fatal(i, err)
			}
		}
		join(t, s, "r", conn("c1", "gen1", "Ann"))
		e.advance(31)
		removed, spared := 0, 0
		for range 2 {
			swept := s.Sweep(t.Context(), []string{"r"}, Terms{Visits: 10 * e.unit})[0]
			if swept.Err != nil {
				t.Fatal(swept.Err)
			}
			removed += swept.RemovedConnections
			spared += swept.Spared
		}
		if removed != 1 || spared != len(conns) {
			t.Fatalf("%d removed and %d spared, want 1 and %d", removed, spared, len(conns))
		}
		e.advance(9)
		if swept := s.Sweep(t.Context(), []string{"r"}, Terms{})[0]; swept.RemovedConnections != 0 || swept.Users != len(conns) {
			t.Fatalf("before the time they got is over: %+v", swept)
		}
		e.advance(2)
		if swept := s.Sweep(t.Context(), []string{"r"}, Terms{})[0]; swept.RemovedConnections != SweepSize {
			t.Fatalf("after it: %+v", swept)
		}
	})
}

func TestRosterIsFilledUpAgainBehindThoseWhoStayed(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		s := e.store(t, Options{})
		const n = 2 * presence.ListSize
		for i := range n {
			join(t, s, "r", conn(fmt.Sprintf("c%03d", i), "gen1", fmt.Sprintf("%03d", i)))
		}
		for i := 1; i < n-10; i++ { // only the first user of the roster stays
			if _, err := s.Leave(t.Context(), "r", fmt.Sprintf("c%03d", i), ""); err != nil {
				t.Fatal(err)
			}
			snap := read(t, s, "r")
			switch {
			case snap.Users <= presence.ListSize && !snap.Complete():
				t.Fatalf("%d users, %d listed", snap.Users, len(snap.Members))
			case len(snap.Members) < presence.RosterSize && !snap.Complete():
				t.Fatalf("%d users, %d listed", snap.Users, len(snap.Members))
			}
			if !slices.IsSortedFunc(snap.Members, presence.Member.Compare) || snap.Members[0].Name != "000" {
				t.Fatalf("out of order: %v", snap.Members)
			}
		}
		for i := n - 10; i < n; i++ {
			if _, err := s.Leave(t.Context(), "r", fmt.Sprintf("c%03d", i), ""); err != nil {
				t.Fatal(err)
			}
		}
		check(t, s, "r", 1, "000")
	})
}

func TestFullRoomAndTooManyRooms(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		s := e.store(t, Options{MaxMembers: 2, MaxRooms: 2})
		join(t, s, "r", conn("c1", "gen1", "Ann"))
		join(t, s, "r", conn("c2", "gen1", "Ben"))
		if _, err := s.Join(t.Context(), "r", conn("c3", "gen1", "Cid")); !errors.Is(err, presence.ErrRoomFull) {
			t.Fatalf("third user: %v", err)
		}
		join(t, s, "r", conn("c3", "gen1", "Ann")) // a second tab takes no place
		check(t, s, "r", 3, "Ann", "Ben")
		join(t, s, "r2", conn("c1", "gen1", "Ann"))
		if _, err := s.Join(t.Context(), "r3", conn("c1", "gen1", "Ann")); !errors.Is(err, presence.ErrTooManyRooms) {
			t.Fatalf("third room: %v", err)
		}
		check(t, s, "r3", 0)
		join(t, s, "r2", conn("c2", "gen1", "Ben"))
	})
}

func TestRoomsAreForgottenWhenEmptyAndOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := redistest.NewFake(t)
		e := &env{unit: time.Second, client: fake.Client}
		s := e.store(t, Options{})
		join(t, s, "r", conn("c1", "gen1", "Ann"))
		if err := s.Forget(t.Context(), "r"); err != nil {
			t.Fatal(err)
		}
		if rooms := must(s.Rooms(t.Context())); len(rooms) != 1 {
			t.Fatalf("a room that was just joined is forgotten: %v", rooms)
		}
		time.Sleep(31 * time.Second)
		if err := s.Forget(t.Context(), "r"); err != nil {
			t.Fatal(err)
		}
		if rooms := must(s.Rooms(t.Context())); len(rooms) != 0 {
			t.Fatalf("rooms = %v", rooms)
		}
	})
}

func TestAbandonedRoomVanishesByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := redistest.NewFake(t)
		e := &env{unit: time.Second, client: fake.Client}
		s := e.store(t, Options{})
		for _, id := range []string{"c1", "c2"} {
			join(t, s, "r", conn(id, "gen1", "Ann"))
		}
		time.Sleep(151 * time.Second)
		if keys := must(s.rdb.Keys(t.Context(), "presence:{r}:*").Result()); len(keys) != 0 {
			t.Fatalf("left: %v", keys)
		}
	})
}

func TestEpochAndSecretAreAgreedOn(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		ctx := t.Context()
		a, b := e.store(t, Options{}), e.store(t, Options{})
		one := must(a.Probe(ctx, theOnly, "one", ""))
		if two := must(b.Probe(ctx, theOnly, "two", "")); two.Epoch != one.Epoch || one.Text == "" || one.Secret+two.Secret != "" {
			t.Fatalf("%+v, then %+v", one, two)
		}
		if one.Age < 0 || one.Age > time.Minute {
			t.Errorf("a new epoch is %v old", one.Age)
		}
		if epochs, err := b.Epochs(ctx, "r"); err != nil || len(epochs) != 1 || epochs[0].Text != one.Text || epochs[0].Now < one.Now {
			t.Errorf("%+v: %v, %v", one, epochs, err)
		}
		e.admin.FlushAll(ctx)
		if epochs, err := a.Epochs(ctx, "r", ""); err != nil || len(epochs) != 1 || epochs[0].Text != "" {
			t.Fatalf("after a flush: %v, %v", epochs, err)
		}
		if three := must(b.Probe(ctx, theOnly, "three", "")); three.Epoch == one.Epoch || three.Text == "" {
			t.Fatalf("after a flush: %+v", three)
		}
		e.admin.Set(ctx, a.keys.epoch(""), "one-of-an-older-version", 0)
		if got := must(a.Probe(ctx, theOnly, "four", "")); got.Text != "one-of-an-older-version" || got.Age >= 0 {
			t.Errorf("the epoch of an older version: %+v", got)
		}
		for _, step := range []struct{ offer, want string }{{"s1", "s1"}, {"s2", "s1"}, {"", "s1"}} {
			if got := must(a.Probe(ctx, theOnly, "x", step.offer)); got.Secret != step.want {
				t.Errorf("offered %q: %+v, want %q", step.offer, got, step.want)
			}
		}
		for name, lose := range map[string]func(key string){
			"deleted":         func(key string) { e.admin.Del(ctx, key) },
			"emptied":         func(key string) { e.admin.Set(ctx, key, "", 0) },
			"of a wrong type": func(key string) { e.admin.Del(ctx, key); e.admin.LPush(ctx, key, "x") },
		} {
			lose(a.keys.epoch(""))
			lose(a.keys.secret())
			if got := must(a.Probe(ctx, theOnly, "again", "s1")); got.Text == "" || got.Age < 0 || got.Secret != "s1" {
				t.Errorf("%s: %+v", name, got)
			}
		}
	})
}

func TestChangesArePublishedInOrder(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		s := e.store(t, Options{})
		var mu sync.Mutex
		var events []Event
		w := s.NewWatch(quiet(), func(ev Event) {
			mu.Lock()
			defer mu.Unlock()
			events = append(events, ev)
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- w.Run(ctx) }()
		count := func() int {
			mu.Lock()
			defer mu.Unlock()
			return len(events)
		}
		w.Add("r")
		redistest.Eventually(t, 5*time.Second, "the watch begins with a resync", func() bool { return count() == 1 })

		join(t, s, "r", conn("c1", "gen1", "Ann"))
		join(t, s, "r", conn("c2", "gen1", "Ann"))
		join(t, s, "elsewhere", conn("c2", "gen1", "Ann"))
		if _, err := s.Leave(t.Context(), "r", "c1", ""); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Leave(t.Context(), "r", "c2", ""); err != nil {
			t.Fatal(err)
		}
		redistest.Eventually(t, 5*time.Second, "four changes are heard", func() bool { return count() == 5 })
		mu.Lock()
		defer mu.Unlock()
		var got []string
		var version int64
		for _, ev := range events {
			got = append(got, fmt.Sprint(ev.Room, ev.Resync, ev.Occupancy.Users, ev.Occupancy.Connections, ev.Names))
			if !ev.Resync && ev.Occupancy.Version <= version {
				t.Fatalf("version %d after %d", ev.Occupancy.Version, version)
			}
			version = ev.Occupancy.Version
		}
		want := "[rtrue 0 0 false rfalse 1 1 true rfalse 1 2 false rfalse 1 1 false rfalse 0 0 true]"
		if fmt.Sprint(got) != want {
			t.Fatalf("events %v, want %s", got, want)
		}
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	})
}

func TestWatchResyncsAfterItsConnectionIsKilled(t *testing.T) {
	server := redistest.Start(t)
	s := New(server.UserClient(t), Options{})
	resyncs := make(chan string, 16)
	w := s.NewWatch(quiet(), func(ev Event) {
		if ev.Resync {
			resyncs <- ev.Room
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	w.Add("r")
	<-resyncs
	if err := server.Client(t).Do(ctx, "CLIENT", "KILL", "TYPE", "pubsub").Err(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-resyncs:
	case <-time.After(10 * time.Second):
		t.Fatal("no resync within 10 s")
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestOutageIsAnAnswerInTimeAndNothingIsQueued(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := redistest.NewFake(t)
		e := &env{unit: time.Second, client: fake.Client}
		s := e.store(t, Options{})
		fake.Down()
		started := time.Now()
		_, err := s.Join(t.Context(), "r", conn("c1", "gen1", "Ann"))
		if !errors.Is(err, presence.ErrUnavailable) || time.Since(started) > 2*time.Second {
			t.Fatalf("%v after %v", err, time.Since(started))
		}
		fake.Up()
		time.Sleep(time.Minute)
		check(t, s, "r", 0)
		join(t, s, "r", conn("c1", "gen1", "Ann"))
	})
}

func TestStopTellsThoseWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(redistest.NewFake(t).Client(t), Options{})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := s.Run(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Join(t.Context(), "r", conn("c1", "gen1", "Ann")); !errors.Is(err, presence.ErrUnavailable) {
			t.Fatalf("Join after the stop: %v", err)
		}
	})
}

func TestConcurrentJoinsAreGatheredAndExact(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		s := e.store(t, Options{})
		const n = 2000
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				if _, err := s.Join(t.Context(), "r", conn(fmt.Sprintf("c%04d", i), "gen1", fmt.Sprintf("u%04d", i/2))); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if snap := read(t, s, "r"); snap.Users != n/2 || snap.Connections != n {
			t.Fatalf("%+v", snap.Occupancy)
		}
		for i := range n {
			wg.Go(func() {
				if _, err := s.Leave(t.Context(), "r", fmt.Sprintf("c%04d", i), "gen1"); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		check(t, s, "r", 0)
	})
}

// The header of every script says which keys and arguments the script takes and what it
// replies. The script uses no other key.
func TestScriptHeaders(t *testing.T) {
	files, err := filepath.Glob("script/*.lua")
	if err != nil || len(files) < 10 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		text := string(must(os.ReadFile(file)))
		header, body, _ := strings.Cut(text, "\nlocal ")
		want := []string{filepath.Base(file) + ": ", "-- KEYS: ", "-- ARGV: ", "-- Reply: "}
		if file == "script/room.lua" || file == "script/users.lua" { // nothing by itself
			want = want[:3]
		}
		for _, word := range want {
			if !strings.Contains(header, word) {
				t.Errorf("%s: no %q in the header", file, word)
			}
		}
		ofRoom := strings.Contains(header, "Needs room.lua")
		if ofRoom && strings.Contains(body, "KEYS[") {
			t.Errorf("%s names a key by its number", file)
		}
		if keys := (keys{"p"}).room("R"); ofRoom && strings.Count(header, "p:{R}") == 0 {
			for i, key := range keys {
				name := fmt.Sprintf("%d %s ", i+1, strings.TrimPrefix(key, "p:{R}:"))
				if !strings.Contains(header, name) {
					t.Errorf("%s: no key %q in the header", file, name)
				}
			}
		}
	}
}

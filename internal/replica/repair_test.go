package replica

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"presence/internal/presence"
	"presence/internal/redistest"
	"presence/internal/room"
	"presence/internal/store"
)

// roomKeys lists the keys of a room, by their last part.
func roomKeys() []string {
	return []string{"online", "beats", "conns", "refs", "users", "roster", "version", "log"}
}

// Any key of a room is deleted or gets a wrong type. The next sweep or read finds it, and
// all replicas put back their members. The room is right again within a heartbeat
// interval and the time for that. Nobody is shown a wrong number without a mark.
func TestDamageIsRepaired(t *testing.T) {
	for _, key := range roomKeys() {
		for how, damage := range map[string]func(fake *redistest.Fake, key string){
			"deleted":       func(fake *redistest.Fake, key string) { fake.Del(key) },
			"of wrong type": wrongType,
		} {
			for _, watched := range []bool{true, false} {
				for _, busy := range []bool{false, true} {
					if busy && !watched {
						continue
					}
					t.Run(fmt.Sprintf("%s %s, watched %v, busy %v", key, how, watched, busy), func(t *testing.T) {
						bubble(t, func(t *testing.T, fake *redistest.Fake) {
							harm := needsRepair
							switch {
							case key == "log":
								harm = needsNone
							case key == "version" && how == "deleted" && busy:
								harm = mayNeedRepair // a join makes a new key that fits, unless a sweep comes first
							}
							repaired(t, fake, watched, busy, harm, func() { damage(fake, "presence:{lobby}:"+key) })
						})
					})
				}
			}
		}
	}
}

// wrongType gives a key another type.
func wrongType(fake *redistest.Fake, key string) {
	fake.Del(key)
	_, _ = fake.Push(key, "x")
}

// repairs returns how many damaged rooms the replica has cleared.
func (p *process) repairs() float64 { return p.counter("presence_drift_repaired_total") }

// counter returns the value of a counter of the process.
func (p *process) counter(name string) float64 {
	p.t.Helper()
	families, err := p.registry.Gather()
	if err != nil {
		p.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	p.t.Fatalf("there is no %s", name)
	return 0
}

// harm says whether a replica has to clear the damaged room.
type harm int

const (
	needsRepair harm = iota
	needsNone
	mayNeedRepair
)

// repaired fails unless the lobby is right again in time after the damage, and is marked
// stale until then.
func repaired(t *testing.T, fake *redistest.Fake, watched, busy bool, harm harm, damage func()) {
	t.Helper()
	a, b := start(t, fake), start(t, fake)
	judge := store.New(fake.Client(t), store.Options{})
	a.enter("Ann")
	b.enter("Ben")
	second := connection("Ann", presence.NewGeneration())
	second.ID = "c-second"
	if _, _, err := b.Join(t.Context(), lobby, second, living{}, nil); err != nil {
		t.Fatal(err)
	}
	if err := a.put(lobby, connection("Cid", "")); err != nil {
		t.Fatal(err)
	}
	time.Sleep(7 * time.Second)
	if watched {
		a.watching()
		b.watching()
	}
	time.Sleep(1234 * time.Millisecond)
	want := "[u-Ann u-Ben u-Cid]"
	limit := DefaultHeartbeatInterval + a.links.settle + time.Second
	damage()
	began := time.Now()
	if busy {
		time.Sleep(100 * time.Millisecond)
		if _, _, err := b.Join(t.Context(), lobby, connection("Dan", presence.NewGeneration()), living{}, nil); err == nil {
			want = "[u-Ann u-Ben u-Cid u-Dan]"
		}
	}
	right := func() bool {
		r, err := judge.Read(t.Context(), store.Have{Room: lobby})
		if err != nil || r[0].Err != nil {
			return false
		}
		var ids []string
		for _, m := range r[0].Members {
			ids = append(ids, m.ID)
		}
		return fmt.Sprint(ids) == want && r[0].Users == len(ids) && r[0].Connections == len(ids)+1
	}
	var since time.Time // since when it has been right without a break
	for renewed := began; time.Since(began) < limit+5*time.Second; {
		if time.Since(renewed) > time.Second {
			renewed = time.Now()
			if found, err := a.Renew(t.Context(), lobby, []string{"c-Cid"}, store.DefaultMemberTTL, "", time.Time{}); err == nil && found[0].ID == "" {
				_ = a.put(lobby, connection("Cid", "")) // tried again in a second if it is refused
			}
		}
		if !right() {
			since = time.Time{}
		} else if since.IsZero() {
			since = time.Now()
		}
		time.Sleep(250 * time.Millisecond)
	}
	synctest.Wait()
	if since.IsZero() || since.Sub(began) > limit {
		t.Errorf("it was not right within %v: right since %v after the damage", limit, since.Sub(began))
	}
	if watched {
		users := strings.Count(want, "u-")
		for _, p := range []*process{a, b} {
			history := p.history()
			for _, now := range history {
				if now != "3" && now != fmt.Sprint(users) && !strings.HasSuffix(now, " stale") {
					t.Errorf("shown unmarked: %q", history)
				}
			}
			if p.last() != fmt.Sprint(users) {
				t.Errorf("in the end it is shown as %q", history)
			}
		}
	}
	if n := a.repairs() + b.repairs(); harm != mayNeedRepair && (harm == needsRepair) != (n > 0) {
		t.Errorf("repaired %v times", n)
	}
	time.Sleep(40 * time.Second) // there are no late effects
	if !watched {
		a.watching()
	}
	if n := strings.Count(want, "u-") - 1; a.last() != fmt.Sprint(n) { // Cid is no longer put
		t.Errorf("later it is shown as %q, want %d", a.last(), n)
	}
	time.Sleep(room.DefaultCoalesce)
}

// One replica learns of the damage by a heartbeat, which shows only that the version is
// gone, and begins to wait. Some time later another replica finds the damage and deletes
// the room.
func TestRoomIsDeletedWhileOthersWait(t *testing.T) {
	for _, after := range []time.Duration{0, 500 * time.Millisecond, 1500 * time.Millisecond, 2900 * time.Millisecond} {
		t.Run(fmt.Sprint(after), func(t *testing.T) {
			bubble(t, func(t *testing.T, fake *redistest.Fake) {
				a, b := start(t, fake), start(t, fake).watching()
				for range 3 {
					time.Sleep(time.Second)
					a.enter(fmt.Sprint("a", len(b.history())))
					b.enter(fmt.Sprint("b", len(b.history())))
				}
				time.Sleep(11 * time.Second)
				fake.Del("presence:{lobby}:version")
				b.beat(t.Context(), b.members.inRoom(lobby))
				time.Sleep(after)
				a.repair(t.Context(), lobby)
				time.Sleep(15 * time.Second)
				b.saw("0", "1", "2", "3", "4", "5", "6", "6 stale", "6")
			})
		})
	}
}

// Two replicas find the same damage one after the other. The second does not delete
// members that have been put back already.
func TestRoomIsDeletedOnce(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a, b := start(t, fake).watching(), start(t, fake)
		a.enter("Ann")
		b.enter("Ben")
		time.Sleep(11 * time.Second)
		fake.Del("presence:{lobby}:online")
		a.repair(t.Context(), lobby)
		time.Sleep(time.Second)
		b.repair(t.Context(), lobby)
		time.Sleep(15 * time.Second)
		a.saw("0", "1", "2", "2 stale", "2")
		if n := a.repairs() + b.repairs(); n != 1 {
			t.Errorf("deleted %v times", n)
		}
	})
}

// A replica without members in a damaged room has not yet heard that another one has
// deleted its data. It tells readers neither that the room is empty nor that it has only
// some members.
func TestReadersWaitForRepair(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a, b, c := start(t, fake), start(t, fake), start(t, fake)
		a.enter("Ann")
		b.enter("Ben")
		time.Sleep(11 * time.Second)
		fake.Del("presence:{lobby}:online")
		began := time.Now()
		a.repair(t.Context(), lobby)
		told := false
		for time.Since(began) < 10*time.Second {
			if view, err := c.rooms.Peek(t.Context(), lobby); err == nil {
				if told = true; view.Users != 2 {
					t.Fatalf("after %v it says %d users", time.Since(began), view.Users)
				}
			}
			time.Sleep(100 * time.Millisecond)
		}
		if !told {
			t.Error("it never says how many there are")
		}
	})
}

// While replicas wait after an outage, a room is found lost although Redis kept the other
// data, as after a failover. A member whose browser can't answer is put back as after any
// other loss.
func TestRoomLostInAnOutage(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a := start(t, fake)
		var dead atomic.Bool
		dead.Store(true) // the browser does not answer
		failOver := fake.Copy()
		a.watching()
		time.Sleep(30 * time.Second)
		a.joinBy("Ann", mortal{&dead})
		time.Sleep(5 * time.Second)
		fake.Down()
		time.Sleep(3 * time.Second)
		failOver()
		fake.Up()
		time.Sleep(DefaultHeartbeatInterval)
		synctest.Wait()
		a.saw("0", "1", "1 stale", "1")
		if names := a.names(); names != "[Ann]" {
			t.Errorf("there are %s", names)
		}
	})
}

// Redis loses its data shortly before the next heartbeat of a member whose browser is
// slow to answer. The replica asks it for a sign of life twice, which does not delay
// putting it back.
func TestSlowMemberIsPutBackInTimeBeforeAHeartbeat(t *testing.T) {
	for tenth := range 20 {
		at := time.Duration(tenth) * DefaultHeartbeatInterval / 20
		t.Run(fmt.Sprint(at), func(t *testing.T) {
			bubble(t, func(t *testing.T, fake *redistest.Fake) {
				a, b := start(t, fake), start(t, fake).watching()
				var slow atomic.Bool
				a.joinBy("Ann", mortal{&slow})
				time.Sleep(2*DefaultHeartbeatInterval + at)
				slow.Store(true)
				fake.FlushAll()
				time.Sleep(DefaultHeartbeatInterval)
				b.saw("0", "1", "1 stale", "1")
			})
		})
	}
}

// Redis comes back empty, and a heartbeat finds that before a probe does. A member who can't
// answer is put back all the same before any replica shows the room.
func TestHeartbeatMayFindALossBeforeAProbe(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a, b := start(t, fake), start(t, fake).watching()
		var silent atomic.Bool
		silent.Store(true)
		a.joinBy("Ann", mortal{&silent})
		time.Sleep(time.Minute)
		fake.Down()
		time.Sleep(5 * time.Second)
		fake.FlushAll()
		fake.Up()
		a.beat(t.Context(), a.members.inRoom(lobby))
		if err := a.Trusted(lobby); errors.Is(err, errSettling) {
			t.Fatal("a probe was first")
		}
		time.Sleep(time.Minute)
		b.saw("0", "1", "1 stale", "1")
	})
}

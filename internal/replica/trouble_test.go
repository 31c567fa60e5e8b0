package replica

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"presence/internal/presence"
	"presence/internal/redistest"
	"presence/internal/store"
)

// warnings counts the log lines of level warning or above.
type warnings struct {
	slog.Handler
	n *atomic.Int64
}

func (w warnings) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelWarn }
func (w warnings) Handle(context.Context, slog.Record) error        { w.n.Add(1); return nil }

// in joins a room through a connection named after the user.
func (p *process) in(room, name string) *Member {
	p.t.Helper()
	m, _, err := p.Join(p.t.Context(), room, connection(name, presence.NewGeneration()), living{}, nil)
	if err != nil {
		p.t.Fatalf("join %s: %v", room, err)
	}
	return m
}

// A room has data that no server writes. Only this room is stale. All others stay as they
// are, in every loop.
func TestDamagedRoomIsNobodyElsesTrouble(t *testing.T) {
	for name, damage := range map[string]func(fake *redistest.Fake){
		"online": func(fake *redistest.Fake) { wrong(fake, "presence:{bad}:online") },
		"beats":  func(fake *redistest.Fake) { wrong(fake, "presence:{bad}:beats") },
		"conns":  func(fake *redistest.Fake) { wrong(fake, "presence:{bad}:conns") },
		"refs":   func(fake *redistest.Fake) { wrong(fake, "presence:{bad}:refs") },
		"roster": func(fake *redistest.Fake) { wrong(fake, "presence:{bad}:roster") },
		"version": func(fake *redistest.Fake) {
			fake.Del("presence:{bad}:version")
			_, _ = fake.Push("presence:{bad}:version", "x")
		},
		"a connection": func(fake *redistest.Fake) { fake.HSet("presence:{bad}:conns", "c-gone", "gibberish") },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, fake *redistest.Fake) {
				a, b := start(t, fake), start(t, fake).watching()
				a.enter("Ann")
				a.in("bad", "Ben")
				gone := a.in("bad", "gone")
				bad := b.Enter(t.Context(), "bad")
				defer bad.Exit()
				time.Sleep(time.Minute)
				logged := a.logged.Load() + b.logged.Load()
				damage(fake)
				if err := a.Release(gone); errors.Is(err, presence.ErrUnavailable) {
					t.Errorf("release: %v", err)
				}
				for range 240 {
					time.Sleep(500 * time.Millisecond)
					if a.Ready() != nil || b.Ready() != nil {
						t.Fatalf("not ready: %v, %v", a.Ready(), b.Ready())
					}
				}
				b.saw("0", "1")
				if n := a.logged.Load() + b.logged.Load() - logged; n > 6 {
					t.Errorf("%d lines logged in two minutes by two replicas", n)
				}
				// It shows either right numbers, because the damage does not matter for
				// them, or is marked stale.
				if view := bad.View(); !view.Stale && view.Users != 1 {
					t.Errorf("the damaged room shows %d users, not stale", view.Users)
				}
				// The other rooms are swept as usual.
				a.kill()
				time.Sleep(store.DefaultMemberTTL + 2*time.Second)
				b.saw("0", "1", "0")
				// After the repair it is a room like any other.
				for _, key := range []string{"online", "beats", "conns", "refs", "roster", "version"} {
					fake.Del("presence:{bad}:" + key)
				}
				b.in("bad", "Cid")
				time.Sleep(store.DefaultLeaveGrace + 5*time.Second)
				synctest.Wait()
				if view := bad.View(); view.Stale || view.Users != 1 {
					t.Errorf("repaired, it shows %d users, stale %v", view.Users, view.Stale)
				}
			})
		})
	}
}

// wrong makes key a string.
func wrong(fake *redistest.Fake, key string) {
	fake.Del(key)
	_ = fake.Set(key, "x")
}

// Without the list of rooms, the rooms that are known are swept all the same.
func TestDamagedListOfRoomsStopsNoSweep(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a, b := start(t, fake), start(t, fake).watching()
		a.enter("Ann")
		time.Sleep(time.Minute)
		wrong(fake, "presence:rooms")
		time.Sleep(2 * time.Minute)
		b.saw("0", "1")
		if a.Ready() != nil || b.Ready() != nil {
			t.Errorf("not ready: %v, %v", a.Ready(), b.Ready())
		}
		a.kill()
		time.Sleep(store.DefaultMemberTTL + 2*time.Second)
		b.saw("0", "1", "0")
	})
}

func TestTroublesAreBounded(t *testing.T) {
	bubble(t, func(t *testing.T, _ *redistest.Fake) {
		troubles := newTroubles()
		for i := range 3 * maxTroubled {
			room := fmt.Sprint("room", i)
			if got := troubles.due(room, time.Now()); got != (i < maxTroubled) {
				t.Fatalf("trouble of room %d is logged: %v", i, got)
			}
			troubles.sweep(room, false)
		}
		if len(troubles.logged) != maxTroubled || len(troubles.unswept) != maxTroubled {
			t.Fatalf("%d and %d rooms remembered", len(troubles.logged), len(troubles.unswept))
		}
		time.Sleep(troubleInterval)
		if !troubles.due("another", time.Now()) || len(troubles.logged) != 1 {
			t.Fatal("after a minute the next is not logged")
		}
	})
}

// evicted is a socket that records why its member ended.
type evicted struct {
	living

	why chan error
}

func (e evicted) Ended(_ *Member, err error) { e.why <- err }

// Others have taken a member's place while Redis had lost everything. The member does not
// come back, not even when one of them leaves, and no other room is affected.
func TestMembersWhoFindTheRoomFullEnd(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		limits := store.Options{MaxMembers: 2}
		a, b := startOn(t, fake, Options{}, limits), startOn(t, fake, Options{}, limits).watching()
		a.in("other", "Eve")
		other := b.Enter(t.Context(), "other")
		defer other.Exit()
		why := make(chan error, 2)
		for _, name := range []string{"Ann", "Ben"} {
			if _, _, err := a.Join(t.Context(), lobby, connection(name, presence.NewGeneration()), evicted{why: why}, nil); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Minute)
		logged := a.logged.Load()
		fake.FlushAll()
		cid := b.in(lobby, "Cid")
		b.in(lobby, "Dan")
		time.Sleep(a.links.settle + 2*time.Second)
		for range 600 {
			if a.Ready() != nil || b.Ready() != nil || other.View().Stale || other.View().Users != 1 {
				t.Fatalf("ready: %v, %v; the other room shows %+v", a.Ready(), b.Ready(), other.View())
			}
			time.Sleep(100 * time.Millisecond)
		}
		for range 2 {
			select {
			case err := <-why:
				if !errors.Is(err, presence.ErrRoomFull) {
					t.Errorf("a member ended for %v", err)
				}
			default:
				t.Error("the members were not told that they have ended")
			}
		}
		if n := a.members.count(); n != 1 {
			t.Errorf("%d local members, want Eve alone", n)
		}
		if n := a.logged.Load() - logged; n > 4 {
			t.Errorf("%d lines logged", n)
		}
		if _, err := b.Leave(t.Context(), cid); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		if last := b.last(); last != "1" {
			t.Errorf("after one of the others left the lobby has %s", last)
		}
	})
}

// Two replicas find the same damage. If the answer to one is late, it does not delete
// members that the other has put back meanwhile. Nobody is missing when the room is shown
// again.
func TestDamageIsRepairedOnce(t *testing.T) {
	for turn := range 10 { // of heartbeats
		bubble(t, func(t *testing.T, fake *redistest.Fake) {
			a, b := start(t, fake).watching(), start(t, fake)
			a.in(lobby, "Ann")
			b.in(lobby, "Ben")
			put := store.Wanted{Connection: connection("Cid", ""), TTL: time.Minute}
			if _, err := a.Put(t.Context(), lobby, put); err != nil {
				t.Fatal(err)
			}
			time.Sleep(20*time.Second + time.Duration(turn)*time.Second)
			fake.Del("presence:{lobby}:online")
			damage := fmt.Errorf("%w: found by both at once", presence.ErrDamaged)
			a.roomFailed(t.Context(), lobby, damage)
			time.Sleep(a.links.settle / 4) // the answer to b is late
			b.roomFailed(t.Context(), lobby, damage)
			for range 100 {
				time.Sleep(100 * time.Millisecond)
				if view := a.viewer.View(); !view.Stale && view.Users != 3 {
					t.Fatalf("turn %d: the room shows %d users, not stale", turn, view.Users)
				}
			}
			if view := a.viewer.View(); view.Stale {
				t.Errorf("turn %d: the room is stale still", turn)
			}
		})
	}
}

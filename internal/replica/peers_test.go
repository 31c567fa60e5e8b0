package replica

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	dto "github.com/prometheus/client_model/go"

	"presence/internal/presence"
	"presence/internal/redistest"
	"presence/internal/store"
)

// calls is how often a replica ran a script.
func (p *process) calls(script string) (n uint64) {
	p.t.Helper()
	families, err := p.registry.Gather()
	if err != nil {
		p.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "presence_redis_call_duration_seconds" {
			continue
		}
		for _, m := range f.GetMetric() {
			if slices.ContainsFunc(m.GetLabel(), func(l *dto.LabelPair) bool { return l.GetValue() == script }) {
				n += m.GetHistogram().GetSampleCount()
			}
		}
	}
	return n
}

// Idle rooms are swept once each member TTL altogether, however many replicas there are.
func TestIdleRoomsAreSweptByOneReplica(t *testing.T) {
	const rooms, terms = 60, 4
	for _, replicas := range []int{1, 3} {
		t.Run(fmt.Sprint(replicas, " replicas"), func(t *testing.T) {
			bubble(t, func(t *testing.T, fake *redistest.Fake) {
				var all []*process
				for range replicas {
					all = append(all, start(t, fake))
				}
				time.Sleep(30 * time.Second)
				for i, p := range all {
					for n := i; n < rooms; n += replicas {
						p.in(fmt.Sprint("room", n), fmt.Sprint("user", n))
					}
				}
				time.Sleep(time.Minute)
				counts := func() (sum uint64, each []uint64) {
					for _, p := range all {
						n := p.calls("sweep")
						each = append(each, n)
						sum += n
					}
					return sum, each
				}
				before, _ := counts()
				time.Sleep(terms * store.DefaultMemberTTL)
				after, each := counts()
				if n := after - before; n < rooms*(terms-1) || n > rooms*(terms+1) {
					t.Errorf("%d sweeps in %d member TTLs of %d rooms (%v)", n, terms, rooms, each)
				}
				for _, n := range each {
					if n == 0 {
						t.Errorf("they share unevenly: %v", each)
					}
				}
			})
		})
	}
}

// A replica that sweeps a room and has members in it dies, just when a tab at another
// replica was closed. All of them leave as soon as usual.
func TestRoomsOfADeadReplicaAreSwept(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a, b := start(t, fake), start(t, fake)
		time.Sleep(30 * time.Second)
		const rooms = 10
		var closed []*Member
		for i := range rooms {
			room := fmt.Sprint("room", i)
			a.in(room, "Ann")
			closed = append(closed, b.in(room, "Ben"))
		}
		time.Sleep(time.Minute)
		died := time.Now()
		a.link.Cut() // it can't say goodbye
		a.kill()
		for _, m := range closed {
			_ = b.Release(m) // if this fails, a sweep ends it
		}
		left := func(connections int) (late time.Duration) {
			for n := -1; n != connections; time.Sleep(200 * time.Millisecond) {
				n = 0
				for i := range rooms {
					view, err := b.rooms.Peek(t.Context(), fmt.Sprint("room", i))
					if err != nil {
						t.Fatal(err)
					}
					n += view.Connections
				}
				if time.Since(died) > time.Minute {
					t.Fatalf("%d are left", n)
				}
			}
			return time.Since(died)
		}
		if after := left(rooms); after > store.DefaultLeaveGrace+time.Second {
			t.Errorf("closed tabs left after %v", after)
		}
		if after := left(0); after > store.DefaultMemberTTL+time.Second {
			t.Errorf("members of the dead replica left after %v", after)
		}
	})
}

// Replicas learn of each other, and log once if their settings differ.
func TestReplicasKnowEachOther(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		self := func(name, ttl string) Options {
			return Options{Self: Self{Name: name, Version: "1", Since: time.Now(), Settings: map[string]string{"member-ttl": ttl}}}
		}
		a, b := startWith(t, fake, self("a", "30s")), startWith(t, fake, self("b", "30s"))
		time.Sleep(time.Minute)
		names := func(p *process) string {
			var list []string
			for _, peer := range p.Peers() {
				text := peer.Name + peer.Settings["member-ttl"]
				if peer.This {
					text += "!"
				}
				if !peer.Sweeps || peer.Silent > maxAnnounce.Milliseconds() {
					text += "?"
				}
				list = append(list, text)
			}
			return strings.Join(list, " ")
		}
		if got := names(a) + ", " + names(b); got != "a30s! b30s, a30s b30s!" {
			t.Errorf("they know %s", got)
		}
		if n := a.logged.Load() + b.logged.Load(); n != 0 {
			t.Errorf("%d warnings", n)
		}
		c := startWith(t, fake, self("c", "20s"))
		time.Sleep(time.Minute)
		if a.logged.Load() != 1 || b.logged.Load() != 1 || c.logged.Load() != 2 {
			t.Errorf("warnings: %d, %d, %d", a.logged.Load(), b.logged.Load(), c.logged.Load())
		}
		c.kill()
		time.Sleep(2 * time.Second)
		if got := names(a); got != "a30s! b30s" {
			t.Errorf("later they know %s", got)
		}
	})
}

// After a silence of all members that lasted longer than the member TTL, many leases of a
// room have ended at once. That does not prove that all have gone, so they get one more
// heartbeat interval, once.
func TestManyLeasesAtOnceAreBraked(t *testing.T) {
	for _, joined := range []int{30, 15} { // in a room with fewer, all may end at once
		t.Run(fmt.Sprint(joined), func(t *testing.T) {
			bubble(t, func(t *testing.T, fake *redistest.Fake) {
				a, b := start(t, fake).watching(), start(t, fake)
				a.enter("Ann")
				for i := range joined {
					if _, _, err := b.Join(t.Context(), lobby, connection(fmt.Sprint("u", i), presence.NewGeneration()), living{}, nil); err != nil {
						t.Fatal(err)
					}
				}
				time.Sleep(15 * time.Second)
				fake.Down()
				b.kill()
				time.Sleep(store.DefaultMemberTTL + 10*time.Second)
				fake.Up()
				back := time.Now()
				for a.last() != "1" && time.Since(back) < time.Minute {
					time.Sleep(50 * time.Millisecond)
				}
				braked := a.counter("presence_sweeps_braked_total")
				took, want := time.Since(back), a.links.settle
				if joined > 20 {
					want += DefaultHeartbeatInterval
				}
				if took < want || took > want+2*time.Second || (braked == 1) != (joined > 20) {
					t.Errorf("they left after %v (want %v), braked %v times", took, want, braked)
				}
				synctest.Wait()
			})
		})
	}
}

package replica

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"presence/internal/presence"
	"presence/internal/redistest"
	"presence/internal/store"
)

// lose makes Redis lose the lobby, or all its data.
func lose(fake *redistest.Fake, all bool) {
	if all {
		fake.FlushAll()
		return
	}
	for _, key := range roomKeys() {
		fake.Del("presence:{lobby}:" + key)
	}
}

// renews renews a connection without a socket, and reports whether it existed.
func (p *process) renews(name string, ttl time.Duration) bool {
	p.t.Helper()
	found, err := p.Renew(p.t.Context(), lobby, []string{"c-" + name}, ttl, "", time.Time{})
	if err != nil {
		p.t.Fatal(err)
	}
	return found[0].ID != ""
}

// kept returns how many connections without a socket are remembered: listed by room, and
// counted.
func (p *process) kept() (listed, n int) {
	p.puts.mu.Lock()
	defer p.puts.mu.Unlock()
	for _, known := range p.puts.rooms {
		listed += len(known)
	}
	return listed, p.puts.n
}

// When Redis loses its data, the connections without a socket that two replicas remember
// come back, whatever was done through which replica. None of them stays forever.
func TestPutsComeBack(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		rnd := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // a test's choice, to be repeated by its seed
		both := []*process{start(t, fake), start(t, fake)}
		time.Sleep(5 * time.Second)
		const ttl = time.Minute
		until := map[string]time.Time{} // leases of the users who are there
		ended := map[string]time.Time{} // users who ended through one replica, and may come back because the other remembers them
		var spared time.Time            // until then, a page without a socket may be late
		for step := range 250 {
			p, other := both[step%2], both[1-step%2]
			name := fmt.Sprint("user", rnd.IntN(8))
			switch rnd.IntN(10) {
			case 0, 1, 2:
				if err := p.put(lobby, connection(name, "")); err != nil {
					t.Fatal(step, err)
				}
				if _, err := p.Put(t.Context(), lobby, store.Wanted{Connection: connection(name, ""), TTL: ttl}); err != nil {
					t.Fatal(step, err)
				}
				until[name] = time.Now().Add(ttl)
			case 3, 4, 5:
				if there := p.renews(name, ttl); there {
					if until[name].IsZero() && ended[name].IsZero() {
						t.Fatalf("step %d: %s is not there but was renewed", step, name)
					}
					until[name] = time.Now().Add(ttl)
				} else if time.Until(until[name]) > time.Second && p.puts.has(lobby, "c-"+name) {
					t.Fatalf("step %d: %s was lost with a lease of %v", step, name, time.Until(until[name]))
				}
			case 6:
				if _, err := p.End(t.Context(), lobby, "c-"+name); err != nil {
					t.Fatal(step, err)
				}
				if other.puts.has(lobby, "c-"+name) {
					ended[name] = time.Now().Add(ttl)
				}
				delete(until, name)
			case 7:
				if rnd.IntN(3) == 0 {
					all := rnd.IntN(2) == 0
					lose(fake, all)
					if all {
						spared = time.Now().Add(p.links.visit + DefaultHeartbeatInterval)
					}
					// By the next heartbeat, and when all had the time, they are back.
					time.Sleep(DefaultHeartbeatInterval + p.links.settle + time.Second)
				}
			default:
				time.Sleep(time.Duration(rnd.IntN(9000)) * time.Millisecond)
			}
			snap, err := p.rooms.Look(t.Context(), lobby)
			if err != nil {
				t.Fatal(step, err)
			}
			for i := range 8 {
				name := fmt.Sprint("user", i)
				there := slices.ContainsFunc(snap.Members, func(m presence.Member) bool { return m.ID == "u-"+name })
				left := time.Until(until[name])
				if !there && left > time.Second {
					t.Fatalf("step %d: %s is not there, with a lease of %v", step, name, left)
				}
				if there && left < -time.Second && time.Until(ended[name]) < -time.Second && time.Until(spared) < 0 {
					t.Fatalf("step %d: %s is there, %v after the end of the lease", step, name, -left)
				}
			}
		}
		time.Sleep(2*ttl + 2*DefaultHeartbeatInterval)
		for _, p := range both {
			if listed, n := p.kept(); listed != 0 || n != 0 {
				t.Errorf("%d connections are remembered for ever, %d in all", listed, n)
			}
			if p.members.ledger.accounts["here"] != nil {
				t.Errorf("the address still has %+v", p.members.ledger.accounts["here"])
			}
		}
	})
}

// A user is put through one replica and leaves through another. If somebody at the first
// replica looks at the room, that replica forgets the user at once; otherwise it would
// put the user back when Redis loses its data. A user who was put again since, through
// either replica, is not forgotten.
func TestLeaveThroughAnotherReplicaIsHeardOf(t *testing.T) {
	for _, all := range []bool{true, false} {
		bubble(t, func(t *testing.T, fake *redistest.Fake) {
			a, b := start(t, fake).watching(), start(t, fake)
			time.Sleep(5 * time.Second)
			put := func(p *process, names ...string) {
				t.Helper()
				for _, name := range names {
					if err := p.put(lobby, connection(name, "")); err != nil {
						t.Fatal(err)
					}
				}
			}
			end := func(names ...string) {
				t.Helper()
				for _, name := range names {
					if _, err := b.End(t.Context(), lobby, "c-"+name); err != nil {
						t.Fatal(err)
					}
				}
			}
			put(a, "Ann", "Ben", "Cid", "Dan")
			time.Sleep(time.Millisecond)
			end("Ann", "Ben", "Cid")
			put(a, "Ben")
			put(b, "Cid")
			time.Sleep(200 * time.Millisecond) // the room is read when it can be shown
			lose(fake, all)
			time.Sleep(DefaultHeartbeatInterval)
			if names := b.names(); names != "[Dan Ben Cid]" {
				t.Errorf("there are %s", names)
			}
		})
	}
}

// If two replicas remember a connection, the later lease wins.
func TestLaterLeaseWins(t *testing.T) {
	for _, all := range []bool{true, false} {
		for first := range 2 {
			bubble(t, func(t *testing.T, fake *redistest.Fake) {
				both := []*process{start(t, fake), start(t, fake)}
				time.Sleep(5 * time.Second)
				put := func(p *process, ttl time.Duration) {
					t.Helper()
					if _, err := p.Put(t.Context(), lobby, store.Wanted{Connection: connection("Ann", ""), TTL: ttl}); err != nil {
						t.Fatal(err)
					}
				}
				put(both[0], 40*time.Second)
				put(both[1], 2*time.Minute)
				lose(fake, all)
				both[first].restorePuts(t.Context(), &trip{}, lobby)
				both[1-first].restorePuts(t.Context(), &trip{}, lobby)
				time.Sleep(time.Minute)
				if names := both[0].names(); names != "[Ann]" {
					t.Errorf("all %v, first %d: after a minute there are %s", all, first, names)
				}
				if first == 1 && both[0].puts.has(lobby, "c-Ann") {
					t.Error("the earlier lease is remembered")
				}
				time.Sleep(time.Minute + 5*time.Second)
				if names := both[0].names(); names != "[]" {
					t.Errorf("all %v, first %d: after both leases there are %s", all, first, names)
				}
			})
		}
	}
}

// A program renews before the replica has noticed that Redis lost the room. It is not
// told that its connection is lost.
func TestRenewalRightAfterALoss(t *testing.T) {
	for _, all := range []bool{true, false} {
		bubble(t, func(t *testing.T, fake *redistest.Fake) {
			a := start(t, fake)
			time.Sleep(5 * time.Second)
			for _, name := range []string{"Ann", "Ben"} {
				if err := a.put(lobby, connection(name, "")); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(DefaultHeartbeatInterval)
			lose(fake, all)
			if !a.renews("Ann", time.Minute) {
				t.Errorf("all %v: lost", all)
			}
			if a.renews("nobody", time.Minute) {
				t.Error("renewed a connection that nobody put")
			}
			time.Sleep(10 * time.Second)
			if names := a.names(); names != "[Ann Ben]" {
				t.Errorf("all %v: there are %s", all, names)
			}
		})
	}
}

// A program puts a user again, or changes the user, before the replica has noticed that
// Redis lost the room. The user is as before.
func TestPutRightAfterALoss(t *testing.T) {
	for _, all := range []bool{true, false} {
		bubble(t, func(t *testing.T, fake *redistest.Fake) {
			a := start(t, fake)
			time.Sleep(5 * time.Second)
			who := func(name, meta string) presence.Connection {
				c := connection(name, "")
				c.User.Name, c.User.Meta = name+" "+name, meta
				return c
			}
			for _, name := range []string{"Ann", "Ben", "Cem"} {
				if _, err := a.Put(t.Context(), lobby, store.Wanted{Connection: who(name, `{"a":1}`), TTL: time.Minute, SetName: true, SetMeta: true}); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(DefaultHeartbeatInterval)
			want := "Ann Ann{\"a\":1} Ben Ben{\"a\":2} Cem new{\"a\":1}"
			lose(fake, all)
			if _, _, err := a.Update(t.Context(), lobby, "c-Ben", func(u presence.User) (presence.User, error) {
				u.Meta = `{"a":2}`
				return u, nil
			}); err != nil {
				t.Errorf("all %v: changed: %v", all, err)
			}
			time.Sleep(DefaultHeartbeatInterval)
			lose(fake, all)
			held, err := a.Put(t.Context(), lobby, store.Wanted{Connection: connection("Ann", ""), TTL: time.Minute})
			if err != nil || held.Connection.User.Name != "Ann Ann" {
				t.Errorf("all %v: put: %+v, %v", all, held, err)
			}
			renamed := who("Cem", "")
			renamed.User.Name = "Cem new"
			if _, err := a.Put(t.Context(), lobby, store.Wanted{Connection: renamed, TTL: time.Minute, SetName: true}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(DefaultHeartbeatInterval)
			snap, err := a.rooms.Look(t.Context(), lobby)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, m := range snap.Members {
				got = append(got, m.Name+m.Meta)
			}
			slices.Sort(got)
			if got := strings.Join(got, " "); got != want {
				t.Errorf("all %v: there are %s, want %s", all, got, want)
			}
			// One that ended is not remembered.
			if _, err := a.End(t.Context(), lobby, "c-Ann"); err != nil {
				t.Fatal(err)
			}
			if held, err := a.Put(t.Context(), lobby, store.Wanted{Connection: connection("Ann", ""), TTL: time.Minute}); err != nil || held.Connection.User.Name != "Ann" {
				t.Errorf("all %v: put anew: %+v, %v", all, held, err)
			}
		})
	}
}

// A user leaves while the replica is putting the user's connection back, so the leave may
// find nothing in Redis. The user stays away all the same.
func TestPutThatEndsWhileItIsPutBackStaysAway(t *testing.T) {
	for _, answered := range []bool{true, false} {
		t.Run(fmt.Sprint("answered ", answered), func(t *testing.T) {
			bubble(t, func(t *testing.T, fake *redistest.Fake) {
				a := start(t, fake)
				a.remembers("c-Ann", "Ann")
				a.remembers("c-Ben", "Ben")
				time.Sleep(DefaultHeartbeatInterval + 100*time.Millisecond) // between two heartbeats and probes
				lose(fake, false)
				a.link.LoseReply("c-Ann", 0)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				done := make(chan struct{})
				go func() {
					defer close(done)
					a.restorePuts(ctx, &trip{}, lobby)
				}()
				synctest.Wait() // the call waits for its answer
				a.link.LoseReply("", 0)
				a.puts.forget(lobby, "c-Ann") // End has begun, and has found nothing
				if !answered {
					cancel()
				}
				<-done
				time.Sleep(DefaultHeartbeatInterval)
				if names := a.names(); names != "[Ben]" {
					t.Errorf("there are %s", names)
				}
			})
		})
	}
}

// A read that began before somebody came into the room does not prove a loss.
func TestOldAnswerIsNoLoss(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a := start(t, fake)
		time.Sleep(5 * time.Second)
		before := time.Now()
		time.Sleep(time.Millisecond)
		if err := a.put(lobby, connection("Ann", "")); err != nil {
			t.Fatal(err)
		}
		a.Saw(t.Context(), lobby, "", before)
		if err := a.Trusted(lobby); err != nil {
			t.Errorf("after an old answer: %v", err)
		}
		a.Saw(t.Context(), lobby, "", time.Now())
		if a.Trusted(lobby) == nil {
			t.Error("after an answer from now the room is trusted")
		}
	})
}

// The last renewal decides when a lease ends, whatever another replica remembers.
func TestShorterLeaseOfAnotherReplica(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a, b := start(t, fake), start(t, fake)
		time.Sleep(5 * time.Second)
		for _, name := range []string{"Ann", "Ben"} {
			if _, err := a.Put(t.Context(), lobby, store.Wanted{Connection: connection(name, ""), TTL: 5 * time.Minute}); err != nil {
				t.Fatal(err)
			}
		}
		if !b.renews("Ann", 15*time.Second) {
			t.Fatal("it is not there")
		}
		for range 3 {
			time.Sleep(10 * time.Second)
			if !b.renews("Ben", 10*time.Second+time.Second) {
				t.Error("renewed, and lost")
			}
		}
		if names := a.names(); names != "[Ben]" {
			t.Errorf("after the end of the shorter lease there are %s", names)
		}
		if !a.renews("Ben", 5*time.Minute) {
			t.Error("it can't be made longer again")
		}
		time.Sleep(4 * time.Minute)
		if names := b.names(); names != "[Ben]" {
			t.Errorf("before the end of the longer lease there are %s", names)
		}
		if listed, n := b.kept(); listed != 0 || n != 0 {
			t.Errorf("%d connections are remembered there still, %d in all", listed, n)
		}
	})
}

// A put of unknown outcome is undone if it brought its user in, but not if the user was
// there before.
func TestPutOfUnknownOutcome(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a, b := start(t, fake), start(t, fake)
		time.Sleep(5 * time.Second)
		for _, name := range []string{"Ann", "Ben"} {
			if err := b.put(lobby, connection(name, "")); err != nil {
				t.Fatal(err)
			}
		}
		if err := a.put(lobby, connection("Ann", "")); err != nil {
			t.Fatal(err)
		}
		b.watching()
		for _, name := range []string{"Ann", "Ben", "Cem"} { // a remembers the first of them
			a.link.LoseReply("c-"+name, 0)
			if err := a.put(lobby, connection(name, "")); !errors.Is(err, presence.ErrUnavailable) {
				t.Fatalf("%s: %v", name, err)
			}
			a.link.LoseReply("", 0)
			time.Sleep(5 * time.Second)
		}
		if names := b.names(); names != "[Ann Ben]" {
			t.Errorf("there are %s", names)
		}
		if seen := b.history(); seen[0] != "2" || slices.Contains(seen, "1") {
			t.Errorf("saw %q", seen)
		}
	})
}

// The same holds for a stream that comes back or takes over: it tries again, and nobody
// sees a leave.
func TestAttendingOfUnknownOutcome(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a, b := start(t, fake), start(t, fake)
		time.Sleep(5 * time.Second)
		attend := func(p *process, name string) (*Member, error) {
			m, _, err := p.Attend(t.Context(), lobby, store.Wanted{Connection: connection(name, presence.NewGeneration())}, living{})
			return m, err
		}
		for _, name := range []string{"Ann", "Ben"} {
			m, err := attend(b, name)
			if err == nil && name == "Ann" {
				err = b.Release(m)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		b.watching()
		for _, name := range []string{"Ann", "Ben", "Cem"} { // in order: came before, is there, is new
			a.link.LoseReply("c-"+name, 0)
			if _, err := attend(a, name); !errors.Is(err, presence.ErrUnavailable) {
				t.Fatalf("%s: %v", name, err)
			}
			a.link.LoseReply("", 0)
			time.Sleep(5 * time.Second)
		}
		if names := b.names(); names != "[Ann Ben]" {
			t.Errorf("there are %s", names)
		}
		for _, name := range []string{"Ann", "Ben"} {
			if m, err := attend(a, name); err != nil || m.User().Name != name {
				t.Fatal(name, err)
			}
		}
		time.Sleep(2 * time.Minute)
		if names := b.names(); names != "[Ann Ben]" {
			t.Errorf("after two minutes there are %s", names)
		}
		if seen := b.history(); seen[0] != "2" || slices.Contains(seen, "1") {
			t.Errorf("saw %q", seen)
		}
	})
}

// When a socket has taken over a connection, the replica no longer remembers it as one
// without a socket.
func TestPutThatASocketTookOverIsForgotten(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a, b := start(t, fake), start(t, fake)
		time.Sleep(5 * time.Second)
		if _, err := a.Put(t.Context(), lobby, store.Wanted{Connection: connection("Ann", ""), TTL: 5 * time.Minute}); err != nil {
			t.Fatal(err)
		}
		m := b.resume("Ann")
		a.restorePuts(t.Context(), &trip{}, lobby) // as if b had been first after a loss
		if a.puts.has(lobby, "c-Ann") {
			t.Error("it is remembered still")
		}
		if err := b.Release(m); err != nil {
			t.Fatal(err)
		}
		time.Sleep(store.DefaultLeaveGrace + time.Second)
		if names := a.names(); names != "[]" {
			t.Errorf("after the socket there are %s", names)
		}

		if err := a.put(lobby, connection("Ben", "")); err != nil {
			t.Fatal(err)
		}
		a.resume("Ben")
		if listed, n := a.kept(); listed != 0 || n != 0 {
			t.Errorf("after the resume here %d are remembered", listed)
		}
	})
}

// If the room is damaged when connections should be put back, they are not lost.
func TestPutsOutliveDamage(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a := start(t, fake)
		time.Sleep(5 * time.Second)
		if _, err := a.Put(t.Context(), lobby, store.Wanted{Connection: connection("Ann", ""), TTL: 5 * time.Minute}); err != nil {
			t.Fatal(err)
		}
		wrongType(fake, "presence:{lobby}:conns")
		a.restorePuts(t.Context(), &trip{}, lobby)
		time.Sleep(DefaultHeartbeatInterval + 5*time.Second)
		if names := a.names(); names != "[Ann]" {
			t.Errorf("there are %s", names)
		}
	})
}

func TestPutsAreBounded(t *testing.T) {
	p := newPuts()
	p.n = maxPuts - 1
	p.remember("r", connection("Ann", "~abc"), time.Minute)
	p.remember("r", connection("Ben", "~abc"), time.Minute)
	if !p.has("r", "c-Ann") || p.has("r", "c-Ben") || p.n != maxPuts {
		t.Errorf("%d remembered", p.n)
	}
	p.remember("r", connection("Ann", "~def"), time.Hour)
	if p.rooms["r"]["c-Ann"].conn.Generation != "~def" {
		t.Error("a remembered connection can't be renewed")
	}
	p.forget("r", "c-Ann")
	p.forget("r", "c-Ann")
	if p.n != maxPuts-1 || len(p.rooms) != 0 {
		t.Errorf("%d remembered, rooms %v", p.n, p.rooms)
	}
}

// A lease shorter than the time between two looks at the room ends in time, too.
func TestShortLeaseEndsInTime(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a := start(t, fake)
		a.enter("Ann")
		time.Sleep(time.Minute)
		for range 10 {
			if _, err := a.Put(t.Context(), lobby, store.Wanted{Connection: connection("Ben", ""), TTL: 5 * time.Second}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(3 * time.Second)
			if !a.renews("Ben", 4*time.Second) {
				t.Fatal("it is not there")
			}
			time.Sleep(3900 * time.Millisecond)
			if names := a.names(); names != "[Ann Ben]" {
				t.Fatalf("before the end of the lease there are %s", names)
			}
			time.Sleep(1100 * time.Millisecond)
			if names := a.names(); names != "[Ann]" {
				t.Fatalf("a second after the lease there are %s", names)
			}
			time.Sleep(1300 * time.Millisecond)
		}
	})
}

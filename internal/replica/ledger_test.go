package replica

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"presence/internal/presence"
	"presence/internal/redistest"
	"presence/internal/store"
)

// check recounts the ledger from the members and leases that it counts.
func (ms *members) check(t *testing.T, story string) {
	t.Helper()
	ms.mu.Lock()
	defer ms.mu.Unlock()
	l := &ms.ledger
	accounts := map[string]*account{}
	for tab, p := range l.places {
		if len(ms.tabs[tab]) == 0 && p.asking == 0 && p.until.IsZero() {
			t.Fatalf("%s: a place without a tab", story)
		}
		a := accounts[p.address]
		if a == nil {
			a = &account{rooms: map[string]int{}}
			accounts[p.address] = a
		}
		a.members++
		a.rooms[tab.room]++
		if leased := l.leased[tab] == p; leased == p.until.IsZero() {
			t.Fatalf("%s: leased %v until %v", story, leased, p.until)
		}
	}
	for tab := range ms.tabs {
		if l.places[tab] == nil {
			t.Fatalf("%s: a member without a place", story)
		}
	}
	if got, want := fmt.Sprint(dump(l.accounts)), fmt.Sprint(dump(accounts)); got != want || len(l.leased) > len(l.places) {
		t.Fatalf("%s: accounts %s, want %s", story, got, want)
	}
}

func dump(accounts map[string]*account) map[string]account {
	plain := map[string]account{}
	for address, a := range accounts {
		plain[address] = *a
	}
	return plain
}

// Whatever tabs do, in whatever order, the ledger matches the tabs that are there, and is
// empty when there are none.
func TestLedgerNeverDrifts(t *testing.T) {
	for seed := range uint64(10) {
		bubble(t, func(t *testing.T, fake *redistest.Fake) {
			rnd := rand.New(rand.NewPCG(seed, 0))
			a := start(t, fake)
			a.members.ledger.maxRooms, a.members.ledger.maxMembers = 2, 4
			var open []*Member
			address := func() string { return fmt.Sprint("address", rnd.IntN(2)) }
			room := func() string { return fmt.Sprint("room", rnd.IntN(4)) }
			conn := func() presence.Connection {
				c := connection(fmt.Sprint(rnd.IntN(6)), presence.NewGeneration())
				c.Address = address()
				return c
			}
			take := func(i int) *Member {
				m := open[i]
				open = append(open[:i], open[i+1:]...)
				return m
			}
			var story strings.Builder
			fmt.Fprintf(&story, "seed %d:", seed)
			for range 120 {
				var err error
				var m *Member
				n := rnd.IntN(9)
				fmt.Fprint(&story, " ", n)
				switch {
				case n == 0:
					m, _, err = a.Join(t.Context(), room(), conn(), living{}, nil)
				case n == 1 && len(open) > 0:
					former := take(rnd.IntN(len(open)))
					c := conn()
					c.ID = former.conn.ID
					if m, _, err = a.Join(t.Context(), former.room, c, living{}, former); err != nil {
						m = former
					}
				case n == 2:
					m, err = a.Resume(t.Context(), room(), conn(), living{})
				case n == 3:
					err = a.put(room(), conn())
				case n == 4:
					_, err = a.Renew(t.Context(), room(), []string{conn().ID}, store.DefaultMemberTTL, address(), time.Time{})
				case n == 5:
					_, err = a.End(t.Context(), room(), conn().ID)
				case n == 6 && len(open) > 0:
					err = a.Release(take(rnd.IntN(len(open))))
				case n == 7 && len(open) > 0:
					_, err = a.Leave(t.Context(), take(rnd.IntN(len(open))))
				case n == 8:
					time.Sleep(time.Duration(rnd.IntN(20)) * time.Second)
				}
				if m != nil {
					open = append(open, m)
				}
				if err != nil && !errors.Is(err, presence.ErrAddressMembers) && !errors.Is(err, presence.ErrAddressRooms) {
					t.Fatalf("%s: %v", story.String(), err)
				}
				a.members.check(t, story.String())
			}
			for _, m := range open {
				if err := a.Release(m); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(store.DefaultMemberTTL + DefaultHeartbeatInterval)
			a.members.check(t, story.String())
			if n := len(a.members.ledger.places) + len(a.members.ledger.accounts) + len(a.members.ledger.leased) + a.members.count(); n != 0 {
				t.Fatalf("%s: %d entries are left, but no tab is", story.String(), n)
			}
		})
	}
}

// A join that fails takes no place. A join that is refused is not sent to Redis.
func TestRefusedJoinsTakeNoPlace(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a := start(t, fake)
		a.members.ledger.maxRooms, a.members.ledger.maxMembers = 1, 2
		try := func(room, name string) error {
			conn := connection(name, "")
			conn.Address = "here"
			return a.put(room, conn)
		}
		a.link.Cut()
		if err := try("r", "Ann"); !errors.Is(err, presence.ErrUnavailable) {
			t.Fatal(err)
		}
		a.link.Mend()
		time.Sleep(5 * time.Second)
		for _, c := range []struct {
			room, name string
			want       error
		}{
			{"r", "Ann", nil},
			{"s", "Ben", presence.ErrAddressRooms},
			{"r", "Ben", nil},
			{"r", "Cid", presence.ErrAddressMembers},
			{"r", "Ann", nil},
		} {
			if err := try(c.room, c.name); !errors.Is(err, c.want) {
				t.Errorf("%s into %s: %v, want %v", c.name, c.room, err, c.want)
			}
		}
		if rooms, err := a.store.Rooms(t.Context()); err != nil || fmt.Sprint(rooms) != "[r]" {
			t.Errorf("rooms %v, %v", rooms, err)
		}
		time.Sleep(store.DefaultMemberTTL + time.Second)
		if err := try("s", "Cid"); err != nil {
			t.Errorf("after the leases have run out: %v", err)
		}
	})
}

// A tab that moves here, for example because another replica is gone, is not refused.
func TestNobodyIsRefusedToComeBack(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a, b := start(t, fake), start(t, fake)
		b.members.ledger.maxMembers = 1
		for _, name := range []string{"Ann", "Ben", "Cid"} {
			a.join(name)
		}
		a.kill()
		for _, name := range []string{"Ann", "Ben", "Cid"} {
			b.resume(name)
		}
		if _, _, err := b.Join(t.Context(), lobby, connection("Dan", "gen1"), living{}, nil); !errors.Is(err, presence.ErrAddressMembers) {
			t.Error(err)
		}
	})
}

// A page adopts the connection of the form by which its tab joined. It is the same user,
// and nobody sees a gap. Nobody else's connection can be adopted.
func TestAdoptedConnectionIsSeenByNobody(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a, b := start(t, fake), start(t, fake).watching()
		form := connection("Ann", "")
		if err := a.put(lobby, form); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		tab := presence.Connection{ID: "c-tab", Generation: presence.NewGeneration()}
		for _, other := range [][2]string{{form.ID, "u-Ben"}, {"c-Ben", form.User.ID}} {
			if m, err := b.Adopt(t.Context(), lobby, other[0], other[1], tab, living{}); m != nil || err != nil {
				t.Fatalf("%v: %v, %v", other, m, err)
			}
		}
		m, err := b.Adopt(t.Context(), lobby, form.ID, form.User.ID, tab, living{})
		if err != nil || m == nil || m.User().ID != form.User.ID {
			t.Fatal(m, err)
		}
		if again, err := b.Adopt(t.Context(), lobby, form.ID, form.User.ID, tab, living{}); again != nil || err != nil {
			t.Fatal("adopted twice:", again, err)
		}
		time.Sleep(3 * store.DefaultMemberTTL)
		b.saw("0", "1")
		if _, err := b.Leave(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		b.saw("0", "1", "0")
	})
}

// A connection that has a socket can't be adopted.
func TestSocketsAreNotAdopted(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a := start(t, fake)
		a.join("Ann")
		tab := presence.Connection{ID: "c-tab", Generation: presence.NewGeneration()}
		if m, err := a.Adopt(t.Context(), lobby, "c-Ann", "u-Ann", tab, living{}); m != nil || err != nil {
			t.Fatal(m, err)
		}
	})
}

package replica

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"testing"
	"time"

	"presence/internal/presence"
	"presence/internal/redistest"
	"presence/internal/store"
)

// again joins once more through the socket of m.
func (p *process) again(m *Member, name string) *Member {
	p.t.Helper()
	conn := connection(name, presence.NewGeneration())
	conn.ID = m.conn.ID
	next, _, err := p.Join(p.t.Context(), lobby, conn, living{}, m)
	if err != nil {
		p.t.Fatalf("join again as %s: %v", name, err)
	}
	return next
}

// names returns the roster of the lobby in Redis.
func (p *process) names() string {
	p.t.Helper()
	readings, err := p.store.Read(p.t.Context(), store.Have{Room: lobby})
	if err != nil || readings[0].Err != nil {
		p.t.Fatal(err, readings)
	}
	var names []string
	for _, m := range readings[0].Members {
		names = append(names, m.Name)
	}
	return fmt.Sprint(names)
}

func TestTabThatJoinsTwiceIsThereOnceAndLeavesForGood(t *testing.T) {
	for what, name := range map[string]string{"under one name": "Ann", "under two": "Ben"} {
		t.Run(what, func(t *testing.T) {
			bubble(t, func(t *testing.T, fake *redistest.Fake) {
				a, b := start(t, fake), start(t, fake).watching()
				m := a.again(a.enter("Ann"), name)
				time.Sleep(2 * DefaultHeartbeatInterval)
				if n := a.members.count(); n != 1 {
					t.Fatalf("%d local members", n)
				}
				b.saw("0", "1")
				if names := b.names(); names != fmt.Sprintf("[%s]", name) {
					t.Fatalf("the roster is %s", names)
				}
				if _, err := a.Leave(t.Context(), m); err != nil {
					t.Fatal(err)
				}
				if n := a.members.count(); n != 0 {
					t.Fatalf("%d local members after the leave", n)
				}
				time.Sleep(5 * time.Minute)
				b.saw("0", "1", "0")
			})
		})
	}
}

func TestTabThatJoinedOftenComesBackAsTheLast(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a, b := start(t, fake), start(t, fake).watching()
		m := a.enter("N1")
		for _, name := range []string{"N2", "N3", "N4", "N5"} {
			m = a.again(m, name)
		}
		time.Sleep(time.Minute)
		fake.FlushAll()
		for range 4 {
			time.Sleep(DefaultHeartbeatInterval)
			if names := b.names(); names != "[N5]" {
				t.Fatalf("the roster is %s", names)
			}
		}
		b.saw("0", "1", "1 stale", "1")
	})
}

// A tab whose socket has closed does not count as joined here. A tab that has two sockets
// for a moment counts once.
func TestLocalMembersAreTabs(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a := start(t, fake)
		old := a.enter("Ann")
		next := a.resume("Ann")
		a.enter("Ben")
		for _, c := range []struct {
			what string
			do   func() error
			want int
		}{
			{"a tab with two sockets, and another", func() error { return nil }, 2},
			{"the old socket closes", func() error { return a.Release(old) }, 2},
			{"it closes again", func() error { return a.Release(old) }, 2},
			{"the new one closes", func() error { return a.Release(next) }, 1},
		} {
			if err := c.do(); err != nil {
				t.Fatal(err)
			}
			if n := a.members.count(); n != c.want {
				t.Errorf("%s: %d local members, want %d", c.what, n, c.want)
			}
		}
	})
}

// Heartbeats find a tab missing, and the replica puts it back while its user leaves.
func TestLeaveIsNotUndoneByARestoreUnderWay(t *testing.T) {
	for what, again := range map[string]bool{"of the member": false, "of a former member": true} {
		t.Run(what, func(t *testing.T) {
			bubble(t, func(t *testing.T, fake *redistest.Fake) {
				a, b := start(t, fake), start(t, fake).watching()
				late := a.enter("Ann")
				m := late
				if again {
					m = a.again(late, "Ben")
				}
				if _, err := a.Leave(t.Context(), m); err != nil {
					t.Fatal(err)
				}
				a.restore(t.Context(), &trip{}, lobby, []*Member{late})
				time.Sleep(time.Second)
				if names := b.names(); names != "[]" {
					t.Errorf("the roster is %s", names)
				}
				time.Sleep(2 * time.Minute)
				if b.last() != "0" {
					t.Errorf("saw %q", b.history())
				}
			})
		})
	}
}

// The user has left. An old socket of the tab that still answers does not bring the user
// back.
func TestLeaveEndsAllSocketsOfTheTabHere(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a, b := start(t, fake), start(t, fake).watching()
		a.enter("Ann")
		if _, err := a.Leave(t.Context(), a.resume("Ann")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		b.saw("0", "1", "0")
	})
}

func TestLeaveThatFailedEndsNothing(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a, b := start(t, fake), start(t, fake).watching()
		m := a.enter("Ann")
		a.link.Cut()
		if _, err := a.Leave(t.Context(), m); !errors.Is(err, presence.ErrUnavailable) {
			t.Fatal(err)
		}
		a.link.Mend()
		time.Sleep(10 * time.Second)
		fake.FlushAll()
		time.Sleep(2 * time.Minute)
		b.saw("0", "1", "1 stale", "1")
	})
}

// A tab that is joined presses Join again, and the answer is lost. The page says that
// nothing has happened, so the replica has to make that true.
func TestJoinAgainOfUnknownOutcomeIsUndone(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a, b := start(t, fake), start(t, fake).watching()
		m := a.enter("Ann")
		conn := connection("Ben", presence.NewGeneration())
		conn.ID = m.conn.ID
		if _, err := a.store.Join(t.Context(), lobby, conn); err != nil {
			t.Fatal(err)
		}
		a.members.doubt(m.tab(), conn.Generation)
		for range 12 {
			time.Sleep(2 * time.Second)
			if names := b.names(); names != "[Ann]" {
				t.Fatalf("the roster is %s", names)
			}
		}
		time.Sleep(2 * time.Minute)
		if b.last() != "1" {
			t.Errorf("saw %q", b.history())
		}
	})
}

// Two joins of a tab have unknown outcomes, and a third one by another replica took
// place. Undoing the two does not end the third.
func TestUndoingAJoinLeavesTheNextOneAlone(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a, b := start(t, fake), start(t, fake).watching()
		visitor := connection("Ann", "")
		for range 2 {
			conn := visitor
			conn.Generation = presence.NewHTTPGeneration()
			if _, err := a.store.Join(t.Context(), lobby, conn); err != nil {
				t.Fatal(err)
			}
			a.members.doubt(tabKey{lobby, conn.ID}, conn.Generation)
		}
		if _, err := b.Put(t.Context(), lobby, store.Wanted{Connection: visitor, TTL: store.DefaultMemberTTL}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(store.DefaultMemberTTL - time.Second)
		b.saw("0", "1")
		if n := len(a.members.doubts()); n != 0 {
			t.Errorf("%d doubts are left", n)
		}
		time.Sleep(2 * time.Second)
		b.saw("0", "1", "0")
	})
}

// The socket closes before the outcome of its resume is known.
func TestAbandonedResumeLeavesAfterTheGrace(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a, b := start(t, fake), start(t, fake).watching()
		if err := a.Release(a.enter("Ann")); err != nil {
			t.Fatal(err)
		}
		if _, _, _, err := a.store.Resume(t.Context(), lobby, "c-Ann", "gen2"); err != nil {
			t.Fatal(err)
		}
		if err := a.Abandon(lobby, presence.Connection{ID: "c-Ann", Generation: "gen2"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(store.DefaultLeaveGrace + time.Second)
		b.saw("0", "1", "0")
	})
}

// A join that replaces a member gets that member's position in its cohort.
func TestJoiningAgainTakesNoRoom(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a := start(t, fake)
		m := a.join("Ann")
		a.join("Ben")
		for range 3 * store.BatchSize {
			m = a.again(m, "Ann")
		}
		cohorts := 0
		for i := range slots {
			for _, list := range a.members.inSlot(i) {
				cohorts++
				if len(list) != 2 || list[0] != m {
					t.Errorf("a cohort of %d", len(list))
				}
			}
		}
		if cohorts != 1 {
			t.Errorf("%d cohorts", cohorts)
		}
	})
}

// After a loss of data, a replaced member does not put back a tab whose socket hangs.
func TestReplacedMemberIsNeverAsked(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a := start(t, fake)
		former := a.join("Ann")
		a.members.ask(former, true)
		a.again(former, "Ben")
		a.members.ask(former, true)
		time.Sleep(time.Minute)
		if n := len(a.members.suspect); n != 0 {
			t.Errorf("%d members are in doubt", n)
		}
	})
}

// Redis loses its data. Before a replica notices, people join again by forms, or join and
// close the page at once. Those who closed it leave in time, although no replica holds a
// member of the room.
func TestNobodyStaysInARoomThatWasLost(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a, b := start(t, fake), start(t, fake)
		join := func(name string) {
			t.Helper()
			if err := a.put(lobby, connection(name, "")); err != nil {
				t.Fatal(err)
			}
		}
		join("Ann")
		time.Sleep(5 * time.Second)
		fake.FlushAll()
		join("Ann")
		join("closed")
		if err := a.Release(a.join("gone")); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		for time.Since(began) <= store.DefaultMemberTTL+time.Second {
			if found, err := b.Renew(t.Context(), lobby, []string{"c-Ann"}, store.DefaultMemberTTL, "", time.Time{}); err != nil || found[0].ID == "" {
				t.Fatal(found, err)
			}
			time.Sleep(3 * time.Second)
		}
		if names := b.names(); names != "[Ann]" {
			t.Errorf("the roster is %s", names)
		}
		if rooms, err := b.store.Rooms(t.Context()); err != nil || fmt.Sprint(rooms) != "[lobby]" {
			t.Errorf("rooms %v, %v", rooms, err)
		}
	})
}

// Only the list of rooms is lost, for example with its node of a Cluster. A replica that
// renews a connection puts the room back on the list.
func TestRenewalPutsTheRoomBackOnTheList(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a := start(t, fake)
		for _, name := range []string{"Ann", "closed"} {
			if err := a.put(lobby, connection(name, "")); err != nil {
				t.Fatal(err)
			}
		}
		fake.Del("presence:rooms")
		for range 4 {
			if _, err := a.Renew(t.Context(), lobby, []string{"c-Ann"}, store.DefaultMemberTTL, "", time.Time{}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(8 * time.Second)
		}
		if names := a.names(); names != "[Ann]" {
			t.Errorf("the roster is %s", names)
		}
	})
}

// The list of rooms is lost, and a replica through which a user was just put is killed
// before its next heartbeat. The room is swept all the same.
func TestPutPutsTheRoomBackOnTheList(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a := start(t, fake)
		for _, name := range []string{"Ann", "Ben"} { // the room is registered once only
			time.Sleep(time.Second)
			fake.Del("presence:rooms")
			if err := a.put(lobby, connection(name, "")); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(2 * time.Second)
		a.kill()
		b := start(t, fake)
		time.Sleep(store.DefaultMemberTTL + time.Second)
		if names := b.names(); names != "[]" {
			t.Errorf("there are %s", names)
		}
	})
}

// In rooms where people come and go all day and few stay, renewing takes no more calls
// than the members need.
func TestCohortsAreFilledUpAgain(t *testing.T) {
	ms := newMembers(Options{})
	var stay []*Member
	for i := range 20 * store.BatchSize {
		m := &Member{room: lobby, conn: presence.Connection{ID: fmt.Sprint(i)}}
		ms.add(m, nil)
		if i%100 == 0 {
			stay = append(stay, m)
		}
		if i%store.BatchSize == store.BatchSize-1 { // all leave except those who stay
			for _, tab := range slices.Collect(maps.Keys(ms.tabs)) {
				if n, _ := strconv.Atoi(tab.id); n%100 != 0 {
					ms.remove(ms.tabs[tab][0])
				}
			}
		}
	}
	members := 0
	lists := ms.inRoom(lobby)
	for _, list := range lists {
		members += len(list)
	}
	if members != len(stay) || len(lists) > 8 { // and not one for every five hundred who came
		t.Errorf("%d members in %d lists, want %d in eight at the most", members, len(lists), len(stay))
	}
	for _, m := range stay {
		ms.remove(m)
	}
	if lists := ms.inRoom(lobby); len(lists) != 0 || len(ms.filling) != 0 {
		t.Errorf("no member is left, but there are %d lists", len(lists))
	}
}

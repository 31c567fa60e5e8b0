package store

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"presence/internal/presence"
)

// crowd makes n users join room. Every third has two connections.
func crowd(t *testing.T, s *Store, room string, n int) {
	t.Helper()
	var lost []Lost
	for i := range n {
		for j := range 1 + (i%3)/2 {
			c := conn(fmt.Sprintf("c%05d%d", i, j), "gen1", fmt.Sprintf("N%05d", i))
			lost = append(lost, Lost{Connection: c})
		}
	}
	if _, errs := s.Restore(t.Context(), room, lost); slices.ContainsFunc(errs, func(err error) bool { return err != nil }) {
		t.Fatal(errs)
	}
}

func TestPickReadsSomeUsersOfSomeRooms(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		s := e.store(t, Options{})
		join(t, s, "a", conn("c1", "gen1", "Ann"))
		join(t, s, "a", conn("c2", "gen1", "Ann"))
		join(t, s, "a", conn("c3", "gen1", "Ben"))
		join(t, s, "b", conn("c1", "gen1", "Ben"))
		picked := s.Pick(t.Context(), []string{"id-of-Ben", "id-of-Ann", "id-of-Eve"}, "a", "b", "c")
		want := "2 3 [Ben 1 Ann 2] | 1 1 [Ben 1] | 0 0 []"
		var got strings.Builder
		for i, p := range picked {
			var names []string
			for _, m := range p.Members {
				names = append(names, fmt.Sprint(m.Name, " ", m.Connections))
			}
			if i > 0 {
				got.WriteString(" | ")
			}
			fmt.Fprint(&got, p.Users, p.Connections, " ", names)
		}
		if got.String() != want {
			t.Errorf("picked %s, want %s", got.String(), want)
		}
		if p := s.Pick(t.Context(), nil, "a")[0]; p.Users != 2 || p.Members != nil || p.Birth == "" {
			t.Errorf("numbers alone: %+v", p)
		}
	})
}

// A scan returns every user who is in the room from the scan's beginning to its end, even
// while others come and go. In a quiet room it returns each user once.
func TestScanHasAllWhoAreThere(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		s := e.store(t, Options{})
		const n = 700
		crowd(t, s, "r", n)
		for _, noisy := range []bool{false, true} {
			seen, connections := map[string]int{}, 0
			parts := 0
			for from := (Cursor{}); ; parts++ {
				part, err := s.Scan(t.Context(), "r", from, 50)
				if err != nil {
					t.Fatal(err)
				}
				for _, m := range part.Members {
					seen[m.ID]++
					connections += m.Connections
				}
				if from = part.Next; from == (Cursor{}) {
					break
				}
				if noisy {
					for i := range 20 {
						join(t, s, "r", conn(fmt.Sprintf("x%d-%d", parts, i), "gen1", fmt.Sprintf("X%d-%d", parts, i)))
						_, err := s.Leave(t.Context(), "r", fmt.Sprintf("x%d-%d", parts-1, i), "")
						if err != nil {
							t.Fatal(err)
						}
					}
				}
			}
			if !noisy && (len(seen) != n || connections != n+n/3) {
				t.Errorf("%d users with %d connections are listed in a quiet room", len(seen), connections)
			}
			for i := range n {
				if times := seen[user(fmt.Sprintf("N%05d", i)).ID]; times < 1 || times > 1 && !noisy {
					t.Fatalf("user %d comes %d times, in %d parts", i, times, parts)
				}
			}
		}
	})
}

func TestScanOfDataThatWereLostBeginsAnew(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		s := e.store(t, Options{})
		join(t, s, "r", conn("c1", "gen1", "Ann"))
		part, err := s.Scan(t.Context(), "r", Cursor{Birth: "1", At: 12345}, 10)
		if err != nil || len(part.Members) != 1 || part.Next != (Cursor{}) {
			t.Fatalf("%+v, %v", part, err)
		}
		if part, err := s.Scan(t.Context(), "nobody", Cursor{Birth: "1", At: 12345}, 10); err != nil || len(part.Members) != 0 || part.Next != (Cursor{}) {
			t.Fatalf("%+v, %v", part, err)
		}
	})
}

func TestChangesAreThoseOfTheLog(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		s := e.store(t, Options{})
		if changes, o, told, err := s.Changes(t.Context(), "r", 0, 10); err != nil || !told || len(changes) != 0 || o.Version != 0 {
			t.Fatalf("of no room: %v %v %v %v", changes, o, told, err)
		}
		if _, _, told, err := s.Changes(t.Context(), "r", 7, 10); err != nil || told {
			t.Fatalf("of no room since then: %v %v", told, err)
		}
		versions := []int64{0}
		for i := range 300 {
			versions = append(versions, join(t, s, "r", conn(fmt.Sprint("c", i), "gen1", fmt.Sprint("N", i))).Version)
		}
		last := versions[300]
		for _, at := range []int{300, 299, 250, 100, 60} {
			changes, o, told, err := s.Changes(t.Context(), "r", versions[at], 5)
			if err != nil || !told || o.Version != last || len(changes) != min(5, 300-at) {
				t.Fatalf("since %d: %d changes of %+v, %v, %v", at, len(changes), o, told, err)
			}
			for i, c := range changes {
				if c.Prev != versions[at+i] || c.Version != versions[at+i+1] || c.Users != at+i+1 || len(c.Joined) != 1 {
					t.Errorf("since %d: %+v", at, c)
				}
			}
		}
		for what, after := range map[string]int64{"the future": last + 1, "long ago": 1} {
			if changes, _, told, err := s.Changes(t.Context(), "r", after, 5); err != nil || told || changes != nil {
				t.Errorf("since %s: %v %v %v", what, changes, told, err)
			}
		}
		// 70 users who leave a large room at once are not named.
		var gone []presence.Connection
		for i := range 70 {
			gone = append(gone, conn(fmt.Sprint("c", i), "", ""))
		}
		if s.run(t.Context(), s.pairsCall(leaveScript, "r", gone, "left")); read(t, s, "r").Users != 230 {
			t.Fatal("they did not leave")
		}
		marked := read(t, s, "r").Version
		join(t, s, "r", conn("d", "gen1", "D"))
		if _, _, told, err := s.Changes(t.Context(), "r", last, 5); err != nil || told {
			t.Errorf("over a mark: %v, %v", told, err)
		}
		if changes, _, told, err := s.Changes(t.Context(), "r", marked, 5); err != nil || !told || len(changes) != 1 {
			t.Errorf("after the mark: %v, %v", told, err)
		}
	})
}

// A removal of a user who is not there is remembered, since Redis may have lost the user's
// connections. Not more of them are remembered than a limit, the latest ones.
func TestRemovalsOfAbsentUsersAreRemembered(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		s := e.store(t, Options{})
		const most = 10_000
		join(t, s, "r", conn("c", "gen1", "Ben"))
		now := float64(must(e.admin.Time(t.Context()).Result()).UnixMicro())
		earlier := make([]redis.Z, most)
		for i := range earlier {
			earlier[i] = redis.Z{Score: now - float64(most-i), Member: fmt.Sprint("u", i)}
		}
		must(e.admin.ZAdd(t.Context(), s.keys.removed("r"), earlier...).Result())
		if _, _, err := s.Remove(t.Context(), "r", "Ann"); err != nil {
			t.Fatal(err)
		}
		if n := must(e.admin.ZCard(t.Context(), s.keys.removed("r")).Result()); n != most {
			t.Errorf("%d are remembered", n)
		}
		for user, want := range map[string]bool{"Ann": true, "u1": true, "u0": false} {
			if was, err := s.WasRemoved(t.Context(), "r", user, 1); err != nil || was != want {
				t.Errorf("WasRemoved of %s: %v, %v", user, was, err)
			}
		}
		// So it is in a room that does not exist, and only for some time.
		if _, _, err := s.Remove(t.Context(), "none", "Ann"); err != nil {
			t.Fatal(err)
		}
		for _, room := range []string{"r", "none"} {
			if left := must(e.admin.PTTL(t.Context(), s.keys.removed(room)).Result()); left <= removedFor/2 || left > removedFor {
				t.Errorf("%s: it is remembered for %v", room, left)
			}
		}
	})
}

func TestRemoveEndsAllConnectionsOfAUserForGood(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		s := e.store(t, Options{})
		crowd(t, s, "r", 900)
		for i := range 30 {
			join(t, s, "r", conn(fmt.Sprint("e", i), "gen1", "Eve"))
		}
		here := func(id string) int {
			if members := s.Pick(t.Context(), []string{id}, "r")[0].Members; len(members) > 0 {
				return members[0].Connections
			}
			return 0
		}
		if n := here("id-of-Eve"); n != 30 {
			t.Fatalf("%d connections", n)
		}
		eve := s.Pick(t.Context(), []string{"id-of-Eve"}, "r")[0].Members[0].User
		before := read(t, s, "r").Version
		ended, o, err := s.Remove(t.Context(), "r", "id-of-Eve")
		if err != nil || len(ended) != 30 || o.Users != 900 || o.Connections != 1200 || here("id-of-Eve") != 0 {
			t.Fatalf("%d ended, %+v, %v", len(ended), o, err)
		}
		changes, _, told, err := s.Changes(t.Context(), "r", before, 100)
		if last := changes[len(changes)-1]; err != nil || !told || len(last.Left) != 1 || last.Left[0] != (presence.Left{User: "id-of-Eve", Reason: presence.ReasonRemoved}) {
			t.Fatalf("the log says %+v, %v", changes, err)
		}
		if ended, again, err := s.Remove(t.Context(), "r", "id-of-Eve"); err != nil || len(ended) != 0 || again != o {
			t.Fatalf("again: %v, %+v, %v", ended, again, err)
		}
		if ended, none, err := s.Remove(t.Context(), "nobody", "id-of-Eve"); err != nil || len(ended) != 0 || none.Version != 0 {
			t.Fatalf("Remove of a user who is not present: %v, %+v, %v", ended, none, err)
		}

		// A replica that remembers one of the connections does not put it back.
		back := conn("e0", "gen1", "Eve")
		back.User = eve
		if _, errs := s.Restore(t.Context(), "r", []Lost{{Connection: back}}); !errors.Is(errs[0], presence.ErrRemoved) || here("id-of-Eve") != 0 {
			t.Fatalf("put back: %v", errs)
		}
		// Eve herself may come back, and then she is put back like others.
		held, err := s.Join(t.Context(), "r", conn("e9", "gen2", "Eve"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Leave(t.Context(), "r", "e9", ""); err != nil {
			t.Fatal(err)
		}
		if _, errs := s.Restore(t.Context(), "r", []Lost{{Connection: held.Connection}}); errs[0] != nil || here("id-of-Eve") != 1 {
			t.Fatalf("not put back: %v", errs)
		}
	})
}

package store

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"presence/internal/presence"
	"presence/internal/redistest"
)

func TestIndexListsRoomsByNameAndByUsers(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		a, b := e.store(t, Options{}), e.store(t, Options{})
		for i, room := range []string{"team-b", "lobby", "team-a", "team", "tea"} {
			for j := range i + 1 {
				join(t, a, room, conn(fmt.Sprint("c", j), "gen1", fmt.Sprint("user ", j)))
			}
		}
		join(t, b, "tea", conn("c0", "gen2", "user 0"))
		join(t, b, "tea", conn("c9", "gen1", "user 0"))
		list := func(prefix, after string, limit int) string {
			rooms, _, err := b.List(t.Context(), presence.AllRooms().Under(prefix), after, limit)
			return fmt.Sprint(must(rooms, err))
		}
		redistest.Eventually(t, 5*time.Second, "all rooms are in the index", func() bool {
			return list("", "", 10) == "[{lobby 2 2} {tea 5 6} {team 4 4} {team-a 3 3} {team-b 1 1}]"
		})
		for _, test := range []struct{ prefix, after, want string }{
			{"team", "", "[{team 4 4} {team-a 3 3}]"},
			{"team", "team", "[{team-a 3 3} {team-b 1 1}]"},
			{"team", "team-b", "[]"},
			{"", "lobby", "[{tea 5 6} {team 4 4}]"},
			{"x", "", "[]"},
		} {
			if got := list(test.prefix, test.after, 2); got != test.want {
				t.Errorf("rooms like %q after %q: %s, want %s", test.prefix, test.after, got, test.want)
			}
		}
		if got := fmt.Sprint(must(b.Busiest(t.Context(), 2))); got != "[{tea 5 6} {team 4 4}]" {
			t.Errorf("busiest: %s", got)
		}

		e.advance(31)
		b.Sweep(t.Context(), []string{"team", "tea"}, Terms{})
		redistest.Eventually(t, 5*time.Second, "empty rooms leave the index", func() bool {
			return list("te", "", 10) == "[{team-a 3 3} {team-b 1 1}]"
		})
	})
}

// byName lists all rooms.
func byName(t *testing.T, s *Store) []RoomCount {
	t.Helper()
	rooms, _, err := s.List(t.Context(), presence.AllRooms(), "", 1000)
	return must(rooms, err)
}

// The text with which a list continues reveals no rooms that the list leaves out.
func TestListGoesOnAmongItsOwnRooms(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		s := e.store(t, Options{})
		var names []string
		for i := range 2 * maxListCalls {
			names = append(names, fmt.Sprintf("exact-%03d", i))
		}
		for _, room := range []string{"a", "exact-000", "exact-000b", "exact-075", "open-1", "open-2", "open-3", "secret", "zoo"} {
			join(t, s, room, conn("c", "gen1", "Ann"))
		}
		redistest.Eventually(t, 5*time.Second, "all rooms are in the index", func() bool { return len(byName(t, s)) == 9 })
		for _, test := range []struct {
			among []string
			limit int
			want  string
		}{
			{nil, 5, "[]"},
			{[]string{"secrets", "b*"}, 5, "[]"},
			{[]string{"open-*", "zoo", "a"}, 2, "[a open-1] open-1 [open-2 open-3] open-3 [zoo]"},
			{[]string{"open-*", "zoo", "a"}, 4, "[a open-1 open-2 open-3] open-3 [zoo]"},
			{[]string{"open-*"}, 3, "[open-1 open-2 open-3]"},
			{append(names, "open-*"), 9, "[exact-000] exact-049 [exact-075] exact-099 [open-1 open-2 open-3]"},
			{[]string{"*"}, 8, "[a exact-000 exact-000b exact-075 open-1 open-2 open-3 secret] secret [zoo]"},
		} {
			var got []any
			for after := ""; ; {
				rooms, next, err := s.List(t.Context(), must(presence.ParsePatterns(test.among)).Apart(), after, test.limit)
				var page []string
				for _, one := range must(rooms, err) {
					page = append(page, one.Room)
				}
				if got = append(got, page); next == "" {
					break
				}
				if CheckListed(next) != nil {
					t.Errorf("%v goes on after %q, which is refused", test.among, next)
				}
				got, after = append(got, next), next
			}
			if text := strings.Trim(fmt.Sprintln(got...), "\n"); text != test.want {
				t.Errorf("of %v: %s, want %s", test.among, text, test.want)
			}
		}
		for _, bad := range []string{"a.b", "~~", "a~b", "*"} {
			if CheckListed(bad) == nil {
				t.Errorf("a list goes on after %q", bad)
			}
		}
	})
}

// A replica writes the numbers of a room again although nothing has changed: Redis may
// have lost only the index.
func TestLostIndexIsWrittenAgain(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		s := e.store(t, Options{})
		join(t, s, "r", conn("c", "gen1", "Ann"))
		there := func() bool { return len(byName(t, s)) == 1 }
		redistest.Eventually(t, 5*time.Second, "the room is in the index", there)
		redistest.Eventually(t, 5*time.Second, "the store knows that", func() bool {
			s.notes.mu.Lock()
			defer s.notes.mu.Unlock()
			return len(s.notes.written) == 1
		})
		e.admin.Del(t.Context(), s.keys.index()...)
		s.notes.mu.Lock()
		for room, w := range s.notes.written {
			w.at = w.at.Add(-10 * e.unit)
			s.notes.written[room] = w
		}
		s.notes.mu.Unlock()
		s.Sweep(t.Context(), []string{"r"}, Terms{})
		redistest.Eventually(t, 5*time.Second, "it is there again", there)
	})
}

// A room that no longer exists has version 0. It leaves the index also if Redis lost its data
// while numbers of the room were waiting to be written.
func TestLostRoomIsNotWrittenToTheIndex(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		s := e.store(t, Options{})
		join(t, s, "r", conn("c", "gen1", "Ann"))
		e.admin.FlushAll(t.Context())
		if swept := s.Sweep(t.Context(), []string{"r"}, Terms{})[0]; swept.Err != nil || swept.Version != 0 {
			t.Fatalf("sweep of a lost room: %+v", swept)
		}
		s.noteOnce(t.Context())
		if rooms := byName(t, s); len(rooms) != 0 {
			t.Errorf("the index has %v", rooms)
		}
	})
}

// If the index has lost one of its parts, or a part has a wrong type, it begins anew.
func TestDamagedIndexBeginsAnew(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		s := e.store(t, Options{})
		o := must(s.Join(t.Context(), "r", conn("c", "gen1", "Ann"))).Occupancy
		for _, key := range s.keys.index() {
			for _, kind := range []string{"missing", "of a wrong type"} {
				s.notes.add("r", o, 0)
				s.noteOnce(t.Context())
				e.admin.Del(t.Context(), key)
				if kind != "missing" {
					e.admin.Set(t.Context(), key, "x", 0)
				}
				s.notes.add("r", o, 0)
				s.noteOnce(t.Context())
				busy, err := s.Busiest(t.Context(), 10)
				if err != nil || len(busy) != 1 {
					t.Errorf("%s %s: busiest %v, %v", key, kind, busy, err)
				}
				if list := byName(t, s); len(list) != 1 {
					t.Errorf("%s %s: by name %v", key, kind, list)
				}
			}
		}
	})
}

// If the list of rooms in use has a wrong type, it is made anew, as if it had been
// deleted.
func TestListOfRoomsOfAWrongTypeIsMadeAnew(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		s := e.store(t, Options{})
		e.admin.Set(t.Context(), s.keys.rooms(), "x", 0)
		join(t, s, "r", conn("c", "gen1", "Ann"))
		if rooms, err := s.Rooms(t.Context()); err != nil || len(rooms) != 1 {
			t.Errorf("rooms %v, %v", rooms, err)
		}
		e.admin.Set(t.Context(), s.keys.rooms(), "x", 0)
		if err := s.Keep(t.Context(), "r"); err != nil {
			t.Errorf("keep: %v", err)
		}
		if rooms, err := s.Rooms(t.Context()); err != nil || len(rooms) != 1 {
			t.Errorf("kept rooms %v, %v", rooms, err)
		}
	})
}

// Rooms begin, grow, empty and are lost, through two stores. After a sweep of each room
// the index matches the rooms.
func TestIndexFollowsTheRooms(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		stores := []*Store{e.store(t, Options{}), e.store(t, Options{})}
		rooms := []string{"a", "b", "c", "d"}
		agree := func(step string) {
			t.Helper()
			for _, s := range stores {
				for _, swept := range s.Sweep(t.Context(), rooms, Terms{}) {
					if swept.Err != nil {
						t.Fatal(step, swept.Err)
					}
				}
				s.noteOnce(t.Context())
			}
			var want []RoomCount
			for _, room := range rooms {
				if snap := read(t, stores[0], room); snap.Users > 0 {
					want = append(want, RoomCount{room, snap.Users, snap.Connections})
				}
			}
			if got := byName(t, stores[1]); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%s: the index is %v, the rooms are %v", step, got, want)
			}
			if got := must(stores[0].Busiest(t.Context(), 10)); len(got) != len(want) {
				t.Errorf("%s: the busiest are %v of %v", step, got, want)
			}
		}
		for i, room := range rooms {
			for j := range 2 + i {
				join(t, stores[j%2], room, conn(fmt.Sprint("c", j), "gen1", fmt.Sprint("user ", j/2)))
			}
		}
		agree("joins")
		must(stores[0].Leave(t.Context(), "d", "c0", ""))
		for j := range 2 {
			must(stores[1].Leave(t.Context(), "a", fmt.Sprint("c", j), ""))
		}
		agree("leaves, and one is empty")
		e.admin.Del(t.Context(), stores[0].keys.room("b")...)
		agree("one is lost")
		join(t, stores[0], "b", conn("c7", "gen1", "back"))
		agree("and is back with another")
		e.admin.FlushAll(t.Context())
		join(t, stores[1], "c", conn("c7", "gen1", "back"))
		agree("all is lost, and one is back")
		e.advance(31)
		agree("all leases are over")
	})
}

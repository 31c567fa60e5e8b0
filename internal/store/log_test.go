package store

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"presence/internal/presence"
	"presence/internal/redistest"
)

// logOf returns how many entries the log of a room has, and the bytes of their values.
func logOf(t *testing.T, e *env, s *Store) (entries, bytes int) {
	t.Helper()
	cmd := e.admin.Do(t.Context(), "XRANGE", s.keys.log("r"), "-", "+")
	rows, err := cmd.Slice()
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range rows {
		for _, part := range row.([]any)[1].([]any) {
			bytes += len(part.(string))
		}
	}
	return len(rows), bytes
}

func TestLogIsBounded(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		s := e.store(t, Options{})
		for _, size := range []int{0, 1000} {
			for i := range 1200 {
				c := conn(fmt.Sprint("c", i%200), "~abc", fmt.Sprint("user", i%200))
				if size > 0 {
					c.User.Meta = `{"a":"` + strings.Repeat(string(rune('a'+i%26)), size) + `"}`
				}
				c.User.Name = fmt.Sprint("name ", i)
				must(s.Put(t.Context(), "r", Wanted{Connection: c, TTL: 30 * e.unit, SetName: true, SetMeta: true}))
				// What trims nearly exactly keeps some more.
				if i%100 != 99 {
					continue
				}
				if entries, bytes := logOf(t, e, s); entries > 256+128 || bytes > 256<<10 {
					t.Fatalf("%d changes of %d bytes: the log has %d entries of %d bytes", i+1, size, entries, bytes)
				}
			}
			entries, bytes := logOf(t, e, s)
			t.Logf("metadata of %d bytes: %d entries of %d bytes", size, entries, bytes)
			if entries < 50 || size == 0 && entries < 256 {
				t.Errorf("metadata of %d bytes: the log has %d entries", size, entries)
			}
		}
	})
}

// Many users with much metadata come back at once. An entry that names them all would be
// as large as the whole log.
func TestEntryOfMuchMetadata(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		s := e.store(t, Options{})
		for range 40 {
			for _, gone := range []bool{false, true} {
				var many []Lost
				for i := range 250 {
					c := conn(fmt.Sprint("c", i), "gen1", fmt.Sprint("user", i))
					c.User.Meta = `{"a":"` + strings.Repeat("x", 1000) + `"}`
					many = append(many, Lost{Connection: c})
				}
				if gone {
					for _, l := range many[:10] {
						must(s.Leave(t.Context(), "r", l.Connection.ID, ""))
					}
					continue
				}
				s.Restore(t.Context(), "r", many)
			}
		}
		if entries, bytes := logOf(t, e, s); bytes > 256<<10 {
			t.Errorf("%d entries of %d bytes", entries, bytes)
		}
	})
}

func TestLogExpiresTwoMinutesAfterTheLastChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := redistest.NewFake(t)
		e := &env{unit: time.Second, client: fake.Client, admin: fake.Client(t)}
		s := e.store(t, Options{})
		join(t, s, "r", conn("c1", "gen1", "Ann"))
		beat := func() {
			beats := &Beats{Room: "r", Holders: []Holder{{"c1", "gen1"}}}
			if s.Heartbeat(t.Context(), []*Beats{beats}); beats.Err != nil || len(beats.Lost) > 0 {
				t.Fatal(beats.Err, beats.Lost)
			}
		}
		for range 11 {
			time.Sleep(10 * time.Second)
			beat()
		}
		if !fake.Exists("presence:{r}:log") {
			t.Error("no log after 110 s")
		}
		before := read(t, s, "r")
		for range 2 {
			time.Sleep(10 * time.Second)
			beat()
		}
		if fake.Exists("presence:{r}:log") {
			t.Error("a log after 130 s")
		}
		join(t, s, "r", conn("c2", "gen1", "Ben"))
		readings, err := s.Read(t.Context(), Have{Room: "r", Version: before.Version, Birth: before.Birth})
		if err != nil || readings[0].Whole || len(readings[0].Changes) != 1 {
			t.Errorf("the next change is told by %+v, %v", readings, err)
		}
	})
}

// A user who changes name or metadata, in whatever way, leaves nothing old behind in any
// key. The log has one update.
func TestRenameLeavesNothingBehind(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		ctx := t.Context()
		a, b := e.store(t, Options{}), e.store(t, Options{})
		for i, name := range []string{"Ann", "Ben", "Cid"} {
			c := conn(fmt.Sprint("c", i), "gen1", name)
			c.User.Name = "old name of " + name
			join(t, a, "r", c)
		}
		second := conn("c9", "gen1", "Ann")
		second.User.Name = "old name of Ann"
		join(t, b, "r", second)
		id := user("Ann").ID
		ways := map[string]func(to presence.User) error{
			"update": func(to presence.User) error {
				found, _, _, err := b.Find(ctx, "r", "c0")
				if err == nil {
					_, _, err = b.Update(ctx, "r", "c0", found.User, to)
				}
				return err
			},
			"put": func(to presence.User) error {
				_, err := b.Put(ctx, "r", Wanted{Connection: presence.Connection{ID: "c9", Generation: "~abc", User: to}, TTL: 30 * e.unit, SetName: true, SetMeta: true})
				return err
			},
			"join": func(to presence.User) error {
				c := presence.Connection{ID: "c0", Generation: presence.NewGeneration(), User: to}
				c.User.Meta = "" // a page has no metadata, and keeps the metadata of the user
				_, err := a.Join(ctx, "r", c)
				return err
			},
		}
		for step, way := range []string{"update", "put", "join", "update", "join", "put"} {
			before := read(t, a, "r")
			to := presence.User{ID: id, Name: fmt.Sprint("new name ", step), Meta: fmt.Sprintf(`{"step":%d}`, step)}
			if err := ways[way](to); err != nil {
				t.Fatal(way, err)
			}
			if way == "join" {
				to.Meta = before.Members[0].Meta
			}
			readings, err := b.Read(ctx, Have{Room: "r", Version: before.Version, Birth: before.Birth})
			if err != nil || len(readings[0].Changes) != 1 {
				t.Fatalf("%s: %+v, %v", way, readings, err)
			}
			c := readings[0].Changes[0]
			if len(c.Joined)+len(c.Left) > 0 || len(c.Updated) != 1 || c.Users != 3 || c.Connections != 4 {
				t.Errorf("%s: the change is %+v", way, c)
			}
			want := presence.Member{User: to, Connections: 2}
			want.Since = before.Members[0].Since
			if c.Updated[0] != want {
				t.Errorf("%s: updated to %+v, want %+v", way, c.Updated[0], want)
			}
			after := read(t, b, "r")
			if after.Members[0] != want || len(after.Members) != 3 {
				t.Errorf("%s: the members are %+v", way, after.Members)
			}
			check(t, a, "r", 4, to.Name, "old name of Ben", "old name of Cid")
			for _, key := range must(e.admin.Keys(ctx, "*{r}*").Result()) {
				if strings.HasSuffix(key, ":log") {
					continue // its history
				}
				dump := fmt.Sprint(
					e.admin.HGetAll(ctx, key).Val(), e.admin.SMembers(ctx, key).Val(), e.admin.ZRange(ctx, key, 0, -1).Val(), e.admin.Get(ctx, key).Val())
				if strings.Contains(dump, before.Members[0].Name) || strings.Contains(dump, fmt.Sprintf(`{"step":%d}`, step-1)) && to.Meta != before.Members[0].Meta {
					t.Errorf("%s: %s still has the former: %s", way, key, dump)
				}
				if n := strings.Count(dump, id); n > 2 {
					t.Errorf("%s: %s has the user %d times: %s", way, key, n, dump)
				}
			}
		}
	})
}

// A put of a connection with a socket changes neither that socket's generation nor its
// lease, even if the put's lease is shorter. A connection without a socket gets the
// generation and lease of the put.
func TestPutKeepsTheSocketsLease(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		ctx := t.Context()
		s := e.store(t, Options{})
		join(t, s, "r", conn("socket", "gen1", "Ann"))
		before := read(t, s, "r")
		held := must(s.Put(ctx, "r", Wanted{Connection: conn("socket", "~abc", "Ann"), TTL: 5 * e.unit}))
		if held.Connection.Generation != "gen1" || held.Came {
			t.Errorf("put of a socket's connection: %+v", held)
		}
		if held := must(s.Put(ctx, "r", Wanted{Connection: conn("bare", "~abc", "Ben"), TTL: 5 * e.unit})); !held.Came || held.Connection.Generation != "~abc" {
			t.Errorf("a new one: %+v", held)
		}
		if held := must(s.Put(ctx, "r", Wanted{Connection: conn("bare", "~def", "Ben"), TTL: 8 * e.unit})); held.Came {
			t.Errorf("once more: %+v", held)
		}
		if readings, err := s.Read(ctx, Have{Room: "r", Version: before.Version, Birth: before.Birth}); err != nil || len(readings[0].Changes) != 1 {
			t.Errorf("three puts of which one is news: %+v, %v", readings, err)
		}
		sweep := func(names ...string) {
			t.Helper()
			s.Sweep(t.Context(), []string{"r"}, Terms{})
			check(t, s, "r", len(names), names...)
		}
		e.advance(7)
		sweep("Ann", "Ben")
		e.advance(2)
		sweep("Ann")
		e.advance(20)
		sweep("Ann")
		e.advance(2)
		sweep()

		// One whose socket has gone is the put's, though not by the generation that is given.
		join(t, s, "r", conn("socket", "gen1", "Ann"))
		if err := s.Release(ctx, "r", "socket", "gen1"); err != nil {
			t.Fatal(err)
		}
		if held := must(s.Put(ctx, "r", Wanted{Connection: conn("socket", "~abc", "Ann"), TTL: 20 * e.unit})); held.Connection.Generation != "~bca" {
			t.Errorf("put after the socket: %+v", held)
		}
		e.advance(19)
		sweep("Ann")
		e.advance(2)
		sweep()
	})
}

// The rules in the header of join.lua: what a restore takes, and from which generations.
func TestRulesOfRestore(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		ctx := t.Context()
		s := e.store(t, Options{})
		for i, test := range []struct {
			name       string
			there      string // generation that has the connection; "": none
			lease      int    // lease of a connection without a socket
			generation string // generation that is restored
			ttl        int
			refused    bool
			until      int // units, from now
		}{
			{"nobody has it", "", 0, "gen1", 20, false, 20},
			{"a put nobody has", "", 0, "~abc", 7, false, 7},
			{"the same socket", "gen1", 0, "gen1", 10, false, 30}, // a restore shortens no lease
			{"another socket", "gen2", 0, "gen1", 60, true, 30},
			{"a socket has what was put", "gen2", 0, "~abc", 60, true, 30},
			{"a put has the socket's", "~abc", 15, "gen1", 60, true, 15},
			{"its socket is gone", ReleasedGeneration, 0, "gen1", 20, false, 20},
			{"its socket is gone, a put", ReleasedGeneration, 0, "~abc", 20, false, 20},
			{"a put with an earlier end", "~abc", 10, "~def", 20, false, 20},
			{"a put with a later end", "~abc", 20, "~def", 10, true, 20},
			{"the same put", "~abc", 20, "~abc", 10, false, 20},
		} {
			id := fmt.Sprint("c", i)
			switch generation := test.there; {
			case generation == "":
			case presence.IsHTTPGeneration(generation):
				must(s.Put(ctx, "r", Wanted{Connection: conn(id, generation, "Ann"), TTL: time.Duration(test.lease) * e.unit}))
			case generation == ReleasedGeneration:
				join(t, s, "r", conn(id, "gen0", "Ann"))
				if err := s.Release(ctx, "r", id, "gen0"); err != nil {
					t.Fatal(err)
				}
			default:
				join(t, s, "r", conn(id, generation, "Ann"))
			}
			_, errs := s.Restore(ctx, "r", []Lost{{Connection: conn(id, test.generation, "Ann"), TTL: time.Duration(test.ttl) * e.unit}})
			if got := errors.Is(errs[0], presence.ErrSuperseded); got != test.refused || !got && errs[0] != nil {
				t.Errorf("%s: %v", test.name, errs[0])
			}
			want := test.generation
			if test.refused {
				want = test.there
			}
			if got, _, found, err := s.Find(ctx, "r", id); err != nil || !found || got.Generation != want {
				t.Errorf("%s: %+v, %v, %v", test.name, got, found, err)
			}
			rows := must(e.admin.ZRangeWithScores(ctx, s.keys.beats("r"), 0, -1).Result())
			now := must(e.admin.Time(ctx).Result())
			at := slices.IndexFunc(rows, func(z redis.Z) bool { return strings.HasPrefix(z.Member.(string), id+want[:1]) })
			left := time.Duration(rows[at].Score)*time.Millisecond - time.Duration(now.UnixMilli())*time.Millisecond
			if off := left - time.Duration(test.until)*e.unit; off < -e.unit/4 || off > e.unit/4 {
				t.Errorf("%s: the lease lasts %v, want %v", test.name, left, time.Duration(test.until)*e.unit)
			}
			must(s.Leave(ctx, "r", id, ""))
		}
		check(t, s, "r", 0)
	})
}

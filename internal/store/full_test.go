package store

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"presence/internal/presence"
	"presence/internal/redistest"
)

// used returns how much memory the server says it uses.
func used(t *testing.T, rdb redis.UniversalClient) (bytes int64) {
	t.Helper()
	info := must(rdb.Info(t.Context(), "memory").Result())
	_, rest, _ := strings.Cut(info, "used_memory:")
	if _, err := fmt.Sscan(rest, &bytes); err != nil {
		t.Fatal(err)
	}
	return bytes
}

// A full Redis refuses a script's first write if that may need memory, and no later
// write. So users who are there stay, and may come back and leave. Only newcomers are
// refused, before anything has changed.
func TestFullRedisRefusesNewcomersOnly(t *testing.T) {
	for name, fill := range map[string]func(t *testing.T, rdb redis.UniversalClient){
		"far beyond": func(t *testing.T, rdb redis.UniversalClient) {
			t.Helper()
			rdb.ConfigSet(t.Context(), "maxmemory", "1")
		},
		"to the last 100 bytes": func(t *testing.T, rdb redis.UniversalClient) {
			t.Helper()
			rdb.ConfigSet(t.Context(), "maxmemory", fmt.Sprint(used(t, rdb)+100))
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			server := redistest.Start(t, "--maxmemory-policy", "noeviction")
			rdb := server.Client(t)
			e := &env{unit: time.Hour, client: server.UserClient, admin: rdb}
			s := e.store(t, Options{MaxRooms: 2})
			for _, name := range []string{"Ann", "Ben", "Cid", "Dan", "Eve"} {
				join(t, s, "r", conn("c-"+name, "gen1", name))
			}
			join(t, s, "r", conn("c2-Ann", "gen1", "Ann"))
			join(t, s, "other", conn("c-Ann", "gen1", "Ann"))
			before := must(rdb.ZScore(ctx, s.keys.beats("r"), "c-Anngen1").Result())
			rdb.ZAdd(ctx, s.keys.beats("r"), redis.Z{Score: 1, Member: "c-Dangen1"}) // long due
			redistest.Eventually(t, time.Second, "leases are in whole ms", func() bool {
				return must(rdb.Time(ctx).Result()).UnixMilli()+30*time.Hour.Milliseconds() > int64(before)
			})
			fill(t, rdb)

			beats := []*Beats{{Room: "r", Holders: []Holder{{"c-Ann", "gen1"}, {"c-Lost", "gen1"}}}}
			if s.Heartbeat(ctx, beats); beats[0].Err != nil || len(beats[0].Lost) != 1 {
				t.Errorf("heartbeat: %v, lost %v", beats[0].Err, beats[0].Lost)
			}
			if after := must(rdb.ZScore(ctx, s.keys.beats("r"), "c-Anngen1").Result()); after <= before {
				t.Errorf("the lease ends at %.0f as before", after)
			}
			if err := s.Release(ctx, "r", "c-Ben", "gen1"); err != nil {
				t.Errorf("release: %v", err)
			}
			if got, _, found, err := s.Resume(ctx, "r", "c-Ben", "gen2"); err != nil || !found || got.User.ID != user("Ben").ID {
				t.Errorf("resume: %v, %v, %v", got, found, err)
			}
			if _, err := s.Leave(ctx, "r", "c-Cid", "gen1"); err != nil {
				t.Errorf("leave: %v", err)
			}
			if _, err := s.Leave(ctx, "r", "c2-Ann", "gen1"); err != nil {
				t.Errorf("leave of a second tab: %v", err)
			}
			s.noteOnce(ctx)
			if list, err := s.Busiest(ctx, 1); err != nil || fmt.Sprint(list) != "[{r 4 4}]" {
				t.Errorf("the index: %v, %v", list, err)
			}
			check(t, s, "r", 4, "Ann", "Ben", "Dan", "Eve")

			// A lease that has run out is swept; what Redis lost is put back, and its
			// rooms stay on the list.
			if swept := s.Sweep(ctx, []string{"r"}, Terms{})[0]; swept.Err != nil || swept.RemovedUsers != 1 {
				t.Errorf("sweep: %+v", swept)
			}
			if err := s.Forget(ctx, "nobody"); err != nil {
				t.Errorf("forget: %v", err)
			}
			rdb.Del(ctx, s.keys.room("r")...)
			rdb.Del(ctx, s.keys.rooms())
			_, errs := s.Restore(ctx, "r", []Lost{{Connection: conn("c-Ann", "gen1", "Ann")}, {Connection: conn("c-Ben", "gen2", "Ben")}})
			for i, err := range errs {
				if err != nil {
					t.Errorf("restore %d: %v", i, err)
				}
			}
			if err := s.Keep(ctx, "r", "other", "more than may be opened"); err != nil {
				t.Errorf("keep: %v", err)
			}
			if rooms := must(s.Rooms(ctx)); len(rooms) != 3 {
				t.Errorf("rooms %v", rooms)
			}
			if got, err := s.Probe(ctx, theOnly, "fresh", "secret"); err != nil || got.Text == "" || got.Secret != "secret" {
				t.Errorf("probe: %+v, %v", got, err)
			}
			check(t, s, "r", 2, "Ann", "Ben")

			// Newcomers, in a room that exists and in a new one, are refused.
			rdb.ZRem(ctx, s.keys.rooms(), "other", "more than may be opened")
			rdb.ConfigSet(ctx, "maxmemory", "1")
			state := must(rdb.Keys(ctx, "*").Result())
			for _, room := range []string{"r", "other", "new"} {
				if _, err := s.Join(ctx, room, conn("c-New", "gen1", "New")); !errors.Is(err, presence.ErrFull) || errors.Is(err, presence.ErrUnavailable) {
					t.Errorf("join %s: %v, want %v", room, err, presence.ErrFull)
				}
			}
			if _, err := s.Register(ctx, "new"); !errors.Is(err, presence.ErrFull) {
				t.Errorf("register: %v, want %v", err, presence.ErrFull)
			}
			check(t, s, "r", 2, "Ann", "Ben")
			if now := must(rdb.Keys(ctx, "*").Result()); len(now) != len(state) {
				t.Errorf("a refused join left %v, before %v", now, state)
			}

			rdb.ConfigSet(ctx, "maxmemory", "0")
			join(t, s, "r", conn("c-New", "gen1", "New"))
			check(t, s, "r", 3, "Ann", "Ben", "New")
		})
	}
}

// Every key that a call leaves has a time to live. So it vanishes some day, whatever
// happens to those who renew it. And no key ends before the last lease.
func TestEveryKeyOfARoomHasALifeThatOutlivesItsLeases(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		ctx := t.Context()
		for name, step := range map[string]func(s *Store) error{
			"release of the only one": func(s *Store) error { return s.Release(ctx, "r", "c1", "gen1") },
			"release, then resume": func(s *Store) error {
				_ = s.Release(ctx, "r", "c1", "gen1")
				_, _, _, err := s.Resume(ctx, "r", "c1", "gen2")
				return err
			},
			"resume of the only one": func(s *Store) error {
				_, _, _, err := s.Resume(ctx, "r", "c1", "gen2")
				return err
			},
			"a join that finds part of itself": func(s *Store) error {
				e.admin.Del(ctx, s.keys.beats("r"))
				_, err := s.Join(ctx, "r", conn("c1", "gen1", "Ann"))
				return err
			},
			"a resume that finds part of itself": func(s *Store) error {
				e.admin.Del(ctx, s.keys.beats("r"))
				_, _, _, err := s.Resume(ctx, "r", "c1", "gen2")
				return err
			},
			"a release that finds part of itself": func(s *Store) error {
				e.admin.Del(ctx, s.keys.beats("r"))
				return s.Release(ctx, "r", "c1", "gen1")
			},
		} {
			s := e.store(t, Options{})
			e.admin.Del(ctx, s.keys.room("r")...)
			join(t, s, "r", conn("c1", "gen1", "Ann"))
			if err := step(s); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			for _, key := range must(e.admin.Keys(ctx, "*{r}*").Result()) {
				least := 30 * e.unit
				if key == s.keys.log("r") {
					least = time.Minute
				}
				if life := must(e.admin.PTTL(ctx, key).Result()); life <= least {
					t.Errorf("%s: %s lives for %v", name, key, life)
				}
			}
		}
	})
}

func TestGraceLongerThanFourTTLs(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		ctx := t.Context()
		s := New(e.client(t), Options{MemberTTL: e.unit, LeaveGrace: 30 * e.unit})
		e.run(t, s)
		join(t, s, "r", conn("c1", "gen1", "Ann"))
		if err := s.Release(ctx, "r", "c1", "gen1"); err != nil {
			t.Fatal(err)
		}
		for _, key := range must(e.admin.Keys(ctx, "*{r}*").Result()) {
			if life := must(e.admin.PTTL(ctx, key).Result()); life <= 30*e.unit && key != s.keys.log("r") {
				t.Errorf("%s lives for %v", key, life)
			}
		}
		e.advance(29)
		if swept := s.Sweep(ctx, []string{"r"}, Terms{})[0]; swept.RemovedConnections != 0 || swept.Users != 1 {
			t.Errorf("within the grace: %+v", swept)
		}
		e.advance(2)
		if swept := s.Sweep(ctx, []string{"r"}, Terms{})[0]; swept.RemovedConnections != 1 || swept.RemovedUsers != 1 {
			t.Errorf("after the grace: %+v", swept)
		}
	})
}

package room

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"presence/internal/presence"
	"presence/internal/redistest"
	"presence/internal/store"
)

// TestChangesLeadFromViewToView makes random changes through two stores, one by one and
// many at once. Meanwhile audiences of different speeds follow at two replicas, come and
// go, and data are lost. Each audience keeps the room by the changes that it is shown;
// see [crowd.Show].
func TestChangesLeadFromViewToView(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		rnd := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // a test's choice, to be repeated by its seed
		fake := redistest.NewFake(t)
		worlds := []*world{newWorld(t, fake), newWorld(t, fake)}
		type seat struct {
			*crowd

			viewer *Viewer
			world  *world
		}
		var seats []*seat
		for i, takes := range []time.Duration{0, 0, 40 * time.Millisecond, 300 * time.Millisecond, time.Second, 7 * time.Second} {
			seats = append(seats, &seat{crowd: &crowd{takes: takes}, world: worlds[i%2]})
		}
		sit := func(s *seat) {
			if s.viewer == nil {
				s.viewer = s.world.look(lobby, s.crowd)
				return
			}
			s.viewer.Exit()
			s.viewer = nil
			s.crowd = &crowd{takes: s.takes}
		}
		for _, s := range seats {
			sit(s)
		}
		applied := 0
		for range 600 {
			w := worlds[rnd.IntN(2)]
			n := rnd.IntN(60)
			conn := presence.Connection{ID: fmt.Sprint("c", n), Generation: "gen1", User: presence.User{ID: fmt.Sprint("u", n*2/3), Name: fmt.Sprint("name ", rnd.IntN(3))}}
			var err error
			switch rnd.IntN(12) {
			case 0, 1, 2:
				_, err = w.st.Join(t.Context(), lobby, conn)
			case 3, 4, 5:
				_, err = w.st.Leave(t.Context(), lobby, conn.ID, "")
			case 6:
				conn.Generation, conn.User.Meta = presence.NewHTTPGeneration(), fmt.Sprintf(`{"n":%d}`, rnd.IntN(3))
				_, err = w.st.Put(t.Context(), lobby, store.Wanted{Connection: conn, TTL: time.Minute, SetMeta: true})
			case 7:
				var many []store.Lost
				for range rnd.IntN(120) {
					n := rnd.IntN(400)
					many = append(many, store.Lost{Connection: presence.Connection{ID: fmt.Sprint("c", n), Generation: "gen1", User: presence.User{ID: fmt.Sprint("u", n*2/3), Name: "back"}}})
				}
				w.st.Restore(t.Context(), lobby, many)
			case 8:
				time.Sleep(time.Duration(rnd.IntN(9000)) * time.Millisecond)
				for range 3 {
					err = w.st.Sweep(t.Context(), []string{lobby}, store.Terms{})[0].Err
				}
			case 9:
				time.Sleep(time.Duration(rnd.IntN(400)) * time.Millisecond)
			case 10:
				if rnd.IntN(6) == 0 {
					s := seats[rnd.IntN(len(seats))]
					applied += s.changes()
					sit(s)
				}
			case 11:
				switch rnd.IntN(25) {
				case 0:
					fake.FlushAll()
				case 1:
					fake.Del("presence:{lobby}:log")
				}
			}
			if err != nil {
				t.Fatal(err)
			}
			if rnd.IntN(3) == 0 {
				time.Sleep(time.Duration(rnd.IntN(200)) * time.Millisecond)
			}
		}
		pass(time.Minute)
		now, err := worlds[0].Look(t.Context(), lobby)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range seats {
			if applied += s.changes(); s.viewer == nil {
				continue
			}
			if last := s.last(); last.Stale || last.Occupancy != now.Occupancy {
				t.Errorf("in the end one sees %+v, stale %v, and the room is %+v", last.Occupancy, last.Stale, now.Occupancy)
			}
			s.viewer.Exit()
		}
		if applied < 100 {
			t.Errorf("only %d changes were applied", applied)
		}
	})
}

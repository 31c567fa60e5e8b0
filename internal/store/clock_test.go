package store

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"presence/internal/presence"
	"presence/internal/redistest"
)

// A damaged room whose data were made anew can be read once its members have been put
// back, and from then on. No later time of the clock of Redis makes it unreadable again.
func TestRepairedRoomStaysReadableAfterAStepBack(t *testing.T) {
	const spell = 600 * time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		for _, joins := range []bool{false, true} { // false: nothing changes after the repair
			fake := redistest.NewFake(t)
			e := &env{unit: time.Second, client: fake.Client}
			s := e.store(t, Options{})
			ann, gen := conn("c1", "gen1", "Ann"), "gen1"
			readable := func() bool {
				t.Helper()
				readings, err := s.Read(t.Context(), Have{Room: "r"})
				if err == nil {
					err = readings[0].Err
				}
				if err != nil && !errors.Is(err, presence.ErrDamaged) {
					t.Fatal(err)
				}
				return err == nil
			}
			beat := func() {
				t.Helper()
				beats := []*Beats{{Room: "r", Holders: []Holder{{"c1", gen}}}}
				if s.Heartbeat(t.Context(), beats); beats[0].Err != nil || len(beats[0].Lost) > 0 {
					t.Fatalf("heartbeat: %+v", beats[0])
				}
			}
			join(t, s, "r", ann)
			time.Sleep(time.Second)
			fake.Del("presence:{r}:online")
			if readable() || !must(s.Clear(t.Context(), "r", spell)) || readable() {
				t.Fatal("the damage does not show, or is not repaired")
			}
			join(t, s, "r", ann)
			time.Sleep(spell / 2)
			beat()
			if joins {
				join(t, s, "r", conn("c2", "gen1", "Ben"))
			}
			if readable() || must(s.Clear(t.Context(), "r", spell)) {
				t.Fatal("readable or cleared before all have put back what they hold")
			}
			time.Sleep(spell / 2)
			if !readable() {
				t.Fatal("not readable though all have")
			}
			birth := read(t, s, "r").Birth
			const later = 2 * time.Minute
			for range later / (10 * time.Second) {
				time.Sleep(10 * time.Second)
				beat()
			}
			fake.Step(-later - spell/2)
			for range 20 {
				time.Sleep(100 * time.Millisecond)
				if !readable() {
					t.Fatalf("joins %v: not readable after a step back", joins)
				}
			}
			if got := read(t, s, "r").Birth; got != birth {
				t.Errorf("birth %s, was %s", got, birth)
			}
		}
	})
}

package replica

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"presence/internal/presence"
	"presence/internal/redistest"
	"presence/internal/store"
)

// stepClock makes the clock of the Fake show another time, until the test ends.
func stepClock(t *testing.T, fake *redistest.Fake, by time.Duration) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	fake.SetTime(time.Now().Add(by))
	wg.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			<-tick.C
			fake.SetTime(time.Now().Add(by))
		}
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
}

// The clock of Redis is stepped. Nobody leaves because of that, and users who have gone,
// before or after, do not stay.
func TestSteppedClockMovesNobody(t *testing.T) {
	for i, by := range []time.Duration{time.Minute, -2 * time.Minute, time.Minute, -15 * time.Second, time.Hour} {
		phase := time.Duration(1+3*i%9) * time.Second // sweeps and heartbeats take turns
		t.Run(fmt.Sprint(by, " after ", phase), func(t *testing.T) {
			bubble(t, func(t *testing.T, fake *redistest.Fake) {
				a, b, dead := start(t, fake).watching(), start(t, fake).watching(), start(t, fake)
				time.Sleep(30 * time.Second)
				a.enter("Ann")
				b.enter("Ben")
				form, here := connection("Form", ""), connection("Here", "")
				for _, conn := range []presence.Connection{form, here} {
					if _, err := b.Put(t.Context(), lobby, store.Wanted{Connection: conn, TTL: 40 * time.Second}); err != nil {
						t.Fatal(err)
					}
				}
				dead.enter("Dan")
				closed := b.enter("Eve")
				time.Sleep(15 * time.Second)
				renew := func() {
					if found, err := b.Renew(t.Context(), lobby, []string{here.ID}, 40*time.Second, "", time.Time{}); err != nil || found[0].ID == "" {
						t.Fatalf("renew: %v, %v", found, err)
					}
				}
				renew()
				dead.link.Cut()
				dead.kill()
				_ = b.Release(closed)
				time.Sleep(phase)
				began := time.Now()
				stepClock(t, fake, by)
				gone := map[string]time.Duration{}
				for time.Since(began) < 70*time.Second {
					time.Sleep(200 * time.Millisecond)
					if time.Since(began)%(20*time.Second) < 200*time.Millisecond {
						renew()
					}
					view, err := a.rooms.Look(t.Context(), lobby)
					if err != nil {
						continue
					}
					there := map[string]bool{}
					for _, m := range view.Members {
						there[m.Name] = true
					}
					for _, name := range []string{"Ann", "Ben", "Here", "Form", "Dan", "Eve"} {
						if gone[name] == 0 && !there[name] {
							gone[name] = time.Since(began)
						}
					}
				}
				for _, name := range []string{"Ann", "Ben", "Here"} {
					if gone[name] != 0 {
						t.Errorf("%s left after %v", name, gone[name])
					}
				}
				// The step costs a heartbeat interval in which nobody's lease is ended.
				slack := DefaultHeartbeatInterval + a.links.settle + 2*time.Second
				for name, within := range map[string]time.Duration{
					"Eve":  store.DefaultLeaveGrace,
					"Dan":  store.DefaultMemberTTL,
					"Form": 25 * time.Second,
				} {
					if gone[name] == 0 || gone[name] > within+slack {
						t.Errorf("%s left after %v, want within %v", name, gone[name], within+slack)
					}
				}
				if n := a.counter("presence_clock_steps_total"); n != 1 {
					t.Errorf("%v steps", n)
				}
				for _, shown := range a.history() {
					if strings.HasSuffix(shown, "stale") && by != time.Hour {
						t.Errorf("shown: %q", a.history())
						break
					}
				}
				if last := a.last(); last != fmt.Sprint(3) {
					t.Errorf("in the end %s", last)
				}
			})
		})
	}
}

// A late answer is not taken for a step of the clock, whether the way there or the way
// back took long.
func TestOffsetOfAClock(t *testing.T) {
	const known = 5000
	for _, c := range []struct {
		was               offset
		at, before, after int64
		now               offset
		step              int64
	}{
		{0, 105_000, 100_000, 100_002, 4999, 0},            // first seen
		{known, 105_001, 100_000, 100_002, known, 0},       // as it was
		{known, 105_000, 100_000, 103_000, known, 0},       // the answer was late
		{known, 108_000, 100_000, 103_000, known, 0},       // the question was late
		{known, 105_900, 100_000, 100_002, 5898, 0},        // it drifts
		{known, 165_001, 100_000, 100_002, 64_999, 59_999}, // it was stepped
		{known, -14_999, 100_000, 100_002, -114_999, -119_999},
		{known, 168_000, 100_000, 103_000, 65_000, 60_000}, // and the answer was late
	} {
		if now, step := c.was.sees(c.at, c.before, c.after); now != c.now || step != c.step {
			t.Errorf("%+v: %d, %d", c, now, step)
		}
	}
}

// An announcement or a probe may be the first to find that the clock was stepped. In
// either case nobody leaves, not even from a room that was not swept yet.
func TestStepRightAfterAPut(t *testing.T) {
	for phase := range 20 { // of the list of rooms, announcements and probes
		bubble(t, func(t *testing.T, fake *redistest.Fake) {
			a, _ := start(t, fake), start(t, fake)
			time.Sleep(30*time.Second + time.Duration(phase)*100*time.Millisecond)
			if err := a.put(lobby, connection("Ann", "")); err != nil {
				t.Fatal(err)
			}
			time.Sleep(300 * time.Millisecond)
			fake.Step(35 * time.Second) // more than the lease
			for range 40 {
				time.Sleep(500 * time.Millisecond)
				if names := a.names(); names != "[Ann]" {
					t.Fatalf("phase %d: there are %s", phase, names)
				}
			}
		})
	}
}

// A connection without a socket is put at one replica and renewed at another. The first
// one remembers a lease that ends earlier. When the clock is stepped, that lease has no
// effect.
func TestStepKeepsRenewalsElsewhere(t *testing.T) {
	for phase := range 10 { // of the looks at puts
		bubble(t, func(t *testing.T, fake *redistest.Fake) {
			a := start(t, fake)
			time.Sleep(time.Duration(phase) * time.Second)
			b := start(t, fake)
			time.Sleep(30 * time.Second)
			if err := a.put(lobby, connection("Ann", "")); err != nil {
				t.Fatal(err)
			}
			time.Sleep(18 * time.Second)
			if !b.renews("Ann", store.DefaultMemberTTL) {
				t.Fatal("not renewed")
			}
			time.Sleep(time.Second)
			fake.Step(-2 * time.Minute)
			for range 27 {
				time.Sleep(time.Second)
				if names := a.names(); names != "[Ann]" {
					t.Fatalf("phase %d: there are %s", phase, names)
				}
			}
		})
	}
}

// A replica that starts can't know for how long leases could not be renewed, whatever the
// clock of Redis shows. Only a new Redis has no leases that ran out meanwhile.
func TestLeasesAreSparedAtTheStartAfterAStepBack(t *testing.T) {
	for _, by := range []time.Duration{0, -time.Hour} {
		bubble(t, func(t *testing.T, fake *redistest.Fake) {
			a := start(t, fake)
			time.Sleep(30 * time.Second)
			a.enter("Ann")
			fake.Step(by)
			time.Sleep(30 * time.Second)
			a.link.Cut()
			a.kill()
			time.Sleep(store.DefaultMemberTTL + time.Second)
			b := start(t, fake)
			time.Sleep(b.links.start - time.Second)
			if names := b.names(); names != "[Ann]" {
				t.Errorf("by %v: there are %s", by, names)
			}
		})
	}
}

// The clock of Redis is stepped ahead so far that the keys of a room end. A replica that has
// neither members nor viewers in the room does not take it for an empty one.
func TestStepThatEndsKeysEmptiesNoRoom(t *testing.T) {
	for phase := range 10 { // of the probes
		bubble(t, func(t *testing.T, fake *redistest.Fake) {
			a, b := start(t, fake), start(t, fake)
			time.Sleep(30*time.Second + time.Duration(phase)*100*time.Millisecond)
			a.enter("Ann")
			if err := a.put(lobby, connection("Ben", "")); err != nil {
				t.Fatal(err)
			}
			fake.Step(time.Hour)
			known := 0
			for range 50 {
				view, err := b.rooms.Peek(t.Context(), lobby)
				if err == nil && !view.Stale {
					known++
					if view.Users != 2 {
						t.Fatalf("phase %d: %d users", phase, view.Users)
					}
				}
				time.Sleep(200 * time.Millisecond)
			}
			if known == 0 {
				t.Errorf("phase %d: the room is never known again", phase)
			}
		})
	}
}

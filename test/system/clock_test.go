package system

import (
	"testing"
	"time"

	"presence/internal/redistest"
	"presence/test/harness"
)

// The clock of Redis is stepped, for example by NTP or by a failover to a machine with
// another clock. Nobody leaves because of that, and a tab that is closed leaves as usual.
func TestClockOfRedisIsStepped(t *testing.T) {
	t.Parallel()
	for _, by := range []time.Duration{-2 * time.Minute, time.Minute, time.Hour} {
		t.Run(by.String(), func(t *testing.T) {
			t.Parallel()
			if testing.Short() {
				t.Skip("it starts processes and takes seconds")
			}
			clock := redistest.NewClock(t)
			redis := redistest.StartWithClock(t, clock)
			h := newHousehold(t, quick, redis.URL())
			harness.Observe(t, 2*quick.heartbeat, "before")
			closed := harness.Open(t, harness.Options{}, h.replicas[0].URL).MustJoin("Eve")
			allSee(t, 5*time.Second, len(h.members)+1, h.all...)
			closed.Close()
			harness.Observe(t, quick.grace/2, "its lease is about to end")
			from := time.Now()
			clock.Step(by)
			// A heartbeat interval and a settle time are what a step costs at most.
			h.exact(t, quick.grace+2*quick.heartbeat+time.Second)
			harness.Observe(t, quick.ttl, "nobody leaves")
			neverBelow(t, from, len(h.members), h.all...)
			neverLoggedOut(t, from, h.members...)
			h.exact(t, time.Second)
			if steps := h.replicas[0].Metric("presence_clock_steps_total"); steps != 1 {
				t.Errorf("the first replica saw %v steps", steps)
			}
		})
	}
}

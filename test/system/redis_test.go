package system

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"presence/internal/redistest"
	"presence/test/harness"
)

// household is a room with people on two replicas.
type household struct {
	replicas []*harness.Replica
	members  []*harness.Visitor // joined, three on each replica
	all      []*harness.Visitor // and one on each who only looks
}

func newHousehold(t *testing.T, p pace, url string) *household {
	t.Helper()
	h := &household{replicas: start(t, 2, p, url)}
	for _, r := range h.replicas {
		h.members = append(h.members, join(t, 3, harness.Options{}, r.URL)...)
		h.all = append(h.all, harness.Open(t, harness.Options{}, r.URL))
	}
	h.all = append(h.all, h.members...)
	allSee(t, 5*time.Second, len(h.members), h.all...)
	return h
}

// unmoved fails the test if anybody saw another count since from, or was logged
// out.
func (h *household) unmoved(t *testing.T, from time.Time) {
	t.Helper()
	neverBelow(t, from, len(h.members), h.all...)
	neverAbove(t, from, len(h.members), h.all...)
	neverLoggedOut(t, from, h.members...)
}

// exact waits until all pages show the right count, not stale.
func (h *household) exact(t *testing.T, limit time.Duration) {
	t.Helper()
	allSee(t, limit, len(h.members), h.all...)
}

func isStale(s harness.Sight) bool { return s.Stale }

// This uses TLS, as one test of each kind of Redis does.
func TestRedisRestartedEmpty(t *testing.T) {
	t.Parallel()
	for name, p := range map[string]pace{"steady": steady, "quick": quick} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if testing.Short() {
				t.Skip("it starts processes and takes seconds")
			}
			r := redistest.StartTLS(t)
			h := newHousehold(t, p, r.URL())
			for _, outage := range []time.Duration{0, 3 * time.Second} {
				from := time.Now()
				r.Kill()
				if outage > 0 {
					for _, v := range h.all {
						v.Sees(5*time.Second, "stale", isStale)
					}
					harness.Observe(t, outage, "the count of the last good moment is to stay")
				}
				r.Restart()
				answers := time.Now()
				if outage == 0 {
					harness.Observe(t, p.heartbeat, "the loss has to be noticed first")
				}
				h.exact(t, 3*p.heartbeat)
				within(t, time.Since(answers), p.heartbeat, "the exact count")
				harness.Observe(t, time.Second, "a dip after the return would show by now")
				h.unmoved(t, from)
			}
		})
	}
}

func TestRedisFlushed(t *testing.T) {
	t.Parallel()
	r, url := startRedis(t)
	h := newHousehold(t, steady, url)
	from := time.Now()
	if err := r.Client(t).FlushAll(context.Background()).Err(); err != nil {
		t.Fatal(err)
	}
	harness.Observe(t, steady.heartbeat, "the loss has to be noticed and made good")
	h.exact(t, slack)
	h.unmoved(t, from)
	// It is really there again: a newcomer on either replica sees it.
	for _, r := range h.replicas {
		harness.Open(t, harness.Options{}, r.URL).SeesUsers(5*time.Second, len(h.members))
	}
}

// Redis is frozen for longer than a TTL. The leases run out meanwhile, but no member is
// ended for that.
func TestRedisPaused(t *testing.T) {
	t.Parallel()
	p := pace{heartbeat: 2 * time.Second, ttl: 5 * time.Second, grace: 2 * time.Second}
	r, url := startRedis(t)
	h := newHousehold(t, p, url)
	for name, pause := range map[string]func(time.Duration){
		"CLIENT PAUSE": func(d time.Duration) {
			if err := r.Client(t).Do(context.Background(), "client", "pause", d.Milliseconds(), "all").Err(); err != nil {
				t.Fatal(err)
			}
			harness.Observe(t, d, name(d))
		},
		"SIGSTOP": func(d time.Duration) {
			r.Pause()
			harness.Observe(t, d, name(d))
			r.Continue()
		},
	} {
		for _, d := range []time.Duration{3 * time.Second, p.ttl + time.Second} {
			from := time.Now()
			pause(d)
			answers := time.Now()
			h.exact(t, 3*p.heartbeat)
			within(t, time.Since(answers), p.heartbeat, "the exact count after "+name)
			harness.Observe(t, p.heartbeat, "a false leave would show by now")
			h.unmoved(t, from)
		}
	}
}

func name(d time.Duration) string { return "Redis stands still for " + d.String() }

func TestRedisUnreachableAtStart(t *testing.T) {
	t.Parallel()
	r, _ := startRedis(t)
	network := harness.NewProxy(t, r.Addr)
	network.Refuse()
	s := harness.StartUnready(t, append(brisk.flags(), "-redis-url", r.URLBy(network.Addr))...)
	if code := status(t, s.URL+"/readyz"); code != http.StatusServiceUnavailable {
		t.Errorf("/readyz answers %d, want 503", code)
	}
	ann := harness.Open(t, harness.Options{}, s.URL)
	if now := ann.Now(); now.Known || !now.Stale {
		t.Errorf("the page shows %v, want nothing known", now)
	}
	began := time.Now()
	refused(t, ann, "Ann")
	within(t, time.Since(began), answered, "the answer to a join")
	network.Restore()
	redistest.Eventually(t, 5*time.Second, "it is ready", func() bool { return status(t, s.URL+"/readyz") == http.StatusOK })
	ann.SeesUsers(brisk.heartbeat+slack, 0)
	if ann.Now().Joined {
		t.Error("the refused join has taken place by itself")
	}
	ann.MustJoin("Ann")
	ann.SeesUsers(5*time.Second, 1)
}

// refused joins, and fails the test unless the join is refused with an explanation and
// the typed name is kept.
func refused(t *testing.T, v *harness.Visitor, name string) {
	t.Helper()
	var refusal *harness.RefusalError
	if err := v.Join(name); !errors.As(err, &refusal) {
		t.Errorf("join: %v, want a refusal", err)
	}
	if now := v.Now(); now.Joined || !strings.Contains(now.Notice, "did not happen") || now.Typed != name {
		t.Errorf("the page shows %v and %q in the field", now, now.Typed)
	}
}

// status returns the status of the answer to a GET.
func status(t *testing.T, url string) int {
	t.Helper()
	resp, err := http.Get(url) //nolint:noctx,gosec // of a process of this test
	if err != nil {
		return 0
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}

// Redis becomes unreachable while people are there: by a network that refuses
// connections, by one that drops everything, and by a machine that is frozen and later
// carries out what it was sent.
func TestRedisUnreachableInFlight(t *testing.T) {
	t.Parallel()
	r, _ := startRedis(t)
	network := harness.NewProxy(t, r.Addr)
	h := newHousehold(t, steady, r.URLBy(network.Addr))
	ann := harness.Open(t, harness.Options{}, h.replicas[0].URL)
	for _, outage := range []struct {
		name        string
		begin, over func()
	}{
		{"refusing", network.Refuse, network.Restore},
		{"silent", network.Silence, network.Restore},
		{"frozen", r.Pause, r.Continue},
	} {
		from := time.Now()
		outage.begin()
		began := time.Now()
		refused(t, ann, "Ann "+outage.name)
		within(t, time.Since(began), answered, "the answer to a join, Redis being "+outage.name)
		for _, v := range h.all {
			v.Sees(8*time.Second, "stale, Redis being "+outage.name, isStale)
		}
		for _, r := range h.replicas {
			if code := status(t, r.URL+"/readyz"); code != http.StatusServiceUnavailable {
				t.Errorf("/readyz answers %d, want 503", code)
			}
		}
		outage.over()
		answers := time.Now()
		h.exact(t, 3*steady.heartbeat)
		within(t, time.Since(answers), steady.heartbeat, "the exact count after Redis was "+outage.name)
		harness.Observe(t, steady.heartbeat, "a join that takes place later by itself would show by now")
		h.unmoved(t, from)
		if ann.Now().Joined {
			t.Errorf("Redis being %s: the refused join took place", outage.name)
		}
	}
	ann.MustJoin("Ann")
	allSee(t, 2*time.Second, len(h.members)+1, h.all...)
}

func TestSubscriptionKilledAlone(t *testing.T) {
	t.Parallel()
	r, url := startRedis(t)
	h := newHousehold(t, brisk, url)
	client := r.Client(t)
	ann := harness.Open(t, harness.Options{}, h.replicas[0].URL)
	for range 5 {
		from := time.Now()
		if err := client.ClientKillByFilter(context.Background(), "TYPE", "pubsub").Err(); err != nil && !errors.Is(err, redis.Nil) {
			t.Fatal(err)
		}
		ann.MustJoin("Ann")
		allSee(t, time.Second+slack, len(h.members)+1, h.all...)
		neverBelow(t, from, len(h.members), h.all...)
		if err := ann.Leave(); err != nil {
			t.Fatalf("leave: %v", err)
		}
		allSee(t, time.Second+slack, len(h.members), h.all...)
	}
	neverLoggedOut(t, time.Now(), h.members...)
}

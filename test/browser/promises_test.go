package browser

import (
	"fmt"
	"testing"
	"time"

	"presence/internal/redistest"
	"presence/test/harness"
)

// TestPromises checks the promises of README.md for three replicas behind the
// balancer, as people with the real client see them, one after another.
func TestPromises(t *testing.T) {
	const (
		heartbeat = 2 * time.Second
		ttl       = 6 * time.Second
		grace     = 3 * time.Second

		// A shared machine is late at times.
		slack = 1500 * time.Millisecond
	)
	redis := redistest.Start(t)
	replicas := make([]*harness.Replica, 3)
	addrs := make([]string, len(replicas))
	for i := range replicas {
		replicas[i] = harness.Start(t, "-redis-url", redis.URL(), "-trusted-proxies", "127.0.0.0/8", "-shutdown-timeout", "5s",
			"-heartbeat-interval", heartbeat.String(), "-member-ttl", ttl.String(), "-leave-grace", grace.String())
		addrs[i] = replicas[i].Addr
	}
	entry := harness.StartHAProxy(t, addrs...).URL

	names := []string{"Alice", "Bob", "Cleo"}
	all := func(s sight) bool { return s.shows(names...) }
	onlooker := newBrowser(t).open(entry)
	tabs := []*tab{onlooker}
	members := map[*tab]string{}
	for i, name := range names {
		tab := newBrowser(t).open(entry).join(name)
		onlooker.sees(soon, "showing who came", func(s sight) bool { return s.shows(names[:i+1]...) })
		tabs, members[tab] = append(tabs, tab), name
	}
	for _, tab := range tabs {
		tab.outage = true
		tab.sees(soon, "showing all", all)
	}
	// right waits until every page is, and says when the last was.
	right := func(since time.Time) (took time.Duration) {
		t.Helper()
		for _, tab := range tabs {
			s := tab.sees(soon, "live, joined, and showing all", func(s sight) bool {
				return s.live() && s.As == members[tab] && all(s)
			})
			took = max(took, s.after(since))
		}
		return took
	}
	// nothing fails the test if a page showed anything else.
	nothing := func(since time.Time, what string) {
		t.Helper()
		for _, tab := range tabs {
			tab.alwaysSaw(since, what+" is not seen: all, and who one is", func(s sight) bool { return all(s) && s.As == members[tab] })
		}
	}
	// watch lets a time pass in which something wrong would show.
	watch := func(d time.Duration) { harness.Observe(t, d, "something wrong would show by now") }

	begin := time.Now()
	for tab := range members {
		tab.reload()
		tab.sees(soon, "live", sight.live)
	}
	watch(grace + time.Second)
	for _, tab := range tabs {
		tab.alwaysSaw(begin, "showing all", all)
	}

	for i, r := range replicas {
		begin = time.Now()
		if code, _ := r.Stop(); code != 0 {
			t.Errorf("replica %d exits with %d", i+1, code)
		}
		r.Restart()
		took := right(begin)
		t.Logf("replica %d drained and started again: all pages right after %v", i+1, took)
		nothing(begin, fmt.Sprint("a drain of replica ", i+1))
	}

	for i, r := range replicas[:1] {
		// One more at this replica, whose browser dies with it.
		ghost := harness.Open(t, harness.Options{Still: true}, r.URL).MustJoin("Zoe")
		for _, tab := range tabs {
			tab.sees(soon, "showing Zoe", func(s sight) bool { return s.shows(append(names[:3:3], "Zoe")...) })
		}
		killed := time.Now()
		r.Kill()
		ghost.Crash()
		gone := time.Duration(0)
		for _, tab := range tabs {
			s := tab.sees(soon, "showing all but Zoe", func(s sight) bool { return s.live() && all(s) && s.As == members[tab] })
			gone = max(gone, s.after(killed))
			tab.alwaysSaw(killed, "everybody else", func(s sight) bool { return s.Users >= len(names) && s.As == members[tab] })
		}
		t.Logf("replica %d killed: who was lost with it was gone after %v", i+1, gone)
		if gone > ttl+time.Second+slack {
			t.Errorf("a ghost for %v; promised are %v", gone, ttl+time.Second)
		}
		r.Restart()
		right(killed)
	}

	for range 2 {
		begin = time.Now()
		redis.Kill()
		for _, tab := range tabs {
			tab.sees(soon, "stale, with the last count", func(s sight) bool { return s.Stale && all(s) })
		}
		redis.Restart()
		answers := time.Now()
		took := right(answers)
		t.Logf("Redis came back empty: all pages right after %v", took)
		if took > heartbeat+slack {
			t.Errorf("right again after %v; promised is %v", took, heartbeat)
		}
		if n := redis.Do("scard", "presence:{lobby}:online"); n != fmt.Sprint(len(names)) {
			t.Errorf("Redis has %s users, want %d", n, len(names))
		}
		watch(ttl + time.Second)
		nothing(begin, "a Redis that came back empty")
	}

	last := tabs[3] // Cleo
	tabs = tabs[:3]
	closed := last.close()
	for _, tab := range tabs {
		s := tab.sees(soon, "showing the others", func(s sight) bool { return s.shows("Alice", "Bob") })
		t.Logf("a tab was closed: it left after %v", s.after(closed))
		if took := s.after(closed); took < grace || took > grace+time.Second+slack {
			t.Errorf("it left after %v; promised are %v to %v", took, grace, grace+time.Second)
		}
	}
}

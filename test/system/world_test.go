package system

import (
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"

	"presence/internal/redistest"
	"presence/test/harness"
)

const (
	// slack is what a test adds to a promise for two cores that are shared with
	// everything else that runs.
	slack = 1500 * time.Millisecond

	// early is by how much a leave may come earlier than a test expects, since the lease was
	// renewed a while before the test began to measure.
	early = 750 * time.Millisecond

	// answered is within what time a press of Join is answered without Redis.
	answered = 2 * time.Second
)

// pace is the times in a server's settings. The times in the promises can all be
// shortened together without changing what the promises mean.
type pace struct {
	heartbeat time.Duration
	ttl       time.Duration
	grace     time.Duration
}

var (
	// brisk is for what happens while Redis is well.
	brisk = pace{heartbeat: 500 * time.Millisecond, ttl: 1500 * time.Millisecond, grace: time.Second}

	// steady leaves replicas the time to notice what happened to Redis: they
	// settle for three tenths of a heartbeat interval, which has to be more
	// than the difference between the first and the last who does.
	steady = pace{heartbeat: 3 * time.Second, ttl: 9 * time.Second, grace: 3 * time.Second}

	// quick leaves them half of an interval, which is as little as they get.
	quick = pace{heartbeat: time.Second, ttl: 3 * time.Second, grace: 2 * time.Second}
)

// flags returns the pace as arguments of a server.
func (p pace) flags() []string {
	return []string{
		"-heartbeat-interval", p.heartbeat.String(), "-member-ttl", p.ttl.String(), "-leave-grace", p.grace.String(),
	}
}

// atOnce is how many of the tests that mostly wait run at a time, whatever the
// number of cores, unless -parallel says otherwise.
const atOnce = "3"

func TestMain(m *testing.M) {
	flag.Parse()
	redis.SetLogger(&logging.VoidLogger{}) // servers are killed on purpose
	asked := false
	flag.Visit(func(f *flag.Flag) { asked = asked || f.Name == "test.parallel" })
	if !asked {
		_ = flag.Set("test.parallel", atOnce) // the flag exists, and takes it
	}
	os.Exit(m.Run())
}

// start starts n replicas at a pace over the Redis of url.
func start(t *testing.T, n int, p pace, url string, args ...string) []*harness.Replica {
	t.Helper()
	if testing.Short() {
		t.Skip("it starts processes and takes seconds")
	}
	all := append([]string{"-redis-url", url, "-shutdown-timeout", "5s", "-trusted-proxies", "127.0.0.0/8"}, p.flags()...)
	list := make([]*harness.Replica, n)
	for i := range list {
		list[i] = harness.Start(t, append(all, args...)...)
	}
	return list
}

// startRedis starts a Redis and returns it with its URL.
func startRedis(t *testing.T) (*redistest.Server, string) {
	t.Helper()
	if testing.Short() {
		t.Skip("it starts processes and takes seconds")
	}
	s := redistest.Start(t)
	return s, s.URL()
}

// join opens n pages at bases, and joins with each under a name of its own.
func join(t *testing.T, n int, opts harness.Options, bases ...string) []*harness.Visitor {
	t.Helper()
	all := make([]*harness.Visitor, n)
	for i := range all {
		all[i] = harness.Open(t, opts, bases...).MustJoin(fmt.Sprintf("Ann %d", i+1))
	}
	return all
}

// allSee waits until every page shows a count.
func allSee(t *testing.T, limit time.Duration, users int, visitors ...*harness.Visitor) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for _, v := range visitors {
		v.SeesUsers(max(time.Millisecond, time.Until(deadline)), users)
	}
}

// always fails the test unless holds is true for everything that a visitor could see
// since from.
func always(t *testing.T, v *harness.Visitor, from time.Time, what string, holds func(harness.Sight) bool) {
	t.Helper()
	sights := v.Since(from)
	for _, s := range sights {
		if !holds(s) {
			t.Errorf("not always: %s. From %s on:\n\t%v", what, from.Format("05.000"), sights)
			return
		}
	}
}

// neverBelow fails the test if one of the visitors saw fewer than users, or no
// count at all, since from.
func neverBelow(t *testing.T, from time.Time, users int, visitors ...*harness.Visitor) {
	t.Helper()
	for _, v := range visitors {
		always(t, v, from, fmt.Sprintf("at least %d online", users), func(s harness.Sight) bool {
			return s.Known && s.Users >= users
		})
	}
}

// neverAbove fails the test if one of the visitors saw more than users since
// from.
func neverAbove(t *testing.T, from time.Time, users int, visitors ...*harness.Visitor) {
	t.Helper()
	for _, v := range visitors {
		always(t, v, from, fmt.Sprintf("at most %d online", users), func(s harness.Sight) bool {
			return s.Users <= users
		})
	}
}

// neverLoggedOut fails the test if one of the visitors' pages said so since from.
func neverLoggedOut(t *testing.T, from time.Time, visitors ...*harness.Visitor) {
	t.Helper()
	for _, v := range visitors {
		always(t, v, from, "joined", func(s harness.Sight) bool { return s.Joined })
	}
}

// closedWith fails the test if a socket ended by the server since from did so
// with another code, and returns how many ended.
func closedWith(t *testing.T, from time.Time, code int, visitors ...*harness.Visitor) int {
	t.Helper()
	n := 0
	for _, v := range visitors {
		for _, e := range v.Endings() {
			if e.Own || e.At.Before(from) {
				continue
			}
			if n++; e.Code != code {
				t.Errorf("a socket ended with %d, want %d", e.Code, code)
			}
		}
	}
	return n
}

// within fails the test if something took longer than promised.
func within(t *testing.T, took, promised time.Duration, what string) {
	t.Helper()
	if took > promised+slack {
		t.Errorf("%s took %v, promised within %v", what, took.Round(time.Millisecond), promised)
	} else {
		t.Logf("%s: %v (promised within %v)", what, took.Round(time.Millisecond), promised)
	}
}

// notBefore fails the test if something came too early.
func notBefore(t *testing.T, took, earliest time.Duration, what string) {
	t.Helper()
	if took < earliest {
		t.Errorf("%s came after %v, not before %v was promised", what, took.Round(time.Millisecond), earliest)
	}
}

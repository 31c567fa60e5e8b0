package chaos

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"presence/internal/redistest"
	"presence/test/harness"
)

const (
	// The times are a fifth of the defaults, except the grace.
	heartbeat = 2 * time.Second
	ttl       = 6 * time.Second
	grace     = 3 * time.Second

	// shutdown bounds a drain.
	shutdown = 3 * time.Second

	// resync is how old a count may be when a message was lost.
	resync = 5 * time.Second

	// slack is what is added to a promise on a machine that is shared.
	slack = 2 * time.Second
)

// world is the servers, and what has happened to them.
type world struct {
	t        *testing.T
	redis    *redistest.Server // nil: on cluster
	dir      string            // of redis
	cluster  *harness.Cluster  // nil: on redis
	clocks   map[*redistest.Server]*redistest.Clock
	ahead    map[*redistest.Server]time.Duration // of the machine's clock
	admin    redis.UniversalClient
	replicas []*harness.Replica
	balancer *harness.HAProxy
	hit      map[int]*redistest.Server // what troubles of this round have hit on Redis, by their number
	direct   map[*redistest.Server]redis.UniversalClient

	begun time.Time

	mu       sync.Mutex // guards:
	timeline []string
}

// newWorld starts three replicas behind the balancer over one Redis, or a Cluster.
func newWorld(t *testing.T, cluster bool) *world {
	t.Helper()
	w := &world{t: t, clocks: map[*redistest.Server]*redistest.Clock{}, ahead: map[*redistest.Server]time.Duration{}, hit: map[int]*redistest.Server{}, direct: map[*redistest.Server]redis.UniversalClient{}}
	var url string
	if cluster {
		if redistest.HasClocks() {
			w.cluster = harness.StartClusterWithClocks(t)
		} else {
			w.cluster = harness.StartCluster(t, nil)
		}
		w.clocks = w.cluster.Clocks
		w.admin, url = clientOf(t, w.cluster), w.cluster.URL()
	} else {
		w.dir = t.TempDir()
		if redistest.HasClocks() {
			clock := redistest.NewClock(t)
			w.redis = redistest.StartWithClock(t, clock, "--dir", w.dir)
			w.clocks[w.redis] = clock
		} else {
			w.redis = redistest.Start(t, "--dir", w.dir)
		}
		w.admin, url = w.redis.Client(t), w.redis.URL()
	}
	var addrs []string
	for range numReplicas {
		r := harness.Start(t, "-redis-url", url, "-trusted-proxies", "127.0.0.0/8", "-log-format", "json",
			"-heartbeat-interval", heartbeat.String(), "-member-ttl", ttl.String(), "-leave-grace", grace.String(),
			"-shutdown-timeout", shutdown.String())
		w.replicas = append(w.replicas, r)
		addrs = append(addrs, r.Addr)
	}
	w.balancer = harness.StartHAProxy(t, addrs...)
	redistest.Eventually(t, 10*time.Second, "the balancer finds a replica", func() bool {
		return harness.NewReader(t, harness.Options{}, w.balancer.URL).Load() == nil
	})
	w.begun = time.Now()
	return w
}

// clientOf returns a client of the Cluster that may do everything.
func clientOf(t *testing.T, c *harness.Cluster) redis.UniversalClient {
	t.Helper()
	o := &redis.ClusterOptions{ContextTimeoutEnabled: true, DisableIdentity: true}
	o.Username, o.Password = redistest.Auth()
	for _, n := range c.Nodes {
		o.Addrs = append(o.Addrs, n.Addr)
	}
	client := redis.NewClusterClient(o)
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// at is how an instant is written in the timeline.
func (w *world) at(instant time.Time) string {
	return fmt.Sprintf("%7.2f", instant.Sub(w.begun).Seconds())
}

// note adds a line to the timeline.
func (w *world) note(format string, args ...any) {
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timeline = append(w.timeline, w.at(now)+"  "+fmt.Sprintf(format, args...))
}

// noted returns the timeline from a line on.
func (w *world) noted(from int) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.timeline[from:])
}

// happened is a trouble with the instants at which it began and ended.
type happened struct {
	trouble
	from, to time.Time
}

// carryOut makes the troubles of a round, and returns when the last has ended.
// Replicas that were started may not be ready yet.
func (w *world) carryOut(list []trouble) []happened {
	w.t.Helper()
	type step struct {
		at  time.Duration
		run func()
	}
	past := make([]happened, len(list))
	var steps []step
	for i, tr := range list {
		past[i].trouble = tr
		steps = append(steps, step{tr.begin, func() {
			w.note("BEGIN %v", tr)
			past[i].from = time.Now()
			w.begin(i, tr)
		}}, step{tr.end, func() {
			w.end(i, tr)
			past[i].to = time.Now()
			w.note("END   %v", tr)
		}})
	}
	slices.SortStableFunc(steps, func(a, b step) int { return cmp.Compare(a.at, b.at) })
	clear(w.hit)
	begun := time.Now()
	for _, s := range steps {
		waitUntil(begun.Add(s.at))
		s.run()
	}
	return past
}

// waitUntil keeps to the plan.
func waitUntil(at time.Time) {
	timer := time.NewTimer(time.Until(at))
	defer timer.Stop()
	<-timer.C
}

// begin begins the nth trouble of a round.
func (w *world) begin(n int, tr trouble) {
	w.t.Helper()
	key := "presence:{" + tr.room + "}:" + tr.part
	if tr.replica < 0 {
		w.hit[n] = w.serverOf(tr.room)
	}
	switch tr.kind {
	case kill:
		w.replicas[tr.replica].Kill()
	case stop:
		w.replicas[tr.replica].Pause()
	case drain:
		w.replicas[tr.replica].Terminate()
	case flush:
		w.ask(n, "flushall")
	case restart:
		w.hit[n].Kill()
	case full:
		w.ask(n, "config", "set", "maxmemory", 1)
	case freeze:
		w.hit[n].Pause()
	case deafen:
		w.ask(n, "client", "kill", "type", "pubsub")
	case remove:
		w.ask(n, "del", key)
	case spoil:
		// In one step: nobody is to make it anew in between.
		w.ask(n, "eval", spoilScript, 1, key)
	case jump:
		if s := w.hit[n]; w.clocks[s] != nil {
			w.ahead[s] += tr.by
			w.clocks[s].Step(w.ahead[s])
		}
	case failover:
		if w.cluster != nil {
			w.cluster.Failover(w.hit[n])
		} else {
			w.ask(n, "save") // the copy, which is not told of what comes now
		}
	}
}

// spoilScript makes a key one of a type that no key of a room has.
const spoilScript = `
redis.call('DEL', KEYS[1])
redis.call('RPUSH', KEYS[1], 'spoiled')
return redis.call('PEXPIRE', KEYS[1], 60000)`

// serverOf is the server of the keys of a room.
func (w *world) serverOf(room string) *redistest.Server {
	w.t.Helper()
	if w.cluster == nil {
		return w.redis
	}
	owner := w.cluster.Owner(room)
	if owner == nil {
		w.t.Fatalf("no master of the Cluster serves %s", room)
	}
	return owner
}

// redisOf is a client of the server that has the keys of a room.
func (w *world) redisOf(room string) redis.UniversalClient {
	w.t.Helper()
	s := w.serverOf(room)
	if w.direct[s] == nil {
		w.direct[s] = s.Client(w.t)
	}
	return w.direct[s]
}

// end ends the nth trouble of a round.
func (w *world) end(n int, tr trouble) {
	w.t.Helper()
	switch tr.kind {
	case kill:
		w.replicas[tr.replica].Relaunch()
	case stop:
		w.replicas[tr.replica].Continue()
	case drain:
		r := w.replicas[tr.replica]
		limit := time.NewTimer(shutdown + slack)
		defer limit.Stop()
		select {
		case <-r.Ended():
			if code := r.ExitCode(); code != 0 {
				w.t.Errorf("replica %d exits with %d after SIGTERM, want 0", tr.replica+1, code)
			}
		case <-limit.C:
			w.t.Errorf("replica %d was asked to end and did not within %v", tr.replica+1, shutdown+slack)
			r.Kill()
		}
		r.Relaunch()
	case restart:
		w.hit[n].Restart()
	case full:
		w.ask(n, "config", "set", "maxmemory", 0)
	case freeze:
		w.hit[n].Continue()
	case failover:
		if w.cluster == nil {
			w.hit[n].Kill()
			w.hit[n].Restart() // as the copy
			if err := os.Remove(filepath.Join(w.dir, "dump.rdb")); err != nil {
				w.t.Fatal(err)
			}
		}
	case flush, deafen, remove, spoil, jump: // are over already
	}
}

// ask has the server that the nth trouble is about do something that it can't refuse.
func (w *world) ask(n int, command ...any) {
	w.t.Helper()
	if reply := w.hit[n].Do(command...); reply == "" {
		w.t.Fatalf("%v: no answer", command)
	}
}

// names tells replicas by the names that pages show: each process has its own.
func (w *world) names() map[string]int {
	names := map[string]int{}
	for i, r := range w.replicas {
		for line := range strings.Lines(r.Logs()) {
			var said struct {
				Message string `json:"msg"`
				Replica string
			}
			if json.Unmarshal([]byte(line), &said) == nil && said.Message == "serving" {
				names[said.Replica] = i
			}
		}
	}
	return names
}

// report writes down what helps to understand a failure.
func (w *world) report(to io.Writer, from int) {
	const lines = 40
	for i, r := range w.replicas {
		_, _ = fmt.Fprintf(to, "\nend of the log of replica %d, %s:\n%s", i+1, r.Addr, r.LastLogs(lines))
	}
	_, _ = fmt.Fprintf(to, "\nwhat happened, in seconds since %s:\n%s\n", w.begun.Format("15:04:05.000"), strings.Join(w.noted(from), "\n"))
}

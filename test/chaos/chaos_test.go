package chaos

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
)

const (
	// short is for how long it runs where nobody says for how long, and
	// shortSeed with which seed: one that makes nearly every kind of trouble.
	short     = 40 * time.Second
	shortSeed = 14325

	// wrongLines is how many lines about mistakes are printed.
	wrongLines = 60
)

func TestMain(m *testing.M) {
	redis.SetLogger(&logging.VoidLogger{}) // servers are killed on purpose
	os.Exit(m.Run())
}

// readAll reads the body of an answer.
func readAll(r io.Reader) ([]byte, error) { return io.ReadAll(io.LimitReader(r, 1<<20)) }

// settings returns how long to run, with which seed, and whether on a Cluster.
func settings(t *testing.T) (length time.Duration, seed uint64, cluster bool) {
	t.Helper()
	length, seed, cluster = short, shortSeed, os.Getenv("PRESENCE_CHAOS_CLUSTER") != ""
	if text := os.Getenv("PRESENCE_CHAOS"); text != "" {
		var err error
		if length, err = time.ParseDuration(text); err != nil {
			t.Fatalf("PRESENCE_CHAOS=%s: please give a length of time, such as 10m", text)
		}
		seed = rand.Uint64N(1_000_000)
	}
	if text := os.Getenv("PRESENCE_CHAOS_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("PRESENCE_CHAOS_SEED=%s: please give a number, such as the one of an earlier run", text)
		}
	}
	return length, seed, cluster
}

// TestChaos causes trouble, round after round. After each round it checks whether people
// see the truth.
func TestChaos(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes most of a minute")
	}
	length, seed, cluster := settings(t)
	out := t.Output()
	where, flag := "one Redis", ""
	if cluster {
		where, flag = "a Redis Cluster", " CLUSTER=1"
	}
	_, _ = fmt.Fprintf(out, "\nCHAOS for %v with the seed %d: PRESENCE_CHAOS_SEED=%d make chaos%s does the same again\n", length, seed, seed, flag)
	w := newWorld(t, cluster)
	people := newCrowd(w)
	pages := 0
	for _, p := range people {
		for i, tb := range p.tabs {
			// A browser has its cookie before it opens a second tab: with a cookie for each
			// tab its users would be several.
			if i == 1 && !p.tabs[0].live() {
				t.Fatalf("the first page of %v is not live", p)
			}
			if p.habit != plain {
				tb.arrive()
			}
			pages++
		}
	}
	_, _ = fmt.Fprintf(out, "three replicas behind HAProxy over %s; %d visitors with up to %d pages\n"+
		"heartbeat %v, member TTL %v, leave grace %v; all is to be right %v after the last trouble\n\n",
		where, len(people), pages, heartbeat, ttl, grace, w.calm())

	stopRefreshing := refreshing(t, people)
	defer stopRefreshing()
	if took, _, wrong := w.agree(people); len(wrong) > 0 {
		t.Fatalf("before any trouble, after %v:\n%s", took, strings.Join(wrong, "\n"))
	}
	for n := 0; n == 0 || time.Since(w.begun) < length; n++ {
		from := len(w.noted(0))
		if !w.round(out, people, n, planned(seed, n, cluster)) {
			w.report(out, from)
			_, _ = fmt.Fprintf(out, "\nFAIL in round %d of the seed %d\n", n+1, seed)
			t.FailNow()
		}
	}
	_, _ = fmt.Fprintln(out, "PASS")
}

// round causes the troubles of a round while people act, and reports whether everything
// was right.
func (w *world) round(out io.Writer, people []*person, n int, plan round) bool {
	w.t.Helper()
	w.note("ROUND %d", n+1)
	begun := time.Now()
	deeds := 0
	var acting sync.WaitGroup
	for i, p := range people {
		deeds += len(plan.deeds[i])
		p.mu.Lock()
		for _, tb := range p.tabs {
			tb.forgetRound()
		}
		p.mu.Unlock()
		acting.Go(func() { p.act(plan.deeds[i], begun) })
	}
	past := w.carryOut(plan.troubles)
	acting.Wait()
	w.note("QUIET")
	took, there, wrong := w.agree(people)
	if len(wrong) > 0 {
		wrong = append([]string{fmt.Sprintf("after %.1f s in which nothing happened:", took.Seconds())}, wrong...)
	}
	seen := w.screens(people, begun, past)
	if len(seen) > 0 {
		wrong = append(append(wrong, "during the trouble:"), seen...)
	}
	users, connections := 0, 0
	for _, tr := range there {
		users += len(tr)
		connections += tr.connections()
	}
	verdict := fmt.Sprintf("right after %.1f s", took.Seconds())
	if len(wrong) > 0 {
		verdict = "WRONG"
		w.t.Fail()
	}
	_, _ = fmt.Fprintf(out, "%s s  round %2d  %-48s %3d acts, %2d users on %2d connections: %s\n",
		w.at(time.Now()), n+1, plan, deeds, users, connections, verdict)
	for _, line := range wrong[:min(len(wrong), wrongLines)] {
		_, _ = fmt.Fprintln(out, "    "+line)
	}
	if more := len(wrong) - wrongLines; more > 0 {
		_, _ = fmt.Fprintf(out, "    and %d lines more\n", more)
	}
	settled(people)
	if w.cluster != nil {
		w.cluster.Settle()
	}
	return len(wrong) == 0
}

// refreshing makes the pages without JavaScript reload at the heartbeat interval, until
// the returned function is called.
func refreshing(t *testing.T, people []*person) (end func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	for _, p := range people {
		if p.habit != plain {
			continue
		}
		group.Go(func() {
			tick := time.NewTicker(heartbeat)
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
					p.refresh()
				case <-ctx.Done():
					return
				}
			}
		})
	}
	return func() {
		cancel()
		group.Wait()
	}
}

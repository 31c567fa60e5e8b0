package drill

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"presence/internal/redistest"
	"presence/test/harness"
)

const (
	// staying is how many visitors come back when their replica is killed.
	staying = 280

	// lost is how many do not: their browsers go down with the replica.
	lost = 20

	// restless is how many join and leave all the time.
	restless = 4

	// The times are three tenths of the defaults, so that nobody has to wait.
	heartbeat = 3 * time.Second
	ttl       = 9 * time.Second
	grace     = 3 * time.Second

	// slack is what the promise adds to the TTL.
	slack = time.Second

	// before is for how long people are watched until the replica is killed,
	// after for how long from then on.
	before = 2 * time.Second
	after  = ttl + slack + 2*time.Second

	// look is how often the names are read.
	look = 100 * time.Millisecond
)

// watcher watches the lobby through one of the replicas that survive, without joining.
type watcher struct {
	*harness.Visitor
	where string

	last time.Time // when one of the lost was still listed; the test's goroutine's own
}

// TestDrill kills a replica under load, and measures what everybody sees.
func TestDrill(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes half a minute")
	}
	out := t.Output()
	started := time.Now()
	say := func(format string, args ...any) {
		_, _ = fmt.Fprintf(out, "%6.1f s  %s\n", time.Since(started).Seconds(), fmt.Sprintf(format, args...))
	}
	_, _ = fmt.Fprintf(out, "\nKILL DRILL: what people see when a replica is killed\n\n"+
		"times are 0.3 of the defaults: heartbeat %v, member TTL %v, leave grace %v\n\n", heartbeat, ttl, grace)

	s := redistest.Start(t)
	replicas := make([]*harness.Replica, 3)
	key, flags := harness.Key(t)
	flags = append(flags, "-redis-url", s.URL(), "-trusted-proxies", "127.0.0.0/8",
		"-heartbeat-interval", heartbeat.String(), "-member-ttl", ttl.String(), "-leave-grace", grace.String())
	for i := range replicas {
		replicas[i] = harness.Start(t, flags...)
	}
	victim, survivors := replicas[1], []*harness.Replica{replicas[0], replicas[2]}
	entrance, by := entrance(t, replicas)
	say("three replicas over one Redis, %s", by)

	// Those who will be lost come first, so that their names are listed: a page
	// lists the first hundred.
	gone := crowd(t, lost, "Lost", harness.Options{Still: true}, func(int) []string { return []string{victim.URL} })
	stay := crowd(t, staying, "Ann", harness.Options{}, entrance)
	watchers := make([]*watcher, len(survivors))
	for i, r := range survivors {
		where := "replica " + []string{"1", "3"}[i]
		watchers[i] = &watcher{Visitor: harness.Open(t, harness.Options{Names: true}, r.URL), where: where}
		watchers[i].SeesUsers(10*time.Second, staying+lost)
	}
	say("%d visitors have joined; somebody watches at each of the replicas 1 and 3", staying+lost)
	startStreams(t, victim.URL, key)
	followers := []*follower{
		startFollower(t, "at replica 1", survivors[0].URL, key),
		startFollower(t, "through the entrance", entrance(0)[0], key),
	}
	for _, f := range followers {
		f.seen(t)
	}
	say("%d programs are in another room by streams of replica 2, which two programs follow", lost)

	load := startLoad(t, survivors)
	say("%d more join and leave all the time", restless)
	calm := time.Now()
	follow(watchers, before, func(time.Duration) {})

	own := gone[0].Now().Replica
	moving := slices.DeleteFunc(slices.Clone(stay), func(v *harness.Visitor) bool { return v.Now().Replica != own })
	killed := time.Now()
	victim.Kill()
	say("kill -9 of replica 2: %d visitors there will look for another, %d are lost with it", len(moving), lost)
	next := time.Second
	follow(watchers, after, func(since time.Duration) {
		if since < next {
			return
		}
		next += time.Second
		away := 0
		for _, v := range moving {
			if now := v.Now(); !now.Socket || !now.Joined {
				away++
			}
		}
		say("kill %+3.0f s: %3d still away, %d online at replica 1, %d at replica 3",
			since.Seconds(), away, watchers[0].Now().Users, watchers[1].Now().Users)
	})
	joins, refused := load.end()
	say("%d joins and leaves went on meanwhile, %d had no answer or a no", joins, refused)

	r := measure(killed, calm, stay, len(moving), watchers)
	for _, f := range followers {
		f.check(r, killed)
	}
	r.check("joins and leaves at the others during it", fmt.Sprintf("%d, %d failed", joins, refused), "none fails", joins > 0 && refused == 0)
	_, _ = fmt.Fprintf(out, "\n%s\n%s\n", timeline(watchers[0].Since(calm), calm, killed), r.table())
	if r.failed {
		t.Error("FAIL: the promise was not kept")
	} else {
		_, _ = fmt.Fprintln(out, "PASS: the promise was kept")
	}
}

// entrance returns where the i-th visitor goes. HAProxy spreads the visitors over the
// replicas; if it is not installed, they spread themselves.
func entrance(t *testing.T, replicas []*harness.Replica) (where func(i int) []string, how string) {
	t.Helper()
	var addrs, urls []string
	for _, r := range replicas {
		addrs, urls = append(addrs, r.Addr), append(urls, r.URL)
	}
	if _, err := exec.LookPath("haproxy"); err != nil && os.Getenv("CI") == "" {
		return func(i int) []string { return slices.Concat(urls[i%3:], urls[:i%3]) }, "without a balancer: haproxy is not installed"
	}
	balancer := harness.StartHAProxy(t, addrs...)
	redistest.Eventually(t, 10*time.Second, "the balancer finds a replica", func() bool {
		return harness.NewReader(t, harness.Options{}, balancer.URL).Load() == nil
	})
	return func(int) []string { return []string{balancer.URL} }, "behind HAProxy"
}

// crowd opens n pages and joins with each, a few at a time, because another test is about
// a rush.
func crowd(t *testing.T, n int, name string, opts harness.Options, where func(i int) []string) []*harness.Visitor {
	t.Helper()
	const few = 12
	var all []*harness.Visitor
	for first := 0; first < n; first += few {
		part := harness.OpenMany(t, min(few, n-first), func(i int) (harness.Options, []string) { return opts, where(first + i) })
		harness.InParallel(len(part), func(i int) {
			if err := part[i].Join(fmt.Sprintf("%s %d", name, first+i+1)); err != nil {
				t.Errorf("join as %s %d: %v", name, first+i+1, err)
			}
		})
		if t.Failed() {
			t.FailNow()
		}
		all = append(all, part...)
	}
	return all
}

// load is the people who come and go.
type load struct {
	group    sync.WaitGroup
	stop     chan struct{}
	acts     atomic.Int64
	failures atomic.Int64
}

// startLoad makes some people join and leave at the replicas that survive, each every
// three seconds.
func startLoad(t *testing.T, replicas []*harness.Replica) *load {
	t.Helper()
	l := &load{stop: make(chan struct{})}
	people := harness.OpenMany(t, restless, func(i int) (harness.Options, []string) {
		return harness.Options{}, []string{replicas[i%len(replicas)].URL}
	})
	for i, v := range people {
		l.group.Go(func() {
			tick := time.NewTicker(3*time.Second + time.Duration(i)*50*time.Millisecond)
			defer tick.Stop()
			for {
				for _, act := range []func() error{func() error { return v.Join(fmt.Sprintf("Rob %d", i+1)) }, v.Leave} {
					select {
					case <-tick.C:
					case <-l.stop:
						return
					}
					l.acts.Add(1)
					if act() != nil {
						l.failures.Add(1)
					}
				}
			}
		})
	}
	t.Cleanup(func() { l.end() })
	return l
}

// end ends the load, and returns how much there was and how much of it failed.
func (l *load) end() (acts, failures int64) {
	select {
	case <-l.stop:
	default:
		close(l.stop)
	}
	l.group.Wait()
	return l.acts.Load(), l.failures.Load()
}

// follow reads the names at each watcher for a while.
func follow(watchers []*watcher, window time.Duration, each func(since time.Duration)) {
	tick := time.NewTicker(look)
	defer tick.Stop()
	for begin := time.Now(); time.Since(begin) < window; <-tick.C {
		for _, w := range watchers {
			names := w.Roster()
			listed := 0
			for _, name := range names {
				if strings.HasPrefix(name, "Lost ") {
					listed++
				}
			}
			if listed > 0 {
				w.last = time.Now()
			}
		}
		each(time.Since(begin))
	}
}

// report is what was measured, line by line.
type report struct {
	rows   [][4]string
	failed bool
}

// check adds a line: what was measured, and what was promised.
func (r *report) check(what, measured, promised string, kept bool) {
	verdict := "ok"
	if !kept {
		verdict, r.failed = "FAIL", true
	}
	r.rows = append(r.rows, [4]string{what, measured, promised, verdict})
}

// table lays the lines out.
func (r *report) table() string {
	rows := append([][4]string{{"", "measured", "promised", ""}}, r.rows...)
	var width [4]int
	for _, row := range rows {
		for i, cell := range row {
			width[i] = max(width[i], len([]rune(cell)))
		}
	}
	var b strings.Builder
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			line.WriteString(cell + strings.Repeat(" ", width[i]-len([]rune(cell))+2))
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	return b.String()
}

// measure computes what everybody experienced.
func measure(killed, calm time.Time, stay []*harness.Visitor, moving int, watchers []*watcher) *report {
	r := &report{}
	seconds := func(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }

	var back []time.Duration
	cut, loggedOut := 0, 0
	for _, v := range stay {
		ends := slices.DeleteFunc(v.Endings(), func(e harness.Ending) bool { return e.Own || e.At.Before(killed) })
		for _, s := range v.Since(killed) {
			if s.Socket && !s.Joined {
				loggedOut++
				break
			}
		}
		if len(ends) == 0 {
			continue
		}
		cut++
		for _, s := range v.Since(killed) {
			if s.Socket && s.At.After(ends[0].At) && s.Joined {
				back = append(back, s.At.Sub(killed))
				break
			}
		}
	}
	slices.Sort(back)
	part := func(p int) time.Duration {
		if len(back) == 0 {
			return 0
		}
		return back[(len(back)-1)*p/100]
	}
	r.check("sockets cut, of those who stay", fmt.Sprint(cut), fmt.Sprintf("%d were at replica 2", moving), cut >= moving)
	r.check("of them back, and joined", fmt.Sprint(len(back)), "all", len(back) == cut)
	r.check("  half of them after", seconds(part(50)), "", true)
	r.check("  99 of 100 after", seconds(part(99)), "", true)
	r.check("  the last after", seconds(part(100)), "TTL "+ttl.String(), part(100) < ttl)
	r.check("pages that said somebody had left who had not", fmt.Sprint(loggedOut), "none", loggedOut == 0)

	// The lost may go when the oldest of their leases ends, and count until then.
	earliest := killed.Add(ttl - heartbeat - slack/2)
	for _, w := range watchers {
		lowest, early, highest, stale, unknown := staying+lost+restless, staying+lost+restless, 0, 0, 0
		for _, s := range w.Since(calm) {
			if s.Stale {
				stale++
			}
			if !s.Known {
				unknown++
				continue
			}
			lowest, highest = min(lowest, s.Users), max(highest, s.Users)
			if s.At.Before(earliest) {
				early = min(early, s.Users)
			}
		}
		r.check("lowest count seen at "+w.where, fmt.Sprint(lowest), fmt.Sprintf("%d who stay", staying), lowest >= staying)
		r.check("  until the first lease could end", fmt.Sprint(early), fmt.Sprintf("%d", staying+lost), early >= staying+lost)
		r.check("  highest", fmt.Sprint(highest), fmt.Sprintf("%d at most", staying+lost+restless), highest <= staying+lost+restless)
		r.check("  screens without a count", fmt.Sprint(unknown), "none", unknown == 0)
		// Happens where the machine leaves a replica without a processor for a
		// second or so, and is said on the page.
		r.check("  counts marked stale", fmt.Sprint(stale), "", true)
		took := w.last.Sub(killed)
		r.check(fmt.Sprintf("the last of the %d lost was gone after", lost), seconds(took),
			fmt.Sprintf("TTL + 1 s = %v", ttl+slack), took > 0 && took <= ttl+slack)
	}
	return r
}

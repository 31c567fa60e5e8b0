package bench

import (
	"bufio"
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"presence/internal/presence"
	"presence/internal/redistest"
	"presence/internal/store"
)

// What is measured of members in a Redis.
var (
	beatsRate    = figure{"heartbeats", "/s"}
	beatsRedis   = figure{"Redis time of a heartbeat", "µs"}
	joinsRate    = figure{"joins", "/s"}
	joinsRedis   = figure{"Redis time of a join", "µs"}
	joinsLate    = figure{"answer to a join, mean", "µs"}
	roomsRedis   = figure{"Redis time of a join", "µs"}
	memoryEach   = figure{"memory of a member", "bytes"}
	sweepLongest = figure{"longest script", "ms"}
	sweepRedis   = figure{"Redis time of a member", "µs"}
)

// world is a Redis of its own, for one turn.
type world struct {
	t      *testing.T
	server *redistest.Server
	rdb    redis.UniversalClient
	store  *store.Store
}

// newWorld starts a Redis, and a store that runs over it.
func newWorld(t *testing.T) *world {
	t.Helper()
	server := redistest.Start(t)
	w := &world{t: t, server: server, rdb: server.Client(t)}
	w.store = store.New(w.rdb, store.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	stopped := make(chan error, 1)
	go func() { stopped <- w.store.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
	return w
}

// info returns the sum of some numbers that Redis reports of itself.
func (w *world) info(section string, fields ...string) (sum float64) {
	w.t.Helper()
	text, err := w.rdb.Info(w.t.Context(), section).Result()
	if err != nil {
		w.t.Fatal(err)
	}
	for lines := bufio.NewScanner(strings.NewReader(text)); lines.Scan(); {
		key, value, _ := strings.Cut(lines.Text(), ":")
		for _, field := range fields {
			if key != field {
				continue
			}
			n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				w.t.Fatal(err)
			}
			sum += n
		}
	}
	return sum
}

// cpu is the processor time that Redis has spent on commands, in microseconds.
func (w *world) cpu() float64 {
	w.t.Helper()
	return 1e6 * w.info("cpu", "used_cpu_user_main_thread", "used_cpu_sys_main_thread")
}

const theRoom = "r"

// member is the i-th of many, with ids of the length that pages have.
func member(i int) presence.Connection {
	return presence.Connection{
		ID: fmt.Sprintf("conn%012d", i), Generation: "gen1",
		User: presence.User{ID: fmt.Sprintf("user%012d", i), Name: fmt.Sprintf("name%06d", i)},
	}
}

// populate puts n members into a room, and returns their holders in order of joining.
func (w *world) populate(room string, n int) (holders []store.Holder) {
	w.t.Helper()
	var lost []store.Lost
	for i := range n {
		c := member(i)
		lost = append(lost, store.Lost{Connection: c})
		holders = append(holders, store.Holder{ID: c.ID, Generation: c.Generation})
	}
	for start := 0; start < n; start += 5000 {
		_, errs := w.store.Restore(w.t.Context(), room, lost[start:min(start+5000, n)])
		for _, err := range errs {
			if err != nil {
				w.t.Fatal(err)
			}
		}
	}
	return holders
}

// by has callers do something for 0 to n-1, each of them one after the other, and returns
// how many seconds that took.
func (w *world) by(callers, n int, do func(i int) error) (seconds float64) {
	w.t.Helper()
	var next atomic.Int64
	began := time.Now()
	var calling sync.WaitGroup
	for range callers {
		calling.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				if err := do(i); err != nil {
					w.t.Error(err)
					return
				}
			}
		})
	}
	calling.Wait()
	return time.Since(began).Seconds()
}

// heartbeats renews members of one room again and again: ours in calls of 500, those of the
// peer by 500 callers, whose commands its client sends together, and raw leases in
// pipelines of 500.
func heartbeats(m *measure) {
	m.atUnit = "members"
	sizes := []int{1000, 10_000, 100_000}
	if m.quick {
		sizes = []int{1000, 100_000}
	}
	for _, members := range sizes {
		m.each([]string{ours, centrifuge, raw}, func(round int, of string) {
			m.turn(of, round, float64(members), func(t *testing.T) map[figure]float64 {
				w := newWorld(t)
				n, seconds, before := 0, 0.0, 0.0
				switch of {
				case ours:
					holders := w.populate(theRoom, members)
					n, before = 1_000_000, w.cpu()
					began := time.Now()
					for done := 0; done < n; done += store.BatchSize {
						at := done % members
						beats := &store.Beats{Room: theRoom, Holders: holders[at : at+store.BatchSize]}
						if w.store.Heartbeat(t.Context(), []*store.Beats{beats}); beats.Err != nil || len(beats.Lost) > 0 {
							t.Fatal(beats.Err, len(beats.Lost))
						}
					}
					seconds = time.Since(began).Seconds()
				case centrifuge:
					p := startPeer(t, w.server)
					p.do(t, "add", 500, 0, members)
					before = w.cpu()
					for n < 200_000 {
						seconds += p.do(t, "add", 500, 0, members)
						n += members
					}
				case raw:
					n, seconds, before = w.rawBeats(members)
				}
				return map[figure]float64{beatsRate: float64(n) / seconds, beatsRedis: (w.cpu() - before) / float64(n)}
			})
		})
	}
}

// rawBeats sets the scores of members of a sorted set, a command each.
func (w *world) rawBeats(members int) (n int, seconds, before float64) {
	w.t.Helper()
	set := func(first, score int) {
		pipe := w.rdb.Pipeline()
		for i := first; i < first+store.BatchSize; i++ {
			c := member(i)
			pipe.ZAdd(w.t.Context(), "raw", redis.Z{Score: float64(score), Member: c.ID + c.Generation})
		}
		if _, err := pipe.Exec(w.t.Context()); err != nil {
			w.t.Fatal(err)
		}
	}
	for i := 0; i < members; i += store.BatchSize {
		set(i, 0)
	}
	before, n = w.cpu(), 400_000
	began := time.Now()
	for done := 0; done < n; done += store.BatchSize {
		set(done%members, 1+done)
	}
	return n, time.Since(began).Seconds(), before
}

// joins has callers join a room of 100,000, each of which waits for its answer. The peer
// counts distinct users and publishes each join, as we do.
func joins(m *measure) {
	m.atUnit = "callers"
	const members = 100_000
	for _, callers := range []int{1, 64, 512} {
		n := 5000
		if callers > 1 {
			n = 100_000
		}
		m.each([]string{ours, centrifuge, raw}, func(round int, of string) {
			m.turn(of, round, float64(callers), func(t *testing.T) map[figure]float64 {
				w := newWorld(t)
				var seconds, before float64
				switch of {
				case ours:
					w.populate(theRoom, members)
					before = w.cpu()
					seconds = w.by(callers, n, w.join(theRoom, members))
				case centrifuge:
					p := startPeer(t, w.server, "-mapping")
					p.do(t, "add", 500, 0, members)
					before = w.cpu()
					seconds = p.do(t, "join", callers, members, n)
				case raw:
					seconds, before = w.rawJoins(callers, n)
				}
				return map[figure]float64{
					joinsRate: float64(n) / seconds, joinsRedis: (w.cpu() - before) / float64(n),
					joinsLate: 1e6 * seconds * float64(callers) / float64(n),
				}
			})
		})
	}
}

// join returns what joins the i-th member after the first ones.
func (w *world) join(room string, first int) func(i int) error {
	return func(i int) error {
		_, err := w.store.Join(w.t.Context(), room, member(first+i))
		return err
	}
}

// rawJoins writes what there has to be of n members, and publishes a message for each, in
// pipelines of as many as there are callers.
func (w *world) rawJoins(callers, n int) (seconds, before float64) {
	w.t.Helper()
	before = w.cpu()
	began := time.Now()
	for done := 0; done < n; done += callers {
		pipe := w.rdb.Pipeline()
		for i := done; i < min(done+callers, n); i++ {
			c, ctx := member(i), w.t.Context()
			pipe.ZAdd(ctx, "beats", redis.Z{Score: float64(i), Member: c.ID + c.Generation})
			pipe.HSet(ctx, "conns", c.ID, c.Generation+c.User.ID)
			pipe.SAdd(ctx, "online", c.User.ID)
			pipe.HSet(ctx, "users", c.User.ID, c.User.Name)
			pipe.Publish(ctx, "changes", c.User.ID)
		}
		if _, err := pipe.Exec(w.t.Context()); err != nil {
			w.t.Fatal(err)
		}
	}
	return time.Since(began).Seconds(), before
}

// rooms has 64 callers join one room of 1,000, while there are other rooms of 10.
func rooms(m *measure) {
	m.atUnit = "rooms"
	const members, n = 1000, 20_000
	for _, others := range []int{1, 1000, 10_000} {
		m.each([]string{ours, centrifuge}, func(round int, of string) {
			m.turn(of, round, float64(others), func(t *testing.T) map[figure]float64 {
				w := newWorld(t)
				var before float64
				if of == ours {
					w.by(64, others-1, func(i int) error {
						w.populate(fmt.Sprint("room", i), 10)
						return nil
					})
					w.populate(theRoom, members)
					before = w.cpu()
					w.by(64, n, w.join(theRoom, members))
				} else {
					p := startPeer(t, w.server, "-mapping")
					p.do(t, "spread", 64, 0, 10*(others-1))
					p.do(t, "add", 64, 0, members)
					before = w.cpu()
					p.do(t, "join", 64, members, n)
				}
				return map[figure]float64{roomsRedis: (w.cpu() - before) / n}
			})
		})
	}
}

// memory is what Redis needs for each member of a room, ours with everything that goes
// with it, the peer with the counts of users.
func memory(m *measure) {
	m.atUnit = "members"
	sizes := []int{10_000, 50_000, 200_000}
	if m.quick {
		sizes = []int{200_000}
	}
	for _, members := range sizes {
		m.each([]string{ours, centrifuge}, func(round int, of string) {
			m.turn(of, round, float64(members), func(t *testing.T) map[figure]float64 {
				w := newWorld(t)
				return w.memoryOf(members, of, func() { w.populate(theRoom, members) }, "add", 500)
			})
		})
	}
}

// roomsMemory is the same in many rooms of 10.
func roomsMemory(m *measure) {
	m.atUnit = "rooms"
	const rooms = 10_000
	m.each([]string{ours, centrifuge}, func(round int, of string) {
		m.turn(of, round, rooms, func(t *testing.T) map[figure]float64 {
			w := newWorld(t)
			return w.memoryOf(10*rooms, of, func() {
				w.by(64, rooms, func(i int) error {
					w.populate(fmt.Sprint("room", i), 10)
					return nil
				})
			}, "spread", 64)
		})
	})
}

// memoryOf fills Redis with members, and measures what each takes. fill does it for us, and the
// peer does what by so many callers.
func (w *world) memoryOf(members int, of string, fill func(), what string, callers int) map[figure]float64 {
	w.t.Helper()
	if of != ours {
		p := startPeer(w.t, w.server, "-mapping")
		fill = func() { p.do(w.t, what, callers, 0, members) }
	}
	before := w.memory()
	fill()
	return map[figure]float64{memoryEach: (w.memory() - before) / float64(members)}
}

// memory is what Redis uses when it has finished to move what it keeps in larger tables.
func (w *world) memory() float64 {
	w.t.Helper()
	used := w.info("memory", "used_memory")
	for range 50 {
		time.Sleep(200 * time.Millisecond)
		next := w.info("memory", "used_memory")
		if diff := next - used; -4096 < diff && diff < 4096 {
			return next
		}
		used = next
	}
	return used
}

// sweep makes the leases of a room end, and ends its members. The peer does so when it is
// asked how many are there.
func sweep(m *measure) {
	m.atUnit = "members"
	const members = 100_000
	m.each([]string{ours, centrifuge}, func(round int, of string) {
		m.turn(of, round, members, func(t *testing.T) map[figure]float64 {
			w := newWorld(t)
			ctx := t.Context()
			if of == ours {
				w.populate(theRoom, members)
				w.rdb.Eval(ctx, `for _, m in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do redis.call('ZADD', KEYS[1], 1, m) end`,
					[]string{store.DefaultPrefix + ":{" + theRoom + "}:beats"})
				w.watchScripts()
				before := w.cpu()
				for removed := 0; ; {
					swept := w.store.Sweep(ctx, []string{theRoom}, store.Terms{})[0]
					if swept.Err != nil {
						t.Fatal(swept.Err)
					}
					if removed += swept.RemovedConnections; swept.Next < 0 {
						if removed != members {
							t.Errorf("%d were removed", removed)
						}
						break
					}
				}
				return map[figure]float64{sweepRedis: (w.cpu() - before) / members, sweepLongest: w.longest()}
			}
			const ttl = 4 * time.Second
			p := startPeer(t, w.server, "-mapping", "-ttl", ttl.String())
			p.do(t, "add", 500, 0, members)
			time.Sleep(ttl / 2)
			p.do(t, "add", 1, 0, 1) // its keys live on while somebody is there
			time.Sleep(ttl/2 + time.Second)
			w.watchScripts()
			before := w.cpu()
			p.do(t, "count", 1, 0, 1)
			return map[figure]float64{sweepRedis: (w.cpu() - before) / members, sweepLongest: w.longest()}
		})
	})
}

// watchScripts has Redis remember how long commands take from now on.
func (w *world) watchScripts() {
	w.t.Helper()
	ctx := w.t.Context()
	for key, value := range map[string]string{"slowlog-log-slower-than": "100", "slowlog-max-len": "100000"} {
		if err := w.rdb.ConfigSet(ctx, key, value).Err(); err != nil {
			w.t.Fatal(err)
		}
	}
	w.rdb.SlowLogReset(ctx)
}

// longest is how long the longest script took since, in ms.
func (w *world) longest() (ms float64) {
	w.t.Helper()
	list, err := w.rdb.SlowLogGet(w.t.Context(), -1).Result()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, entry := range list {
		if strings.HasPrefix(strings.ToLower(entry.Args[0]), "eval") {
			ms = max(ms, float64(entry.Duration.Microseconds())/1000)
		}
	}
	return ms
}

package bench

import (
	"bufio"
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"presence/client"
	"presence/internal/redistest"
	"presence/test/harness"
)

// What is measured of event streams.
var (
	streamEvent  = figure{"processor time of an event of a stream", "µs"}
	streamMemory = figure{"resident memory of a stream", "KiB"}
	streamHeap   = figure{"of which heap", "KiB"}
	streamKernel = figure{"memory of the kernel for both ends", "KiB"}
	streamOpen   = figure{"open streams", "as files allow"}
	latencyHalf  = figure{"time until the event, median", "ms"}
	latencyMost  = figure{"time until the event, 99 of 100", "ms"}
	latencySeen  = figure{"joins that were seen", "%"}
	stormHalf    = figure{"time until the number, median", "ms"}
	stormMost    = figure{"time until the number, 99 of 100", "ms"}
	stormCut     = figure{"streams that ended", "of 6,000"}
	stormRight   = figure{"streams that were right in the end", "%"}
)

// server is a server of this project, over a Redis.
type server struct {
	*harness.Replica

	key string
}

// startReplicas starts n replicas over a Redis of their own.
func startReplicas(t *testing.T, n int, flags ...string) (servers []server, redis *redistest.Server) {
	t.Helper()
	redis = redistest.Start(t)
	key, keyFlags := harness.Key(t)
	flags = slices.Concat([]string{"-redis-url", redis.URL()}, keyFlags, flags)
	for range n {
		servers = append(servers, server{harness.Start(t, flags...), key})
	}
	return servers, redis
}

// client returns a client of the server.
func (s server) client(t *testing.T) *client.Client {
	t.Helper()
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	t.Cleanup(transport.CloseIdleConnections)
	c, err := client.New(s.URL, client.Options{Key: s.key, HTTPClient: &http.Client{Transport: transport}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// lobby and events are the room that streams tell of, and where.
const (
	lobby  = "lobby"
	events = "/v1/rooms/" + lobby + "/events"
)

// crowd returns one that watches the lobby.
func (s server) crowd(t *testing.T) *crowd {
	t.Helper()
	return newCrowd(t, s.Addr, events, s.key)
}

// five has five users be in the lobby, for longer than a turn takes.
func five(t *testing.T, c *client.Client) {
	t.Helper()
	for i := range names {
		user := fmt.Sprint("u", i)
		if _, err := c.Put(t.Context(), lobby, user, client.Presence{User: user, TTL: 5 * time.Minute}); err != nil {
			t.Fatal(err)
		}
	}
}

// idleStreams has streams be open that are told nothing.
func idleStreams(m *measure) {
	m.atUnit = "streams"
	sizes := []int{5000, 20_000}
	if m.quick {
		sizes = []int{5000}
	}
	for _, n := range sizes {
		m.each([]string{ours}, func(round int, of string) {
			m.turn(of, round, float64(n), func(t *testing.T) map[figure]float64 {
				replicas, _ := startReplicas(t, 1, "-max-connections-per-ip", "0")
				s := replicas[0]
				five(t, s.client(t))
				all := s.crowd(t)
				all.more(100) // what is allocated once
				empty, kernel := settled(t, s.AdminURL), kernelMemory()
				open := min(n, descriptors(t)-500)
				all.more(open)
				full := settled(t, s.AdminURL)
				each := func(bytes float64) float64 { return bytes / 1024 / float64(open) }
				return map[figure]float64{
					streamMemory: each(full.Resident - empty.Resident), streamHeap: each(full.Heap - empty.Heap),
					streamKernel: each(kernelMemory() - kernel), streamOpen: float64(open),
				}
			})
		})
	}
}

// descriptors is how many files and sockets a process may have here.
func descriptors(t *testing.T) int {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	return int(min(limit.Max, 1<<20)) //nolint:gosec // bounded
}

// settled is what a server takes when it has given back what it can.
func settled(t *testing.T, admin string) harness.Usage {
	t.Helper()
	usage := harness.Measure(t, admin)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for same := 0; same < 3; {
		<-tick.C
		next := harness.Measure(t, admin)
		if same++; next.Resident < usage.Resident-1<<20 {
			same = 0
		}
		usage = next
	}
	return usage
}

// kernelMemory is what the kernel has allocated for itself, sockets and what is in their
// buffers among it, in bytes.
func kernelMemory() (bytes float64) {
	for _, line := range lines("/proc/meminfo") {
		var kib float64
		if _, err := fmt.Sscanf(line, "Slab: %f kB", &kib); err == nil {
			bytes += 1024 * kib
		}
	}
	for _, line := range lines("/proc/net/sockstat") {
		fields := strings.Fields(line)
		if at := slices.Index(fields, "mem"); at >= 0 && fields[0] == "TCP:" {
			pages, _ := strconv.Atoi(fields[at+1]) // it is a number
			bytes += float64(pages * os.Getpagesize())
		}
	}
	return bytes
}

// latencies is how long it takes from the call by which somebody joins, at one of two
// replicas, until a stream at the other has received the event, of a room with 1,000
// streams there. Twenty streams are looked at, which were opened at even distances among
// the thousand. At 50 joins a second people stay for 2 s, at 500 for 0.2 s.
func latencies(m *measure) {
	m.atUnit = "joins/s"
	for _, c := range []struct {
		rate    int
		staying time.Duration
	}{{50, 2 * time.Second}, {500, 200 * time.Millisecond}} {
		m.each([]string{ours}, func(round int, of string) {
			m.turn(of, round, float64(c.rate), func(t *testing.T) map[figure]float64 {
				return latency(t, c.rate, c.staying)
			})
		})
	}
}

const (
	watching = 1000
	looked   = 20

	// joining is for how long people join. Those of the first second are not counted.
	joining = 8 * time.Second
)

func latency(t *testing.T, rate int, staying time.Duration) map[figure]float64 {
	t.Helper()
	replicas, _ := startReplicas(t, 2, "-coalesce", "10ms")
	there, here := replicas[0].client(t), replicas[1]
	five(t, there)
	l := &lap{called: map[string]time.Time{}}
	var reading sync.WaitGroup
	t.Cleanup(reading.Wait)
	crowd := here.crowd(t)
	for range looked {
		crowd.more(watching/looked - 1)
		conn := here.open(t)
		reading.Go(func() { l.read(conn) })
		t.Cleanup(func() { _ = conn.Close() })
	}
	var going sync.WaitGroup
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	n := 0
	for began := time.Now(); time.Since(began) < joining; n++ {
		<-tick.C
		counts := time.Since(began) > time.Second
		user := fmt.Sprint("j", n)
		going.Go(func() {
			if counts {
				l.call(user)
			}
			if _, err := there.Put(t.Context(), lobby, user, client.Presence{User: user, TTL: 5 * time.Second}); err != nil {
				t.Error(err)
			}
			time.Sleep(staying)
			_ = there.Leave(t.Context(), lobby, user) // if not, the lease ends
		})
	}
	going.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.took) == 0 {
		t.Fatal("no join was seen")
	}
	return map[figure]float64{
		latencyHalf: part(l.took, 0.5), latencyMost: part(l.took, 0.99),
		// People who come and go within one window are seen by nobody; all others are by all.
		latencySeen: 100 * float64(len(l.took)) / float64(len(l.called)*looked),
	}
}

// part is the time below which a part of times lies, in ms.
func part(times []time.Duration, p float64) float64 {
	list := slices.Sorted(slices.Values(times))
	return list[int(p*float64(len(list)-1))].Seconds() * 1000
}

// open opens a stream to be read by hand: the client would cost more than the server.
func (s server) open(t *testing.T) net.Conn {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", s.Addr)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprint(conn, requestOf(s.Addr, events, s.key)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// lap is when joins were called, and how long it took until streams had them.
type lap struct {
	mu     sync.Mutex // guards:
	called map[string]time.Time
	took   []time.Duration
}

func (l *lap) call(user string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.called[user] = time.Now()
}

// read notes the joins that a stream tells of.
func (l *lap) read(conn net.Conn) {
	lines := bufio.NewReaderSize(conn, 256<<10)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return
		}
		at := time.Now()
		_, joins, _ := strings.Cut(line, `"joins":[`)
		joins, _, _ = strings.Cut(joins, `"updates":[`)
		l.mu.Lock()
		for part := range strings.SplitSeq(joins, `"user":"`) {
			user, _, _ := strings.Cut(part, `"`)
			if called, ok := l.called[user]; ok {
				l.took = append(l.took, at.Sub(called))
			}
		}
		l.mu.Unlock()
	}
}

// storm has 500 people a second join a room, each of whom then watches it. It measures how
// long it takes from the call of a join until a stream is told its version or a later one,
// by twenty streams, and looks in the end at what all streams were told.
func storm(m *measure) {
	m.atUnit = "members"
	const before, all, rate = 1000, 6000, 500
	m.each([]string{ours}, func(round int, of string) {
		m.turn(of, round, all, func(t *testing.T) map[figure]float64 {
			replicas, _ := startReplicas(t, 2)
			c, here := replicas[0].client(t), replicas[1]
			put := func(i int) (version int64) {
				id := fmt.Sprint("s", i)
				lease, err := c.Put(t.Context(), lobby, id, client.Presence{User: id, TTL: 5 * time.Minute})
				if err != nil {
					t.Error(err)
				}
				return lease.Version
			}
			harness.InParallel(before, func(i int) { put(i) })
			crowd := here.crowd(t)
			crowd.more(before - looked)
			var heard [looked]versions64
			var reading sync.WaitGroup
			t.Cleanup(reading.Wait)
			for i := range heard {
				conn := here.open(t)
				reading.Go(func() { heard[i].read(conn) })
				t.Cleanup(func() { _ = conn.Close() })
			}
			crowd.state()
			var mu sync.Mutex // guards:
			called := map[int64]time.Time{}
			var going sync.WaitGroup
			tick := time.NewTicker(time.Second / rate)
			defer tick.Stop()
			for i := before; i < all; i++ {
				<-tick.C
				going.Go(func() {
					at := time.Now()
					version := put(i)
					mu.Lock()
					if earlier, ok := called[version]; !ok || at.Before(earlier) { // several joins may share one
						called[version] = at
					}
					mu.Unlock()
				})
				crowd.begin(1)
			}
			going.Wait()
			right := func() (ended, right int) {
				ended, users := crowd.state()
				return ended, users[all]
			}
			ended, told := 0, 0
			for end := time.Now().Add(10 * time.Second); time.Now().Before(end) && told+ended < all-looked; time.Sleep(100 * time.Millisecond) {
				ended, told = right()
			}
			var took []time.Duration
			for i := range heard {
				took = append(took, heard[i].since(called)...)
			}
			if len(took) < looked*len(called) {
				t.Errorf("%d times were told of %d", len(took), looked*len(called))
			}
			return map[figure]float64{
				stormHalf: part(took, 0.5), stormMost: part(took, 0.99), stormCut: float64(ended),
				stormRight: 100 * float64(told) / float64(all-looked),
			}
		})
	})
}

// versions64 is when a stream was told which version.
type versions64 struct {
	mu   sync.Mutex // guards:
	list []int64
	at   []time.Time
}

// read notes the versions that a stream tells.
func (v *versions64) read(conn net.Conn) {
	lines := bufio.NewReaderSize(conn, 256<<10)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return
		}
		id, found := strings.CutPrefix(line, "id: ")
		version, err := strconv.ParseInt(strings.TrimSpace(id), 10, 64)
		if !found || err != nil {
			continue
		}
		v.mu.Lock()
		v.list, v.at = append(v.list, version), append(v.at, time.Now())
		v.mu.Unlock()
	}
}

// since is how long it took from each call until its version, or a later one, was told.
func (v *versions64) since(called map[int64]time.Time) (took []time.Duration) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, version := range slices.Collect(maps.Keys(called)) {
		if i, _ := slices.BinarySearch(v.list, version); i < len(v.list) {
			took = append(took, v.at[i].Sub(called[version]))
		}
	}
	return took
}

// streamsCost is what an event costs a server for each stream of a room in processor time,
// all that it does included, beside a server that writes the same bytes to as many sockets
// in a loop.
func streamsCost(m *measure) {
	m.atUnit = "streams"
	sizes := []int{500, 1500, 5000}
	if m.quick {
		sizes = []int{5000}
	}
	for _, n := range sizes {
		s := newStorytellers(m.t, n)
		m.each([]string{ours, raw}, func(round int, of string) {
			m.turn(of, round, float64(n), func(t *testing.T) map[figure]float64 {
				if of == raw {
					return map[figure]float64{streamEvent: s.writes(t)}
				}
				return map[figure]float64{streamEvent: s.tells(t)}
			})
		})
		s.close()
	}
}

// changes is how often a room changes in a turn.
const changes = 30

// storytellers are a server of ours and one that only writes, each with a crowd.
type storytellers struct {
	n      int
	ours   server
	c      *client.Client
	writer string
	diffs  atomic.Int64 // that a stream of ours was told
	name   string
	close  func()
}

func newStorytellers(t *testing.T, n int) *storytellers {
	t.Helper()
	replicas, _ := startReplicas(t, 1)
	s := &storytellers{n: n, ours: replicas[0], c: replicas[0].client(t), writer: startServer(t, writerEnv)}
	five(t, s.c)
	ctx, cancel := context.WithCancel(t.Context())
	var listening sync.WaitGroup
	listening.Go(func() {
		for e, err := range s.c.Watch(ctx, lobby, client.WatchOptions{}) {
			if err == nil && e.Kind == client.KindDiff {
				s.diffs.Add(1)
			}
		}
	})
	s.close = func() {
		cancel()
		listening.Wait()
	}
	s.ours.crowd(t).more(n)
	newCrowd(t, s.writer, "/stream", "").more(n)
	return s
}

// turn does something now and then, and returns the processor time that this takes of a
// server, in µs.
func (s *storytellers) turn(t *testing.T, admin string, do func(i int)) float64 {
	t.Helper()
	tick := time.NewTicker(between)
	defer tick.Stop()
	before := harness.Measure(t, admin).CPU
	for i := range changes {
		<-tick.C
		do(i)
	}
	<-tick.C
	return 1e6 * (harness.Measure(t, admin).CPU - before)
}

// tells has ours tell of changes, and returns what each costs for a stream.
func (s *storytellers) tells(t *testing.T) float64 {
	t.Helper()
	before := s.diffs.Load()
	cost := s.turn(t, s.ours.AdminURL, func(i int) {
		s.name = fmt.Sprintf("Ann %04d", s.diffs.Load()+int64(i))
		if _, err := s.c.Update(t.Context(), lobby, "u1", client.Patch{Name: &s.name}); err != nil {
			t.Fatal(err)
		}
	})
	return cost / float64((s.diffs.Load()-before)*int64(s.n))
}

// writes has the other write as many bytes.
func (s *storytellers) writes(t *testing.T) float64 {
	t.Helper()
	text := fmt.Sprintf("id: 1767225600100000\nevent: diff\ndata: {\"room\":\"lobby\",\"version\":1767225600100000,\"users\":5,\"connections\":5,"+
		"\"joins\":[],\"updates\":[{\"user\":\"u1\",\"name\":%q,\"connections\":1,\"since\":\"2026-01-01T00:00:00.000Z\"}],\"leaves\":[]}\n\n", s.name)
	cost := s.turn(t, "http://"+s.writer, func(int) {
		resp, err := http.Post("http://"+s.writer+"/write", "text/plain", strings.NewReader(text)) //nolint:noctx // on this machine
		if err != nil {
			t.Fatal(err)
		}
		if _ = resp.Body.Close(); resp.StatusCode != http.StatusOK {
			t.Fatal(resp.Status)
		}
	})
	return cost / float64(changes*s.n)
}

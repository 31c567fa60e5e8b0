package bench

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"presence/client"
	"presence/internal/redistest"
	"presence/test/harness"
)

// server is a server of this project, over a Redis.
type server struct {
	*harness.Replica

	key string
}

// startReplicas starts n replicas over a Redis of their own.
func startReplicas(b *testing.B, n int, flags ...string) []server {
	b.Helper()
	key, keyFlags := harness.Key(b)
	flags = slices.Concat([]string{"-redis-url", redistest.Start(b).URL()}, keyFlags, flags)
	servers := make([]server, n)
	for i := range servers {
		servers[i] = server{harness.Start(b, flags...), key}
	}
	return servers
}

// client returns a client of the server.
func (s server) client(b *testing.B) *client.Client {
	b.Helper()
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	b.Cleanup(transport.CloseIdleConnections)
	c, err := client.New(s.URL, client.Options{Key: s.key, HTTPClient: &http.Client{Transport: transport}})
	if err != nil {
		b.Fatal(err)
	}
	return c
}

// room and events are the room that streams tell of, and where.
const (
	room   = "lobby"
	events = "/v1/rooms/" + room + "/events"
)

// crowd has n streams be open.
func (s server) crowd(b *testing.B, n int) {
	b.Helper()
	crowd(b, n, s.Addr, events, s.key)
}

// five has five users be in the room, for longer than a benchmark takes.
func five(b *testing.B, c *client.Client) {
	b.Helper()
	for i := range 5 {
		user := fmt.Sprint("u", i)
		if _, err := c.Put(b.Context(), room, user, client.Presence{User: user, TTL: 5 * time.Minute}); err != nil {
			b.Fatal(err)
		}
	}
}

// idleStreams is how many streams are open in the benchmarks of what one takes.
const idleStreams = 5000

// BenchmarkStreamIdle is what 5,000 streams take of a server that nothing is told: resident
// memory each (KiB/stream), of which heap, and what the machine's kernel has for the sockets
// of both ends (kernel-KiB/stream).
func BenchmarkStreamIdle(b *testing.B) {
	for b.Loop() {
		s := startReplicas(b, 1)[0]
		five(b, s.client(b))
		s.crowd(b, 100) // what is allocated once
		empty, kernel := settled(b, s.AdminURL), socketMemory(b)
		s.crowd(b, idleStreams)
		full := settled(b, s.AdminURL)
		each := func(bytes float64) float64 { return bytes / 1024 / idleStreams }
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(each(full.Resident-empty.Resident), "KiB/stream")
		b.ReportMetric(each(full.Heap-empty.Heap), "heap-KiB/stream")
		b.ReportMetric(each(socketMemory(b)-kernel), "kernel-KiB/stream")
	}
}

// settled is what a server takes when it has given back what it can.
func settled(b *testing.B, admin string) harness.Usage {
	b.Helper()
	usage := harness.Measure(b, admin)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for same := 0; same < 3; {
		<-tick.C
		next := harness.Measure(b, admin)
		if same++; next.Resident < usage.Resident-1<<20 {
			same = 0
		}
		usage = next
	}
	return usage
}

// socketMemory is what the kernel has allocated to TCP sockets, in bytes.
func socketMemory(b *testing.B) float64 {
	b.Helper()
	stat, err := os.ReadFile("/proc/net/sockstat")
	if err != nil {
		b.Skip(err)
	}
	fields := strings.Fields(string(stat))
	at := slices.Index(fields, "mem")
	var pages int
	if _, err := fmt.Sscan(fields[at+1], &pages); err != nil {
		b.Fatal(err)
	}
	return float64(pages * os.Getpagesize())
}

// BenchmarkStreamLatency is how long it takes from the call by which somebody joins, at one of
// two replicas, until a stream at the other has received the event, of a room with 1,000
// streams there: of half of the joins less than p50-ms, of 99 in 100 less than p99-ms. Twenty
// streams are looked at, which were opened at even distances among the thousand.
func BenchmarkStreamLatency(b *testing.B) {
	for _, c := range []struct {
		rate    int // joins a second
		staying time.Duration
	}{{50, 2 * time.Second}, {500, 200 * time.Millisecond}} {
		b.Run(fmt.Sprintf("joins=%d", c.rate), func(b *testing.B) {
			for b.Loop() {
				latency(b, c.rate, c.staying)
			}
		})
	}
}

const (
	streams = 1000
	looked  = 20

	// joining is for how long people join. Those of the first second are not counted.
	joining = 8 * time.Second
)

func latency(b *testing.B, rate int, staying time.Duration) {
	b.Helper()
	replicas := startReplicas(b, 2, "-coalesce", "10ms")
	there, here := replicas[0].client(b), replicas[1]
	five(b, there)
	l := &lap{called: map[string]time.Time{}}
	var reading sync.WaitGroup
	b.Cleanup(reading.Wait)
	for range looked {
		here.crowd(b, streams/looked-1)
		conn := here.open(b)
		reading.Go(func() { l.read(conn) })
		b.Cleanup(func() { _ = conn.Close() })
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
			if _, err := there.Put(b.Context(), room, user, client.Presence{User: user, TTL: 5 * time.Second}); err != nil {
				b.Error(err)
			}
			time.Sleep(staying)
			if err := there.Leave(b.Context(), room, user); err != nil {
				b.Error(err)
			}
		})
	}
	going.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	slices.Sort(l.took)
	if len(l.took) == 0 {
		b.Fatal("no join was seen")
	}
	part := func(p float64) float64 { return l.took[int(p*float64(len(l.took)-1))].Seconds() * 1000 }
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(part(0.5), "p50-ms")
	b.ReportMetric(part(0.99), "p99-ms")
	// People who come and go within one window are seen by nobody; all others are by all.
	b.ReportMetric(100*float64(len(l.took))/float64(len(l.called)*looked), "seen/%")
	b.ReportMetric(float64(n)/joining.Seconds(), "joins/s")
}

// open opens a stream to be read by hand: the client would cost more than the server.
func (s server) open(b *testing.B) net.Conn {
	b.Helper()
	conn, err := new(net.Dialer).DialContext(b.Context(), "tcp", s.Addr)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := fmt.Fprint(conn, requestOf(s.Addr, events, s.key)); err != nil {
		b.Fatal(err)
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

// BenchmarkStreamDelivered is what an event costs a server for each of 5,000 streams of a room
// in processor time, all that it does included (us/event), beside a server that writes the same
// bytes to as many sockets in a loop (us/write), which take turns; times is the one by the
// other.
func BenchmarkStreamDelivered(b *testing.B) {
	const (
		turns   = 4
		changes = 15
		between = 150 * time.Millisecond // more than the window: each is an event of its own
	)
	s, writer := startReplicas(b, 1)[0], startServer(b, writerEnv)
	c := s.client(b)
	five(b, c)
	ctx, cancel := context.WithCancel(b.Context())
	var watching sync.WaitGroup
	var mu sync.Mutex // guards:
	diffs := 0
	watching.Go(func() {
		for e, err := range c.Watch(ctx, room, client.WatchOptions{}) {
			mu.Lock()
			if err == nil && e.Kind == client.KindDiff {
				diffs++
			}
			mu.Unlock()
		}
	})
	defer watching.Wait()
	defer cancel()
	s.crowd(b, idleStreams)
	crowd(b, idleStreams, writer, "/stream", "")
	tick := time.NewTicker(between)
	defer tick.Stop()
	turn := func(admin string, do func(i int)) float64 {
		before := harness.Measure(b, admin).CPU
		for i := range changes {
			<-tick.C
			do(i)
		}
		time.Sleep(between)
		return harness.Measure(b, admin).CPU - before
	}
	var told, writes float64
	n, written := 0, 0
	compare := func() {
		mu.Lock()
		before := diffs
		mu.Unlock()
		name := ""
		told += turn(s.AdminURL, func(i int) {
			name = fmt.Sprintf("Ann %04d", i)
			if _, err := c.Update(ctx, room, "u1", client.Patch{Name: &name}); err != nil {
				b.Fatal(err)
			}
		})
		mu.Lock()
		n += diffs - before
		mu.Unlock()
		text := fmt.Sprintf("id: 1767225600100000\nevent: diff\ndata: {\"room\":\"lobby\",\"version\":1767225600100000,\"users\":5,\"connections\":5,"+
			"\"joins\":[],\"updates\":[{\"user\":\"u1\",\"name\":%q,\"connections\":1,\"since\":\"2026-01-01T00:00:00.000Z\"}],\"leaves\":[]}\n\n", name)
		writes += turn("http://"+writer, func(int) {
			resp, err := http.Post("http://"+writer+"/write", "text/plain", strings.NewReader(text)) //nolint:noctx // on this machine
			if err != nil {
				b.Fatal(err)
			}
			if _ = resp.Body.Close(); resp.StatusCode != http.StatusOK {
				b.Fatal(resp.Status)
			}
			written++
		})
	}
	for b.Loop() {
		for range turns {
			compare()
		}
	}
	b.ReportMetric(0, "ns/op")
	event, write := 1e6*told/float64(n*idleStreams), 1e6*writes/float64(written*idleStreams)
	b.ReportMetric(event, "us/event")
	b.ReportMetric(write, "us/write")
	b.ReportMetric(event/write, "times")
}

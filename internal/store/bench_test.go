package store

import (
	"bufio"
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/redis/go-redis/v9"

	"presence/internal/presence"
	"presence/internal/redistest"
)

// info returns one number that Redis reports of itself.
func info(b *testing.B, rdb redis.UniversalClient, section string, fields ...string) float64 {
	b.Helper()
	sum := 0.0
	lines := bufio.NewScanner(strings.NewReader(must(rdb.Info(b.Context(), section).Result())))
	for lines.Scan() {
		key, value, _ := strings.Cut(lines.Text(), ":")
		for _, field := range fields {
			if key == field {
				n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
				if err != nil {
					b.Fatal(err)
				}
				sum += n
			}
		}
	}
	return sum
}

// redisCPU is the CPU time that Redis has spent on commands, in microseconds.
func redisCPU(b *testing.B, rdb redis.UniversalClient) float64 {
	b.Helper()
	return 1e6 * info(b, rdb, "cpu", "used_cpu_user_main_thread", "used_cpu_sys_main_thread")
}

// member is the i-th of many, with ids of the length that pages have.
func member(i int) presence.Connection {
	return presence.Connection{
		ID: fmt.Sprintf("conn%012d", i), Generation: "gen1",
		User: presence.User{ID: fmt.Sprintf("user%012d", i), Name: fmt.Sprintf("name%06d", i)},
	}
}

// populate puts n members into the room r and returns their leases in join order.
func populate(b *testing.B, s *Store, n int) []Lease {
	b.Helper()
	var leases []Lease
	var lost []Lost
	for i := range n {
		lost = append(lost, Lost{Connection: member(i)})
		leases = append(leases, Lease{lost[i].Connection.ID, lost[i].Connection.Generation})
	}
	for start := 0; start < n; start += 5000 {
		_, errs := s.Restore(b.Context(), "r", lost[start:min(start+5000, n)])
		for _, err := range errs {
			if err != nil {
				b.Fatal(err)
			}
		}
	}
	return leases
}

// BenchmarkHeartbeat renews the members of one large room, by one caller, in
// batches: time and Redis CPU for each member.
func BenchmarkHeartbeat(b *testing.B) {
	const members = 100_000
	server := redistest.Start(b)
	rdb := server.Client(b)
	s := New(rdb, Options{})
	leases := populate(b, s, members)
	before, done := redisCPU(b, rdb), 0
	for b.Loop() {
		at := done % members
		beats := &Beats{Room: "r", Leases: leases[at : at+BatchSize]}
		if s.Heartbeat(b.Context(), []*Beats{beats}); beats.Err != nil || len(beats.Lost) > 0 {
			b.Fatal(beats.Err, len(beats.Lost))
		}
		done += BatchSize
	}
	b.ReportMetric(float64(done)/b.Elapsed().Seconds(), "members/s")
	b.ReportMetric((redisCPU(b, rdb)-before)/float64(done), "redis-us/member")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkJoin has many callers join one large room, each waiting for its
// answer before the next.
func BenchmarkJoin(b *testing.B) {
	for _, callers := range []int{1, 64, 512} {
		b.Run(fmt.Sprint(callers, "-callers"), func(b *testing.B) {
			server := redistest.Start(b)
			rdb := server.Client(b)
			s := New(rdb, Options{})
			ctx, cancel := context.WithCancel(b.Context())
			stopped := make(chan error, 1)
			go func() { stopped <- s.Run(ctx) }()
			populate(b, s, 100_000)
			before := redisCPU(b, rdb)
			var next atomic.Int64
			b.ResetTimer()
			var wg sync.WaitGroup
			for range callers {
				wg.Go(func() {
					for {
						i := int(next.Add(1))
						if i > b.N {
							return
						}
						if _, err := s.Join(ctx, "r", member(100_000+i)); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "joins/s")
			b.ReportMetric((redisCPU(b, rdb)-before)/float64(b.N), "redis-us/join")
			b.ReportMetric(0, "ns/op")
			cancel()
			if err := <-stopped; err != nil {
				b.Fatal(err)
			}
		})
	}
}

// BenchmarkSweep removes a room whose members all ran out: time and Redis CPU
// for each, and how long the longest call blocked Redis.
func BenchmarkSweep(b *testing.B) {
	const members = 100_000
	server := redistest.Start(b)
	rdb := server.Client(b)
	s := New(rdb, Options{})
	longest, removed, cpu := 0.0, 0, 0.0
	for b.Loop() {
		b.StopTimer()
		populate(b, s, members)
		rdb.Do(b.Context(), "EVAL", `for i, m in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do redis.call('ZADD', KEYS[1], 1, m) end`, 1, s.keys.beats("r"))
		rdb.ConfigResetStat(b.Context())
		before := redisCPU(b, rdb)
		b.StartTimer()
		for {
			swept := s.Sweep(b.Context(), []string{"r"}, Terms{})[0]
			if swept.Err != nil {
				b.Fatal(swept.Err)
			}
			removed += swept.RemovedConnections
			if swept.Next < 0 {
				break
			}
		}
		b.StopTimer()
		cpu += redisCPU(b, rdb) - before
		slow := must(rdb.Do(b.Context(), "LATENCY", "HISTOGRAM", "evalsha").Result())
		longest = max(longest, longestOf(slow))
		b.StartTimer()
	}
	b.ReportMetric(float64(removed)/b.Elapsed().Seconds(), "members/s")
	b.ReportMetric(cpu/float64(removed), "redis-us/member")
	b.ReportMetric(longest, "longest-us")
	b.ReportMetric(0, "ns/op")
}

// longestOf is the upper bound of the slowest bucket of LATENCY HISTOGRAM.
func longestOf(reply any) float64 {
	most := 0.0
	commands, _ := reply.(map[any]any)
	for _, v := range commands {
		histogram, _ := v.(map[any]any)
		buckets, _ := histogram["histogram_usec"].(map[any]any)
		for bucket := range buckets {
			if n, ok := bucket.(int64); ok {
				most = max(most, float64(n))
			}
		}
	}
	return most
}

// BenchmarkMemory reports what Redis needs for each member of one large room.
func BenchmarkMemory(b *testing.B) {
	const members = 200_000
	server := redistest.Start(b)
	rdb := server.Client(b)
	s := New(rdb, Options{})
	for b.Loop() {
		rdb.FlushAll(b.Context())
		before := info(b, rdb, "memory", "used_memory")
		cpu := redisCPU(b, rdb)
		populate(b, s, members)
		b.ReportMetric((redisCPU(b, rdb)-cpu)/members, "redis-us/restore")
		b.ReportMetric((info(b, rdb, "memory", "used_memory")-before)/members, "bytes/member")
	}
	b.ReportMetric(0, "ns/op")
}

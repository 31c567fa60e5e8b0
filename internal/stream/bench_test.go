package stream

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"presence/internal/presence"
	"presence/internal/redistest"
	"presence/internal/replica"
	"presence/internal/store"
)

// crowdEnv makes this test binary a crowd that reads streams: its value is an address
// and how many.
const crowdEnv = "PRESENCE_TEST_CROWD"

// beCrowd opens streams, says so when all have begun, and reads them until its input ends.
func beCrowd(value string) {
	addr, of, _ := strings.Cut(value, " ")
	var n int
	_, _ = fmt.Sscan(of, &n)
	var begun sync.WaitGroup
	turns := make(chan bool, 100)
	for range n {
		turns <- true
		begun.Go(func() {
			defer func() { <-turns }()
			conn, err := net.Dial("tcp", addr) //nolint:noctx // on this machine
			if err == nil {
				_, err = io.WriteString(conn, "GET /?rooms=lobby HTTP/1.1\r\nHost: x\r\n\r\n")
			}
			b := make([]byte, 2<<10)
			if err == nil {
				_, err = conn.Read(b)
			}
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			go func() {
				for err == nil {
					_, err = conn.Read(b)
				}
			}()
		})
	}
	begun.Wait()
	fmt.Println("begun")
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// crowd opens n streams from another process. They end with the test.
func (p *process) crowd(n int) {
	p.t.Helper()
	cmd := exec.Command(os.Args[0]) //nolint:gosec,noctx // this binary, ended below
	redistest.EndWithTest(cmd)
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d", crowdEnv, strings.TrimPrefix(p.url, "http://"), n))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "begun\n" {
		p.t.Fatalf("the crowd says %q, %v", line, err)
	}
}

const benchStreams = 5000

// startBench starts a replica with five users in its room.
func startBench(b *testing.B) *process {
	b.Helper()
	p := startWith(b, redistest.NewFake(b), store.Options{}, replica.Options{Alone: true}, time.Millisecond)
	p.listen()
	for i := range 5 {
		p.put(fmt.Sprint("u", i), "")
	}
	redistest.Eventually(b, 10*time.Second, "the room is known", func() bool {
		view, err := p.rooms.Look(b.Context(), lobby)
		return err == nil && !view.Stale
	})
	return p
}

// cpu is the processor time that this process has used, its kernel part included.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkDelivered is what an event costs a server for each of 5,000 streams of a room
// in processor time (us/event), beside plain writes of the same bytes to the same
// sockets in a loop (us/write), which take turns with it; times is the one by the other.
// The peers are another process.
func BenchmarkDelivered(b *testing.B) {
	p := startBench(b)
	p.crowd(benchStreams)
	p.mu.Lock()
	streams := p.allLocked()
	p.mu.Unlock()
	var events, writes time.Duration
	n := 0
	for b.Loop() {
		n++
		began := cpu(b)
		before := p.metric("presence_stream_events_total", "diff")
		p.put("u1", fmt.Sprintf(`{"n":"%06d"}`, n))
		for end := time.Now().Add(10 * time.Second); p.metric("presence_stream_events_total", "diff") < before+benchStreams; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				b.Fatalf("not all streams were sent an event; there are %d", p.Len())
			}
		}
		events += cpu(b) - began
		time.Sleep(50 * time.Millisecond) // the peers read
		view, err := p.rooms.Look(b.Context(), lobby)
		if err != nil {
			b.Fatal(err)
		}
		view.Change = &presence.Change{Occupancy: view.Occupancy, Updated: view.Members[1:2]} // u1, as above
		text := (&edition{room: lobby, view: view}).message(change, true)
		began = cpu(b)
		for _, s := range streams {
			if _, err := s.conn.Write(text); err != nil {
				b.Fatal(err)
			}
		}
		writes += cpu(b) - began
		time.Sleep(50 * time.Millisecond)
	}
	each := func(d time.Duration) float64 { return float64(d.Microseconds()) / float64(n*benchStreams) }
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(each(events), "us/event")
	b.ReportMetric(each(writes), "us/write")
	b.ReportMetric(float64(events)/float64(writes), "times")
	if p.metric("presence_stream_events_total", "snapshot") > 2*benchStreams {
		b.Error("streams were slow")
	}
}

// BenchmarkIdle is what 5,000 streams take that nothing is told: resident memory each, as
// the process has it (KiB/stream), of which the heap and the stacks; and the
// memory of all sockets of the machine's kernel, of both ends (kernel-KiB/stream).
func BenchmarkIdle(b *testing.B) {
	for b.Loop() {
		p := startBench(b)
		p.crowd(100) // what is allocated once
		empty, emptyHeap, emptyStacks := resident(b)
		kernel := socketMemory(b)
		p.crowd(benchStreams)
		full, heap, stacks := resident(b)
		each := func(n int) float64 { return float64(n) / 1024 / benchStreams }
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(each(full-empty), "KiB/stream")
		b.ReportMetric(each(heap-emptyHeap), "heap-KiB/stream")
		b.ReportMetric(each(stacks-emptyStacks), "stack-KiB/stream")
		b.ReportMetric(each(socketMemory(b)-kernel), "kernel-KiB/stream")
		p.kill()
	}
}

// resident is the resident memory of this process in bytes, and what of it is heap and
// stacks.
func resident(b *testing.B) (all, heap, stacks int) {
	b.Helper()
	time.Sleep(time.Second)
	runtime.GC()
	debug.FreeOSMemory()
	status, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		b.Skip(err)
	}
	var size, pages int
	if _, err := fmt.Sscan(string(status), &size, &pages); err != nil {
		b.Fatal(err)
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return pages * os.Getpagesize(), int(m.HeapAlloc), int(m.StackInuse) //nolint:gosec // small
}

// socketMemory is what the kernel has allocated to TCP sockets, in bytes.
func socketMemory(b *testing.B) int {
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
	return pages * os.Getpagesize()
}

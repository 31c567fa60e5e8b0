// Package redistest gives tests a Redis: an in-memory one that fits into a
// synctest bubble, or a real redis-server on a free port.
package redistest

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
)

// Fake is a miniredis that is reached through memory only and whose TTLs follow
// the clock of the bubble it was made in.
type Fake struct {
	*miniredis.Miniredis
	down       atomic.Bool
	dialFailed atomic.Bool
}

// NewFake returns a Fake that ends with the test.
func NewFake(t testing.TB) *Fake {
	m := miniredis.NewMiniRedis()
	m.ClockTTL(true)
	t.Cleanup(m.Close)
	return &Fake{Miniredis: m}
}

// errDown is what a dial is answered with that does not get through.
var errDown = errors.New("connection refused")

// Down makes the Fake refuse connections and fail every command, until Up.
func (f *Fake) Down() {
	f.down.Store(true)
	f.SetError("ERR the server is gone")
}

// Up ends Down.
func (f *Fake) Up() {
	f.SetError("")
	f.down.Store(false)
}

// Client returns a client of its own, such as a replica has, that ends with the
// test.
func (f *Fake) Client(t testing.TB) redis.UniversalClient { return f.Link(t).Client }

// Link is a client and the network between it and a Fake.
type Link struct {
	Client redis.UniversalClient

	mu    sync.Mutex // guards:
	cut   bool
	conns map[net.Conn]bool
}

// Link returns a client whose network can be cut. It ends with the test.
func (f *Fake) Link(t testing.TB) *Link {
	l := &Link{conns: map[net.Conn]bool{}}
	l.Client = redis.NewClient(&redis.Options{
		Addr:                  "127.0.0.1:6379",
		Dialer:                func(context.Context, string, string) (net.Conn, error) { return l.dial(f) },
		ContextTimeoutEnabled: true,
		DisableIdentity:       true,
		MaxRetries:            -1,
		PoolSize:              8,
	})
	t.Cleanup(func() {
		_ = l.Client.Close()
		// After failed dials the client goes on trying once a second, and looks
		// for having been closed only then. Takes no time in a bubble.
		if f.dialFailed.Load() {
			time.Sleep(2 * time.Second)
		}
	})
	return l
}

func (l *Link) dial(f *Fake) (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut || f.down.Load() {
		f.dialFailed.Store(true)
		return nil, errDown
	}
	c, err := f.Dial()
	if err != nil {
		return nil, err
	}
	c = newWriteBehind(c)
	l.conns[c] = true
	return c, nil
}

// Cut ends all connections and lets no new ones through, until Mend.
func (l *Link) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = true
	for c := range l.conns {
		_ = c.Close()
	}
	clear(l.conns)
}

// Mend ends Cut.
func (l *Link) Mend() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = false
}

// writeBehind is a connection whose writes do not wait for the reader, as those
// of a socket do not. An in-memory pipe has no buffer: a client that writes a
// whole pipeline before it reads the first reply would wait for ever.
type writeBehind struct {
	net.Conn
	queue chan []byte
	done  chan struct{}
	once  sync.Once
}

func newWriteBehind(c net.Conn) *writeBehind {
	w := &writeBehind{Conn: c, queue: make(chan []byte, 64), done: make(chan struct{})}
	go func() {
		for {
			select {
			case b := <-w.queue:
				if _, err := c.Write(b); err != nil {
					_ = w.Close()
					return
				}
			case <-w.done:
				return
			}
		}
	}()
	return w
}

// Write queues b. It waits only when 64 writes are on their way already.
func (w *writeBehind) Write(b []byte) (int, error) {
	select {
	case w.queue <- bytes.Clone(b):
		return len(b), nil
	case <-w.done:
		return 0, net.ErrClosed
	}
}

// Close ends the connection and the goroutine that writes.
func (w *writeBehind) Close() error {
	w.once.Do(func() { close(w.done) })
	return w.Conn.Close()
}

// Server is a real redis-server process.
type Server struct {
	// Addr is where it listens, on the loopback interface.
	Addr string

	t   testing.TB
	cmd *exec.Cmd
	arg []string
}

// Start starts a redis-server that keeps nothing on disk and ends with the test.
// Where there is no such binary the test is skipped, except in CI, where it
// fails. args are appended to the command line.
func Start(t testing.TB, args ...string) *Server {
	t.Helper()
	binary, err := exec.LookPath("redis-server")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("redis-server is not installed, and CI must not go without it")
		}
		t.Skip("redis-server is not installed")
	}
	s := &Server{Addr: "127.0.0.1:" + strconv.Itoa(FreePort(t)), t: t}
	_, port, _ := net.SplitHostPort(s.Addr)
	s.arg = append([]string{
		binary, "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
		"--dir", t.TempDir(), "--enable-debug-command", "local",
	}, args...)
	s.Restart()
	t.Cleanup(s.Kill)
	return s
}

// Restart starts the server again, empty, after Kill.
func (s *Server) Restart() {
	s.t.Helper()
	s.cmd = exec.Command(s.arg[0], s.arg[1:]...) //nolint:gosec,noctx // the test's own command; Kill ends it
	if err := s.cmd.Start(); err != nil {
		s.t.Fatalf("start redis-server: %v", err)
	}
	Eventually(s.t, 10*time.Second, "redis-server accepts connections", func() bool {
		d := net.Dialer{Timeout: time.Second}
		c, err := d.DialContext(s.t.Context(), "tcp", s.Addr)
		if err != nil {
			return false
		}
		defer func() { _ = c.Close() }()
		_ = c.SetDeadline(time.Now().Add(time.Second))
		_, _ = c.Write([]byte("PING\r\n"))
		b := make([]byte, 64)
		n, _ := c.Read(b)
		return n > 0 && !strings.HasPrefix(string(b[:n]), "-LOADING")
	})
}

// Kill ends the server at once, as kill -9 does.
func (s *Server) Kill() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
	s.cmd = nil
}

// Process is the server's, for signals. It is nil after Kill.
func (s *Server) Process() *os.Process {
	if s.cmd == nil {
		return nil
	}
	return s.cmd.Process
}

// Client returns a client of its own that ends with the test.
func (s *Server) Client(t testing.TB) redis.UniversalClient {
	c := redis.NewClient(&redis.Options{Addr: s.Addr, ContextTimeoutEnabled: true})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// FreePort returns a TCP port of the loopback interface that nobody listens on.
func FreePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // closed at once
	if err != nil {
		t.Fatalf("find a free port: %v", err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port
}

// Eventually waits until cond holds and fails the test when it does not within
// limit. It looks every 10 ms.
func Eventually(t testing.TB, limit time.Duration, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.Now().Add(limit)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", limit, what)
		}
		<-tick.C
	}
}

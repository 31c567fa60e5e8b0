package redistest

import (
	"bytes"
	"context"
	"errors"
	"net"
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

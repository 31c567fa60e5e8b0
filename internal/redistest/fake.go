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
	"github.com/alicebob/miniredis/v2/server"
	"github.com/redis/go-redis/v9"

	"presence/test/memnet"
)

// Fake is a miniredis that clients reach through memory only. Its TTLs follow the
// clock of the bubble in which it was made.
type Fake struct {
	*miniredis.Miniredis
	scripts    *scripts
	down       atomic.Bool
	broken     atomic.Pointer[string] // the error that answers every command; nil: none
	dialFailed atomic.Bool
	muted      atomic.Bool
	stepped    atomic.Bool
	ahead      atomic.Int64 // of the clock, in ns, once it was stepped
	copies     atomic.Int64

	// foreign is what a node of a Cluster answers to a command about another's key; nil: it
	// is in none.
	foreign func(cmd string, args []string) string
}

// NewFake returns a Fake that ends with the test.
func NewFake(t testing.TB) *Fake {
	m := miniredis.NewMiniRedis()
	m.ClockTTL(true)
	f := &Fake{Miniredis: m}
	c, err := f.Dial() // starts it
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	f.scripts = newScripts(t, f)
	t.Cleanup(func() {
		m.Close() // and with it the calls that are under way
		f.scripts.state.Close()
	})
	f.Server().SetPreHook(f.serve)
	return f
}

// serve carries out the commands that miniredis must not.
func (f *Fake) serve(c *server.Peer, cmd string, args ...string) bool {
	if c.Ctx == f.scripts.inside {
		return false
	}
	if text := f.broken.Load(); text != nil {
		c.WriteError(*text)
		return true
	}
	f.Step(0)
	if f.foreign != nil {
		if text := f.foreign(cmd, args); text != "" {
			c.WriteError(text)
			return true
		}
	}
	return f.scripts.serve(c, cmd, args)
}

// Step moves the clock of the Fake by a duration. Keys end by that clock.
func (f *Fake) Step(by time.Duration) {
	ahead := time.Duration(f.ahead.Add(int64(by)))
	if by != 0 {
		f.stepped.Store(true)
	}
	if f.stepped.Load() {
		f.SetTime(time.Now().Add(ahead)) // it stands still there, until the next command
	}
}

// Copy copies all data, like a replica of Redis that lags behind from now on. The function
// that it returns fails over to the copy. Keys of the copy expire, too.
func (f *Fake) Copy() (failOver func()) {
	at := int(f.copies.Add(1))
	for _, key := range f.Keys() {
		_ = f.Miniredis.Copy(0, key, at, key) // it may have ended
	}
	return func() {
		f.FlushDB()
		for _, key := range f.DB(at).Keys() {
			_ = f.Miniredis.Copy(at, key, 0, key)
		}
		f.DB(at).FlushDB()
	}
}

// SetError makes the Fake answer every command with the error text; "" ends that.
func (f *Fake) SetError(text string) {
	if text == "" {
		f.broken.Store(nil)
		return
	}
	f.broken.Store(&text)
}

// Mute loses the messages that scripts publish, until it is called with false.
func (f *Fake) Mute(muted bool) { f.muted.Store(muted) }

// errDown is the error of a dial that does not get through.
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

// Client returns a new client, such as a replica has. It ends with the test.
func (f *Fake) Client(t testing.TB) redis.UniversalClient { return f.Link(t).Client }

// buffer is the size of those of a connection: the client's own choices of 32 KiB, and of 128
// KiB for pipelines, take longer to make than most connections are used.
const buffer = 2 << 10

// Link is a client and the network between it and a Fake.
type Link struct {
	Client redis.UniversalClient

	mu    sync.Mutex // guards:
	cut   bool
	held  bool
	takes time.Duration // the time until a request or a reply arrives
	lose  string        // the reply to a request with this in it is lost; "": none is
	spare int           // but not to so many of them before
	conns map[*memnet.Conn]bool
}

// Link returns a client whose network can be cut. It ends with the test.
func (f *Fake) Link(t testing.TB) *Link {
	l := &Link{conns: map[*memnet.Conn]bool{}}
	l.Client = redis.NewClient(&redis.Options{
		Addr:                  "127.0.0.1:6379",
		Dialer:                func(context.Context, string, string) (net.Conn, error) { return l.dial(f) },
		ContextTimeoutEnabled: true,
		DisableIdentity:       true,
		MaxRetries:            -1,
		PoolSize:              8,
		ReadBufferSize:        buffer,
		WriteBufferSize:       buffer,

		PipelineReadBufferSize:  buffer,
		PipelineWriteBufferSize: buffer,
	})
	t.Cleanup(func() {
		l.Hold(false)
		_ = l.Client.Close()
		// After failed dials the client goes on trying once a second, and looks
		// for having been closed only then. Takes no time in a bubble.
		if f.dialFailed.Load() {
			time.Sleep(2 * time.Second)
		}
	})
	return l
}

// here is the address of both ends, which nobody needs.
var here = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}

func (l *Link) dial(f *Fake) (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	// While the link is held a dial fails, too. The client greets the server while it
	// holds a mutex, and in a bubble time stands still while goroutines wait for a mutex.
	if l.cut || l.held || f.down.Load() {
		f.dialFailed.Store(true)
		return nil, errDown
	}
	near, far := memnet.New(here, here)
	near.Delay(l.takes)
	l.conns[near] = true
	f.Server().ServeConn(&served{far, near, l})
	return near, nil
}

// served is the server's end of a connection of a Link.
type served struct {
	*memnet.Conn
	near *memnet.Conn
	link *Link
}

// Read reads requests of the client, and loses the reply to one if it is to be lost.
func (s *served) Read(b []byte) (int, error) {
	n, err := s.Conn.Read(b)
	l := s.link
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lose != "" && bytes.Contains(b[:n], []byte(l.lose)) {
		if l.spare--; l.spare < 0 {
			l.lose = ""
			s.near.Deafen()
		}
	}
	return n, err //nolint:wrapcheck // as it is
}

// Close ends the connection.
func (s *served) Close() error {
	s.link.mu.Lock()
	delete(s.link.conns, s.near)
	s.link.mu.Unlock()
	return s.Conn.Close() //nolint:wrapcheck // as it is
}

// Cut ends all connections and refuses new ones, until Mend.
func (l *Link) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = true
	for c := range l.conns {
		c.Break()
	}
	clear(l.conns)
}

// Mend ends Cut.
func (l *Link) Mend() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = false
}

// Delay makes each request and each reply arrive only after d.
func (l *Link) Delay(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.takes = d
	for c := range l.conns {
		c.Delay(d)
	}
}

// Hold stops the traffic in both directions, until it is called with false. New
// connections fail meanwhile. Nothing is lost: the Fake carries out in the end what the
// client sent before it gave up.
func (l *Link) Hold(held bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = held
	for c := range l.conns {
		c.Hold(held)
	}
}

// LoseReply loses the reply to a request that contains text, the first one after spare
// others, and all that follows on its connection. The Fake carries the request out, but
// the client never gets the reply. "" ends this.
func (l *Link) LoseReply(text string, spare int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lose, l.spare = text, spare
}

package client_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"presence/client"
	"presence/internal/app"
	"presence/internal/redistest"
	"presence/test/contract"
	"presence/test/memnet"
	"presence/test/outside"
)

func TestMain(m *testing.M) {
	outside.Begin()
	goleak.VerifyTestMain(
		m,
		goleak.IgnoreCurrent(), // what Begin has started
		// livetemplate starts this for every page and has no way to stop it.
		goleak.IgnoreAnyFunction("github.com/livetemplate/livetemplate.(*MemorySessionStore).cleanupLoop"),
	)
}

// The keys of the tests: one that may do everything, and one that may only look.
const (
	key     = "psk_all"
	readKey = "psk_read"
	secret  = "0123456789abcdef0123456789abcdef"
)

// world is some replicas over one Redis, behind a balancer, in a bubble.
type world struct {
	t        *testing.T
	fake     *redistest.Fake
	http     *http.Client
	keys     string // names of files
	tokens   string
	replicas []*replica

	mu   sync.Mutex // guards:
	next int        // the replica that the next connection goes to
}

// replica is a server as a process.
type replica struct {
	link   *redistest.Link
	public *memnet.Listener
	stop   context.CancelFunc
	done   chan struct{}

	mu    sync.Mutex // guards:
	conns []*memnet.Conn
	away  bool // the balancer sends nobody there
}

// bubble runs a test on n replicas, where minutes take no time.
func bubble(t *testing.T, n int, test func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, fake: redistest.NewFake(t), keys: filepath.Join(t.TempDir(), "keys"), tokens: filepath.Join(t.TempDir(), "secret")}
		var lines strings.Builder
		for key, rights := range map[string]string{key: "read,write", readKey: "read"} {
			fmt.Fprintf(&lines, "%s sha256:%x rooms=* rights=%s\n", strings.TrimPrefix(key, "psk_"), sha256.Sum256([]byte(key)), rights)
		}
		for name, text := range map[string]string{w.keys: lines.String(), w.tokens: secret} {
			if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return w.dial() }}
		w.http = &http.Client{Transport: &contract.Transport{T: t, Base: transport}}
		t.Cleanup(transport.CloseIdleConnections)
		for i := range n {
			w.replicas = append(w.replicas, w.start(i))
		}
		time.Sleep(time.Minute) // until all trust what they read
		synctest.Wait()
		test(t, w)
	})
}

// start starts a replica, which ends with the test.
func (w *world) start(place int) *replica {
	r := &replica{link: w.fake.Link(w.t), done: make(chan struct{})}
	config := app.Default()
	config.RedisURL = "redis://10.0.0.99" // which is link
	config.AdminListen, config.APIKeysFile, config.TokenSecretFile = "", w.keys, w.tokens
	a, err := app.NewOf(app.Parts{Redis: r.link.Client, Page: outside.NewPage, Assets: outside.Assets(), Pages: outside.Pages(), Listen: func(string) (net.Listener, error) {
		r.public = memnet.Listen(&net.TCPAddr{IP: net.IPv4(10, 0, 0, byte(place+1)), Port: 80})
		return r.public, nil
	}}, config, slog.New(slog.DiscardHandler))
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	go func() {
		defer close(r.done)
		_ = a.Run(ctx) // of one that is killed, an error
	}()
	w.t.Cleanup(func() {
		r.stop()
		<-r.done
	})
	return r
}

// dial connects to a replica, as a balancer does.
func (w *world) dial() (net.Conn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for range w.replicas {
		r := w.replicas[w.next%len(w.replicas)]
		w.next++
		if c, err := r.dial(); err == nil {
			return c, nil
		}
	}
	return nil, errors.New("no replica takes connections")
}

func (r *replica) dial() (net.Conn, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.away {
		return nil, net.ErrClosed
	}
	c, err := r.public.Dial(&net.TCPAddr{IP: net.IPv4(10, 1, 1, 1), Port: 1})
	if err == nil {
		r.conns = append(r.conns, c)
	}
	return c, err
}

// leave has the balancer send nobody to the replica, or again.
func (r *replica) leave(away bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.away = away
}

// cut breaks all connections with the replica.
func (r *replica) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.conns {
		c.Break()
	}
	r.conns = nil
}

// kill ends the replica as kill -9 does.
func (r *replica) kill() {
	r.leave(true)
	r.link.Cut()
	_ = r.public.Close()
	r.cut()
	r.stop()
}

// client returns a client with a key; "" is none.
func (w *world) client(key string) *client.Client { return w.with(client.Options{Key: key}) }

func (w *world) with(o client.Options) *client.Client {
	w.t.Helper()
	o.HTTPClient = w.http
	c, err := client.New("http://presence.test", o)
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// put has a user be in a room by a connection of the same name, for five minutes.
func (w *world) put(room, user string) {
	w.t.Helper()
	if _, err := w.client(key).Put(w.t.Context(), room, user, client.Presence{User: user, TTL: 5 * time.Minute}); err != nil {
		w.t.Fatal(err)
	}
}

// follower watches a room, and keeps what it was told.
type follower struct {
	t    *testing.T
	stop context.CancelFunc
	done chan struct{}

	mu   sync.Mutex // guards:
	view client.View
	said []string // by the events, in short
	lost []string // why streams were, in short
	err  error    // the last
}

// follow watches the lobby until the test ends, or stop.
func (w *world) follow(c *client.Client, o client.WatchOptions) *follower {
	ctx, cancel := context.WithCancel(context.Background())
	f := &follower{t: w.t, stop: cancel, done: make(chan struct{})}
	o.Lost = func(err error, wait time.Duration) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.lost = append(f.lost, fmt.Sprintf("%v, %v", err, wait))
	}
	go func() {
		defer close(f.done)
		for e, err := range c.Watch(ctx, "lobby", o) {
			f.mu.Lock()
			if f.err = err; err == nil {
				f.view.Apply(e)
				f.said = append(f.said, short(e))
			}
			f.mu.Unlock()
		}
	}()
	w.t.Cleanup(func() {
		cancel()
		<-f.done
	})
	return f
}

// short is what an event says, in short.
func short(e client.Event) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %d", e.Kind, e.Users)
	for _, l := range e.Leaves {
		fmt.Fprintf(&b, " -%s:%s", l.User, l.Reason)
	}
	for _, m := range e.Updates {
		fmt.Fprintf(&b, " ~%s=%s%s", m.User, m.Name, m.Meta)
	}
	for _, m := range append(e.Members, e.Joins...) {
		fmt.Fprintf(&b, " +%s", m.User)
	}
	if e.Kind == client.KindMode {
		return "mode " + e.Mode
	}
	if e.Stale {
		b.WriteString(" stale")
	}
	return b.String()
}

// expect fails the test unless the events since the last call say that.
func (f *follower) expect(want ...string) {
	f.t.Helper()
	time.Sleep(200 * time.Millisecond) // longer than the window
	synctest.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	if !slices.Equal(f.said, want) {
		f.t.Errorf("got %q, want %q", f.said, want)
	}
	f.said = nil
}

// sees fails the test unless the view is what the server lists.
func (f *follower) sees(c *client.Client) {
	f.t.Helper()
	var listed []client.Member
	for m, err := range c.Members(f.t.Context(), "lobby") {
		if err != nil {
			f.t.Fatal(err)
		}
		listed = append(listed, m)
	}
	now, err := c.Room(f.t.Context(), "lobby")
	if err != nil {
		f.t.Fatal(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !slices.IsSortedFunc(f.view.Members, func(a, b client.Member) int { return a.Since.Compare(b.Since) }) {
		f.t.Error("members are in no order")
	}
	if got, want := text(f.view.Members), text(listed); !f.view.Complete || f.view.Stale || got != want {
		f.t.Errorf("complete %v, stale %v: sees %q, not %q", f.view.Complete, f.view.Stale, got, want)
	}
	if f.view.Users != now.Users || f.view.Connections != now.Connections || f.view.Version != now.Version || f.view.Room != now.Room {
		f.t.Errorf("sees %+v, not %+v", f.view.Occupancy, now)
	}
}

// text is what members say, by user: many come in one millisecond.
func text(members []client.Member) string {
	lines := make([]string, len(members))
	for i, m := range members {
		lines[i] = fmt.Sprintf("%s=%s%s*%d since %d", m.User, m.Name, m.Meta, m.Connections, m.Since.UnixMilli())
	}
	slices.Sort(lines)
	return strings.Join(lines, " ")
}

// ended waits until the loop has ended, and returns its last error.
func (f *follower) ended() error {
	<-f.done
	return f.err
}

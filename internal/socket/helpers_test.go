package socket

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	// livetemplate logs to the default logger, a line for each connection.
	slog.SetDefault(slog.New(slog.DiscardHandler))
	goleak.VerifyTestMain(m,
		// livetemplate.New starts one for a store that nobody can close.
		goleak.IgnoreTopFunction("github.com/livetemplate/livetemplate.(*MemorySessionStore).cleanupLoop"))
}

// patience is how long a test waits for something that must happen.
const patience = 10 * time.Second

// fixture is a server that upgrades requests and reads messages, on a loopback socket.
type fixture struct {
	t     *testing.T
	up    *Upgrader
	reg   *prometheus.Registry
	url   string
	conns chan *Conn  // each that was accepted
	got   chan string // each message that was passed on
	errs  chan error  // how each ReadMessage or Upgrade ended
	ended chan string // the reason of each end of a connection
}

// serve starts a fixture. At the end of the test it closes everything that is open.
func serve(t *testing.T, opts Options) *fixture {
	t.Helper()
	f := newFixture(t, opts)
	f.listen(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := f.up.Upgrade(w, r, nil)
		if err != nil {
			f.errs <- err
			return
		}
		for {
			_, p, err := c.ReadMessage()
			if err != nil {
				f.errs <- err
				return
			}
			f.got <- string(p)
		}
	}))
	return f
}

func newFixture(t *testing.T, opts Options) *fixture {
	f := &fixture{
		t:     t,
		reg:   prometheus.NewRegistry(),
		conns: make(chan *Conn, 1000),
		got:   make(chan string, 1000),
		errs:  make(chan error, 1000),
		ended: make(chan string, 1000),
	}
	opts.Registerer = f.reg
	opts.Logger = slog.New(reasons(f.ended))
	opts.OnUpgrade = func(_ *http.Request, c *Conn) { f.conns <- c }
	if opts.Actions == nil {
		opts.Actions = []string{"join", "leave"}
	}
	f.up = New(opts)
	f.up.grace = 200 * time.Millisecond
	return f
}

func (f *fixture) listen(h http.Handler) {
	server := httptest.NewServer(h)
	f.url = "ws" + strings.TrimPrefix(server.URL, "http")
	f.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := f.up.Drain(ctx, 0); err != nil {
			f.t.Error(err)
		}
		server.Close()
	})
}

// reasons is a slog.Handler that collects the reason of each record.
type reasons chan string

func (reasons) Enabled(context.Context, slog.Level) bool { return true }
func (r reasons) WithAttrs([]slog.Attr) slog.Handler     { return r }
func (r reasons) WithGroup(string) slog.Handler          { return r }
func (r reasons) Handle(_ context.Context, record slog.Record) error {
	record.Attrs(func(a slog.Attr) bool {
		if a.Key == "reason" {
			r <- a.Value.String()
		}
		return true
	})
	return nil
}

// peer is a test's client.
type peer struct {
	t *testing.T
	*websocket.Conn
}

func (f *fixture) dial(header http.Header) *peer {
	f.t.Helper()
	ws, response, err := websocket.DefaultDialer.Dial(f.url, header)
	if err != nil {
		f.t.Fatalf("dial: %v (%v)", err, response)
	}
	response.Body.Close()
	f.t.Cleanup(func() { ws.Close() })
	return &peer{f.t, ws}
}

// join dials, and returns both ends.
func (f *fixture) join() (*peer, *Conn) {
	f.t.Helper()
	p := f.dial(nil)
	return p, next(f.t, f.conns)
}

func (p *peer) send(frame string) {
	p.t.Helper()
	if err := p.WriteMessage(websocket.TextMessage, []byte(frame)); err != nil {
		p.t.Fatalf("send %.80s: %v", frame, err)
	}
}

// read returns the next message, and answers control frames in between.
func (p *peer) read() string {
	p.t.Helper()
	_ = p.SetReadDeadline(time.Now().Add(patience))
	_, data, err := p.ReadMessage()
	if err != nil {
		p.t.Fatalf("read: %v", err)
	}
	return string(data)
}

// wantFrame fails the test if the next message is not want.
func (p *peer) wantFrame(want string) {
	p.t.Helper()
	if got := p.read(); got != want {
		p.t.Errorf("got the frame %.200s\nwant %s", got, want)
	}
}

// wantClose reads to the end of the connection, which must be a close frame with code.
func (p *peer) wantClose(code int) {
	p.t.Helper()
	_ = p.SetReadDeadline(time.Now().Add(patience))
	for {
		_, _, err := p.ReadMessage()
		if err == nil {
			continue
		}
		var closed *websocket.CloseError
		if !errors.As(err, &closed) || closed.Code != code {
			p.t.Fatalf("got the end %v, want close code %d", err, code)
		}
		return
	}
}

// wantGone reads until the server has closed the socket.
func (p *peer) wantGone() {
	p.t.Helper()
	_ = p.NetConn().SetReadDeadline(time.Now().Add(patience))
	if _, err := io.Copy(io.Discard, p.NetConn()); errors.Is(err, os.ErrDeadlineExceeded) {
		p.t.Fatal("the socket is still open")
	}
}

// halfClose closes the peer's sending side. The peer may still read.
func (p *peer) halfClose() {
	p.t.Helper()
	if err := p.NetConn().(*net.TCPConn).CloseWrite(); err != nil {
		p.t.Fatal(err)
	}
}

// next returns the next value of a channel.
func next[T any](t *testing.T, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatal("nothing happened")
		panic("unreachable")
	}
}

// wantEnd waits for the end of a connection, which must have that reason.
func (f *fixture) wantEnd(reason string) {
	f.t.Helper()
	if got := next(f.t, f.ended); got != reason {
		f.t.Errorf("the connection ended for %q, want %q", got, reason)
	}
	if n := f.metric("presence_socket_closes_total", reason); n < 1 {
		f.t.Errorf("closes_total{reason=%q} is %v", reason, n)
	}
}

// metric returns the value of a metric with that reason, or of a metric without labels.
func (f *fixture) metric(name, reason string) float64 {
	f.t.Helper()
	families, err := f.reg.Gather()
	if err != nil {
		f.t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if family.GetName() != name || reason != "" && m.GetLabel()[0].GetValue() != reason {
				continue
			}
			return m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	f.t.Fatalf("there is no metric %s{reason=%q}", name, reason)
	return 0
}

// soon fails the test if f takes so long that it must have waited for a peer.
func soon(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		t.Fatalf("%s waits", what)
	}
}

// joinTight dials, and returns both ends. The kernel's buffers are so small that a peer
// which does not read soon stalls the server's writes.
func (f *fixture) joinTight() (*peer, *Conn) {
	f.t.Helper()
	p, c := f.join()
	if err := p.NetConn().(*net.TCPConn).SetReadBuffer(16 << 10); err != nil {
		f.t.Fatal(err)
	}
	if err := c.ws.NetConn().(*net.TCPConn).SetWriteBuffer(16 << 10); err != nil {
		f.t.Fatal(err)
	}
	return p, c
}

// huge is more than the kernel takes for a peer of joinTight that does not read.
var huge = make([]byte, 256<<10)

// waitFor polls until a condition holds.
func waitFor(t *testing.T, what string, is func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !is(); {
		if now := <-tick.C; now.After(deadline) {
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

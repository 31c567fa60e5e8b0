package harness

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"net/http"
	"net/http/cookiejar"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"presence/test/page"
)

// Options describe a visitor. The zero value has a browser of its own, looks at
// the lobby, reconnects and reads no names.
type Options struct {
	// Room is the path of the page; "" is the lobby's.
	Room string

	// Browser is shared by tabs; nil is a new one. Tab is the tab's key; "" is
	// a new one.
	Browser *Browser
	Tab     string

	// Still keeps the visitor from reconnecting: one socket, then none.
	Still bool

	// Names has the roster kept. Crowds do without.
	Names bool

	// PingEvery and PongTimeout replace the client's 6 s and 3 s, for tests
	// that scale all times down.
	PingEvery   time.Duration
	PongTimeout time.Duration

	// Patience is how long the visitor waits for an answer; 0 means 10 s. It is
	// no promise: a crowd shares its machine with the server.
	Patience time.Duration

	// Address is sent as X-Forwarded-For, for crowds whose limits by address
	// are not the subject. The replica must trust the loopback interface.
	Address string
}

// Browser is the memory that a visitor's tabs share.
type Browser struct{ jar http.CookieJar }

// NewBrowser returns a browser that was never here.
func NewBrowser() *Browser {
	jar, _ := cookiejar.New(nil) // never fails
	return &Browser{jar: jar}
}

// Visitor is a person who has one page open in one tab, and speaks the browser's
// protocol. Its methods may be called from several goroutines.
type Visitor struct {
	t    testing.TB
	opts Options
	http *http.Client
	ws   *websocket.Dialer

	ctx    context.Context //nolint:containedctx // ends when the tab is closed
	cancel context.CancelFunc
	ended  chan struct{} // closed when the last goroutine of the visitor has ended

	loaded bool // the page is there; owned by open and run, one after the other

	mu         sync.Mutex // guards:
	bases      []string   // where to connect, the first being in use
	conn       *websocket.Conn
	live       bool // the first frame of conn has come
	tree       page.Tree
	history    []Sight
	endings    []Ending
	frames     int
	problem    error
	crashed    bool // the tab ended without a farewell
	waiting    []*waiter
	unanswered time.Time // when the first ping was sent that has no answer yet; zero if all have

	// The answers to buttons:
	pending []string    // the actions of actAll that have no answer yet
	answers chan answer // of actAll; nil while nobody waits
	leaving bool        // Leave was pressed and has no answer yet

	// Whom the page joins as, and joins again by itself:
	mark      string      // of the user that the last form joined, from the address of the page that followed it
	adopt     string      // that mark, until this tab is that user
	remember  string      // the name to join under again
	wasJoined bool        // in the room, through this connection
	asked     bool        // it has asked to join by itself, and does not ask again before retry
	refusals  int         // how often it has asked since it was last joined
	retry     *time.Timer // of the next time it may ask

	writing sync.Mutex // guards writing to conn
}

// Open opens the page at one of the base URLs, and returns when it is live; the
// others are where the visitor tries next when a connection is lost. The test
// fails if the page does not become live.
func Open(t testing.TB, opts Options, bases ...string) *Visitor {
	t.Helper()
	v := newVisitor(t, opts, bases)
	if err := v.open(); err != nil {
		t.Fatalf("open %s: %v", bases[0]+v.opts.Room, err)
	}
	return v
}

// Visit is Open for a page that may become live later or never: it goes on trying
// in the background.
func Visit(t testing.TB, opts Options, bases ...string) *Visitor {
	t.Helper()
	v := newVisitor(t, opts, bases)
	v.visit()
	return v
}

func newVisitor(t testing.TB, opts Options, bases []string) *Visitor {
	if opts.Browser == nil {
		opts.Browser = NewBrowser()
	}
	if opts.Tab == "" {
		opts.Tab = rand.Text()
	}
	if opts.Room == "" {
		opts.Room = "/"
	}
	if opts.PingEvery == 0 {
		opts.PingEvery = pingEvery
	}
	if opts.PongTimeout == 0 {
		opts.PongTimeout = pongTimeout
	}
	if opts.Patience == 0 {
		opts.Patience = answerTimeout
	}
	ctx, cancel := context.WithCancel(context.Background())
	return &Visitor{
		t:    t,
		opts: opts,
		http: &http.Client{Jar: opts.Browser.jar, Transport: transport, Timeout: 2 * opts.Patience},
		ws: &websocket.Dialer{
			Jar:              opts.Browser.jar,
			HandshakeTimeout: openTimeout,
			ReadBufferSize:   1 << 10,
			WriteBufferSize:  1 << 10,
			WriteBufferPool:  writeBuffers,
		},
		ctx:    ctx,
		cancel: cancel,
		ended:  make(chan struct{}),
		bases:  slices.Clone(bases),
	}
}

func (v *Visitor) visit() {
	v.cleanUp()
	go v.run(nil, make(chan error, 1))
}

// open loads the page, connects, and starts what keeps the visitor live.
func (v *Visitor) open() error {
	v.cleanUp()
	conn, err := v.arrive()
	if err != nil {
		close(v.ended)
		return err
	}
	first := make(chan error, 1)
	go v.run(conn, first)
	select {
	case err := <-first:
		return err
	case <-time.After(v.opts.Patience):
		return fmt.Errorf("%w: no first frame within %v", ErrNotLive, v.opts.Patience)
	}
}

// cleanUp closes the tab at the end of the test, and fails it if the server ever
// sent what no client understands.
func (v *Visitor) cleanUp() {
	v.t.Cleanup(func() {
		v.Close()
		if err := v.Problem(); err != nil {
			v.t.Errorf("what the server sent was wrong: %v", err)
		}
	})
}

// Close closes the tab: the browser sends 1001 and the visitor is gone.
func (v *Visitor) Close() {
	v.cancel()
	<-v.ended
}

// Crash ends the tab as a crashed browser does: with a TCP reset, without a
// farewell.
func (v *Visitor) Crash() {
	v.mu.Lock()
	v.crashed = true
	if v.conn != nil {
		if tcp, ok := v.conn.NetConn().(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		_ = v.conn.NetConn().Close()
	}
	v.mu.Unlock()
	v.Close()
}

// Reload loads the page again in the same tab, as F5 does: the old socket is
// closed with 1001. It returns a visitor who takes over the tab; the old one has
// ended.
func (v *Visitor) Reload() *Visitor {
	v.t.Helper()
	next := v.successor()
	if err := next.open(); err != nil {
		v.t.Fatalf("reload: %v", err)
	}
	return next
}

// Revisit is Reload for a page that may become live later or never: like [Visit] it goes
// on trying in the background.
func (v *Visitor) Revisit() *Visitor {
	next := v.successor()
	next.visit()
	return next
}

// successor closes the page, and returns a visitor who has the tab.
func (v *Visitor) successor() *Visitor {
	v.Close()
	next := newVisitor(v.t, v.opts, v.bases)
	next.remember, next.adopt = v.remember, v.adopt // sessionStorage survives
	return next
}

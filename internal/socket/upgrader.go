package socket

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	"github.com/livetemplate/livetemplate"
	"github.com/prometheus/client_golang/prometheus"

	"presence/internal/forwarded"
	"presence/internal/wire"
)

// Defaults of [Options].
const (
	// DefaultPingInterval keeps the idle timeouts of common balancers (50 s and
	// more) from ever being reached.
	DefaultPingInterval = 15 * time.Second

	// DefaultPongTimeout is what a phone may need to change its network.
	DefaultPongTimeout = 10 * time.Second

	// DefaultWriteTimeout is how long a frame may take into the peer's window.
	DefaultWriteTimeout = 5 * time.Second

	// DefaultMaxMessage is some hundred times a join with the longest name.
	DefaultMaxMessage = 8 << 10

	// DefaultRate and DefaultBurst are messages a second: nobody clicks faster.
	DefaultRate  = 10
	DefaultBurst = 20
)

const (
	// pingRate and pingBurst bound what a peer may have answered as pings, its
	// heartbeat (every 2 s at most, and none while hidden) and control frames
	// together.
	pingRate  = 5
	pingBurst = 20

	// excessBurst is how many messages in a row beyond its rate a peer may send
	// before it is closed.
	excessBurst = 100

	// closeGrace is how long the peer has to take and answer a close frame.
	closeGrace = 2 * time.Second
)

var (
	// ErrCapacity is returned by [Upgrader.Upgrade] for a connection beyond
	// MaxConnections or MaxPerIP; the peer was told to try again later (1013).
	ErrCapacity = errors.New("socket: too many connections")

	// ErrDraining is returned by [Upgrader.Upgrade] for a connection that came
	// after [Upgrader.Drain] began; the peer was told of a restart (1012).
	ErrDraining = errors.New("socket: draining")

	// ErrHandshake is returned by [Upgrader.Upgrade] for a request that is no proper
	// handshake, or of an origin that is not allowed; it was answered with an HTTP
	// error.
	ErrHandshake = errors.New("socket: no upgrade")
)

// Options are the settings of an [Upgrader]. The zero value is a safe server
// that passes on no action; numbers and durations that are not positive stand
// for the default or, where so said, for no limit.
type Options struct {
	// Logger gets one debug line for each connection's end, without anything
	// that names the visitor. Nil discards it.
	Logger *slog.Logger

	// CheckOrigin reports whether a page of the request's Origin may connect; if
	// not, the answer is 403. Nil takes [forwarded.SameOrigin].
	CheckOrigin func(*http.Request) bool

	// Actions are those that are passed on from the wire, by their literal
	// names. All others are dropped and counted, but for the client's __ping__,
	// which is answered here.
	Actions []string

	// MaxConnections and MaxPerIP limit the open connections, in all and of one
	// address; 0 is no limit. A connection beyond is accepted and closed at once
	// with 1013.
	MaxConnections int
	MaxPerIP       int

	// RemoteIP returns the address to which MaxPerIP applies. Nil takes the
	// host of RemoteAddr, which behind a proxy is the proxy's.
	RemoteIP func(*http.Request) string

	// PingInterval is the distance of two pings to a peer. One from which
	// nothing was heard for PingInterval + PongTimeout is dropped.
	PingInterval time.Duration
	PongTimeout  time.Duration

	// WriteTimeout is how long one frame may take to be written.
	WriteTimeout time.Duration

	// MaxMessage is the longest message of a peer, in bytes; beyond, it is
	// closed with 1009.
	MaxMessage int64

	// Rate and Burst limit each peer's messages, other than pings: Rate of them
	// a second, and Burst at once. One beyond is not passed on; if it asks for an
	// action, it is answered with a _rate_limit error. A peer that goes on, more
	// than 100 messages too many, is closed with 1008.
	Rate  float64
	Burst int

	// OnUpgrade is called with each accepted connection before livetemplate gets
	// it, so before Mount. It must not block. Connections that are closed at once
	// are not among them. May be nil.
	OnUpgrade func(r *http.Request, c *Conn)

	// Registerer gets the metrics; nil means none. An Upgrader registers its
	// metrics once, so two can't share a Registerer.
	Registerer prometheus.Registerer
}

// Upgrader turns requests into connections and keeps account of them. It
// implements livetemplate.WSUpgrader. Only [New] makes one.
type Upgrader struct {
	opts    Options
	ws      websocket.Upgrader
	filter  wire.Filter
	metrics metrics
	grace   time.Duration // closeGrace, shorter in tests
	buffers sync.Pool     // of *bytes.Buffer, for messages while they are read

	drained chan struct{} // closed when a drain has begun and no connection is left

	mu       sync.Mutex // guards:
	conns    map[*Conn]struct{}
	taken    int            // places of MaxConnections: conns, and upgrades under way
	perIP    map[string]int // the same by address, if MaxPerIP is set
	draining bool
}

var _ livetemplate.WSUpgrader = (*Upgrader)(nil)

// New returns an Upgrader. It works at once, but pings nobody and drops no
// silent peer before [Upgrader.Run] is called.
func New(opts Options) *Upgrader {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.CheckOrigin == nil {
		opts.CheckOrigin = forwarded.SameOrigin
	}
	if opts.RemoteIP == nil {
		opts.RemoteIP = remoteHost
	}
	opts.PingInterval = positive(opts.PingInterval, DefaultPingInterval)
	opts.PongTimeout = positive(opts.PongTimeout, DefaultPongTimeout)
	opts.WriteTimeout = positive(opts.WriteTimeout, DefaultWriteTimeout)
	opts.MaxMessage = positive(opts.MaxMessage, DefaultMaxMessage)
	opts.Rate = positive(opts.Rate, DefaultRate)
	opts.Burst = positive(opts.Burst, DefaultBurst)
	u := &Upgrader{
		opts: opts,
		ws: websocket.Upgrader{
			HandshakeTimeout: opts.WriteTimeout,
			// Most messages are shorter than this, and a connection keeps it.
			ReadBufferSize: 1 << 10,
			// Taken from the pool for the time of a write only.
			WriteBufferSize: 4 << 10,
			WriteBufferPool: &sync.Pool{},
			CheckOrigin:     opts.CheckOrigin,
		},
		filter:  wire.NewFilter(opts.Actions),
		grace:   closeGrace,
		drained: make(chan struct{}),
		conns:   make(map[*Conn]struct{}),
		perIP:   make(map[string]int),
	}
	u.metrics = newMetrics(opts.Registerer, func() float64 { return float64(u.Len()) })
	return u
}

// positive returns v if it is, else the default.
func positive[T int | int64 | float64 | time.Duration](v, def T) T {
	if v > 0 {
		return v
	}
	return def
}

// Upgrade makes a WebSocket connection of a request; header is added to the
// response. If it can't, it has answered the request with an HTTP error.
//
// For a connection too many, or one during a drain, the error is [ErrCapacity]
// or [ErrDraining], and the peer has had its upgrade and a close frame.
func (u *Upgrader) Upgrade(w http.ResponseWriter, r *http.Request, header http.Header) (livetemplate.WSConn, error) {
	ip := u.opts.RemoteIP(r)
	refusal := u.take(ip)
	ws, err := u.ws.Upgrade(w, r, header)
	if err != nil {
		if refusal == nil {
			u.release(ip)
		}
		return nil, fmt.Errorf("%w: %w", ErrHandshake, err)
	}
	if refusal != nil {
		return nil, u.refuse(ws, refusal)
	}
	c := newConn(u, ws, ip)
	if err := u.add(c); err != nil {
		u.release(ip)
		return nil, u.refuse(ws, err)
	}
	if u.opts.OnUpgrade != nil {
		u.opts.OnUpgrade(r, c)
	}
	return c, nil
}

// Len returns the number of open connections. Those that are being closed count
// until their sockets are.
func (u *Upgrader) Len() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.conns)
}

// take takes a place for a connection from ip, or says why there is none.
func (u *Upgrader) take(ip string) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case u.draining:
		return ErrDraining
	case u.opts.MaxConnections > 0 && u.taken >= u.opts.MaxConnections,
		u.opts.MaxPerIP > 0 && u.perIP[ip] >= u.opts.MaxPerIP:
		return ErrCapacity
	}
	u.taken++
	if u.opts.MaxPerIP > 0 {
		u.perIP[ip]++
	}
	return nil
}

// release gives a place back.
func (u *Upgrader) release(ip string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.releaseLocked(ip)
}

func (u *Upgrader) releaseLocked(ip string) {
	u.taken--
	if u.opts.MaxPerIP > 0 {
		if u.perIP[ip]--; u.perIP[ip] <= 0 {
			delete(u.perIP, ip)
		}
	}
}

// add enters c, unless a drain began since its place was taken.
func (u *Upgrader) add(c *Conn) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.draining {
		return ErrDraining
	}
	u.conns[c] = struct{}{}
	return nil
}

// remove takes c out, whose socket is closed.
func (u *Upgrader) remove(c *Conn, reason string) {
	u.metrics.closes.WithLabelValues(reason).Inc()
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.conns, c)
	u.releaseLocked(c.ip)
	if u.draining && len(u.conns) == 0 {
		close(u.drained) // only once: a drain lets no connection in
	}
}

// refuse closes a socket that was accepted only for that, and returns why.
func (u *Upgrader) refuse(ws *websocket.Conn, why error) error {
	code, text := websocket.CloseTryAgainLater, "try again later"
	if errors.Is(why, ErrDraining) {
		code, text = websocket.CloseServiceRestart, "service restart"
	}
	// Nothing was written to this socket yet but the handshake: there is room
	// for the frame, and no need to wait for the peer.
	_ = ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, text), time.Now().Add(time.Second))
	_ = ws.Close()
	u.metrics.closes.WithLabelValues(reasonOf(code)).Inc()
	return why
}

// remoteHost returns the address from which the request's connection comes.
func remoteHost(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

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
	// DefaultPingInterval is shorter than the idle timeouts of common balancers (50 s and
	// more).
	DefaultPingInterval = 15 * time.Second

	// DefaultPongTimeout is the time that a phone may need to change its network.
	DefaultPongTimeout = 10 * time.Second

	// DefaultWriteTimeout is how long writing a frame may take.
	DefaultWriteTimeout = 5 * time.Second

	// DefaultMaxMessage is some hundred times the size of a join with the longest name.
	DefaultMaxMessage = 8 << 10

	// DefaultRate is in messages a second, and DefaultBurst in messages. Nobody clicks
	// faster.
	DefaultRate  = 10
	DefaultBurst = 20
)

const (
	// pingRate and pingBurst limit a peer's pings: its heartbeats (one in 2 s at most,
	// and none while the page is hidden) and its control frames together.
	pingRate  = 5
	pingBurst = 20

	// excessBurst is how many messages beyond its rate a peer may send in a row before
	// its connection is closed.
	excessBurst = 100

	// closeGrace is how long the peer has to read and answer a close frame.
	closeGrace = 2 * time.Second
)

var (
	// ErrCapacity is returned by [Upgrader.Upgrade] for a connection beyond
	// MaxConnections or MaxPerIP. The peer was told to try again later (1013).
	ErrCapacity = errors.New("socket: too many connections")

	// ErrDraining is returned by [Upgrader.Upgrade] for a connection that came after
	// [Upgrader.Drain] began. The peer was told of a restart (1012).
	ErrDraining = errors.New("socket: draining")

	// ErrHandshake is returned by [Upgrader.Upgrade] for a request that is not a valid
	// handshake, or whose origin is not allowed. The request was answered with an HTTP
	// error.
	ErrHandshake = errors.New("socket: no upgrade")
)

// Options are the settings of an [Upgrader]. The zero value is a safe server that passes
// on no action. A number or duration that is not positive stands for the default or,
// where stated, for no limit.
type Options struct {
	// Logger gets one debug line for each connection that ends. The line does not
	// identify the visitor. Nil discards it.
	Logger *slog.Logger

	// CheckOrigin reports whether a page of the request's Origin may connect; if
	// not, the answer is 403. Nil takes [forwarded.SameOrigin].
	CheckOrigin func(*http.Request) bool

	// Actions are the actions that are passed on, by their exact names. All others are
	// dropped and counted, except the client's __ping__, which is answered here.
	Actions []string

	// MaxConnections limits the open connections, and MaxPerIP those of one address; 0 is
	// no limit. A connection beyond a limit is accepted and closed at once with 1013.
	MaxConnections int
	MaxPerIP       int

	// RemoteIP returns the address that MaxPerIP counts. Nil uses the host of RemoteAddr,
	// which behind a proxy is the proxy.
	RemoteIP func(*http.Request) string

	// PingInterval is the time between two pings to a peer. A peer from which nothing was
	// received for PingInterval + PongTimeout is dropped.
	PingInterval time.Duration
	PongTimeout  time.Duration

	// WriteTimeout is how long one frame may take to be written.
	WriteTimeout time.Duration

	// MaxMessage is the longest message of a peer, in bytes. A longer one closes the
	// connection with 1009.
	MaxMessage int64

	// Rate and Burst limit each peer's messages, not counting pings: Rate messages a
	// second, and Burst at once. A message beyond that is not passed on. If it asks for
	// an action, it is answered with a _rate_limit error. After more than 100 such
	// messages the connection is closed with 1008.
	Rate  float64
	Burst int

	// OnUpgrade is called with each accepted connection before livetemplate gets it, so
	// before Mount. It must not block. It is not called for connections that are closed
	// at once. May be nil.
	OnUpgrade func(r *http.Request, c *Conn)

	// Registerer gets the metrics; nil means none. An Upgrader registers its metrics
	// once, so two Upgraders can't share a Registerer.
	Registerer prometheus.Registerer
}

// Upgrader turns requests into connections, and counts them. It implements
// livetemplate.WSUpgrader. Use [New] to make one.
type Upgrader struct {
	opts    Options
	ws      websocket.Upgrader
	filter  wire.Filter
	metrics metrics
	grace   time.Duration // closeGrace, shorter in tests
	buffers sync.Pool     // of *bytes.Buffer, for messages while they are read
	writers sync.Pool     // of *writer

	drained chan struct{} // closed when a drain has begun and no connection is left

	mu       sync.Mutex // guards:
	conns    map[*Conn]struct{}
	taken    int            // places of MaxConnections in use: by conns, and by upgrades under way
	perIP    map[string]int // places by address, if MaxPerIP is set
	draining bool
}

var _ livetemplate.WSUpgrader = (*Upgrader)(nil)

// New returns an Upgrader. It accepts connections at once. It pings peers and drops
// silent ones only while [Upgrader.Run] runs.
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
			// Of the handshake only.
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

// positive returns v if v is positive, else def.
func positive[T int | int64 | float64 | time.Duration](v, def T) T {
	if v > 0 {
		return v
	}
	return def
}

// Upgrade upgrades a request to a WebSocket connection. It adds header to the response.
// If it returns [ErrHandshake], it has answered the request with an HTTP error.
//
// If there are too many connections, or during a drain, it returns [ErrCapacity] or
// [ErrDraining]; then the peer got its upgrade and a close frame.
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

// take reserves a place for a connection from ip, or returns the reason why there is
// none.
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

// release frees a place.
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

// add adds c, unless a drain has begun since its place was reserved.
func (u *Upgrader) add(c *Conn) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.draining {
		return ErrDraining
	}
	u.conns[c] = struct{}{}
	return nil
}

// remove removes c, whose socket is closed.
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
	// Only the handshake was written to this socket so far. So the frame fits into the
	// kernel's buffer, and this does not wait for the peer.
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

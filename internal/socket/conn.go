package socket

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/gorilla/websocket"
	"github.com/livetemplate/livetemplate"
	"golang.org/x/time/rate"

	"presence/internal/wire"
)

const (
	// maxQueueFrames and maxQueueBytes bound what waits for one peer. The first
	// is some seconds of pushes at their highest pace; a single frame may be of
	// any size.
	maxQueueFrames = 64
	maxQueueBytes  = 1 << 20

	// echoTimeout is how long the peer's close frame waits for our answer to be
	// written. It is a courtesy: the peer has left already.
	echoTimeout = 200 * time.Millisecond
)

// Conn is one peer's connection. It implements livetemplate.WSConn.
//
// One goroutine may call ReadMessage; everything else may be called from any
// number of them, and nothing but ReadMessage waits for the peer.
type Conn struct {
	u    *Upgrader
	ws   *websocket.Conn
	ip   string
	born time.Time

	heard   atomic.Int64                       // when the peer was last heard, as time since born
	asked   atomic.Int64                       // when the ping was sent that was answered last, likewise
	through atomic.Pointer[func([]byte) error] // of Through

	// Of the goroutine that calls ReadMessage.
	messages *rate.Limiter // what is passed on
	excess   *rate.Limiter // what is borne beyond that
	pings    *rate.Limiter

	nextPing time.Time // of the goroutine that calls Run

	mu         sync.Mutex // guards:
	queue      []outgoing // what waits to be written
	queued     int        // bytes in queue
	writing    bool       // a goroutine writes the queue; it clears this and ends when all is written
	onceQueued once
	closing    bool        // the server closes: no more is queued, and what comes in is discarded
	endWritten bool        // end when the queue is written
	deadline   *time.Timer // ends a close that takes too long
	ended      bool        // the socket is closed
	reason     string      // of the end, as soon as one is known
}

// outgoing is a frame that waits to be written.
type outgoing struct {
	kind int // a message type of RFC 6455, section 11.8
	data []byte
	once once
	sent func() // of Send; may be nil
}

// settled is called with each frame once it has been written, or never will be.
func (f outgoing) settled() {
	if f.sent != nil {
		f.sent()
	}
}

// once names frames of which a second says no more while the first is still
// queued. They do not pile up for a peer that asks for them faster than it reads.
type once uint8

const (
	oncePing    once = 1 << iota
	oncePong         // the answer to the client's heartbeat
	onceLimited      // any one answer releases the form that waits
)

var _ livetemplate.WSConn = (*Conn)(nil)

func newConn(u *Upgrader, ws *websocket.Conn, ip string) *Conn {
	c := &Conn{
		u:        u,
		ws:       ws,
		ip:       ip,
		born:     time.Now(),
		messages: rate.NewLimiter(rate.Limit(u.opts.Rate), u.opts.Burst),
		excess:   rate.NewLimiter(rate.Limit(u.opts.Rate), excessBurst),
		pings:    rate.NewLimiter(pingRate, pingBurst),
	}
	c.nextPing = firstPing(c.born, u.opts.PingInterval)
	ws.SetPongHandler(func(payload string) error {
		c.hear()
		c.answered(payload)
		return nil
	})
	ws.SetPingHandler(func(payload string) error {
		c.hear()
		c.answerPing(outgoing{kind: websocket.PongMessage, data: []byte(payload)})
		return nil
	})
	ws.SetCloseHandler(c.echoClose)
	return c
}

// Heard returns when anything of the peer, a message, a ping or a pong, was last
// received; at first, when it connected. It has a monotonic reading.
func (c *Conn) Heard() time.Time { return c.born.Add(time.Duration(c.heard.Load())) }

func (c *Conn) hear() { c.heard.Store(int64(time.Since(c.born))) }

// Answered returns when that ping of ours was sent which the peer has answered last; zero
// if it has answered none. A peer that answers a ping has not given the connection up when
// the ping was sent; all else that is read from it may have been under way for long. The
// time has a monotonic reading.
func (c *Conn) Answered() time.Time {
	asked := c.asked.Load()
	if asked == 0 {
		return time.Time{}
	}
	return c.born.Add(time.Duration(asked))
}

// pingPayload says when a ping is sent. The peer repeats it in its answer.
func (c *Conn) pingPayload() []byte {
	return binary.BigEndian.AppendUint64(nil, uint64(max(1, time.Since(c.born))))
}

// answered takes the payload of a pong.
func (c *Conn) answered(payload string) {
	if len(payload) != 8 {
		return // to no ping of ours
	}
	asked := int64(binary.BigEndian.Uint64([]byte(payload))) //nolint:gosec // what is too large comes out negative
	if asked > c.asked.Load() && asked <= int64(max(1, time.Since(c.born))) {
		c.asked.Store(asked)
	}
}

// ReadMessage waits for the next message that is to be passed on and returns it
// as a text message of the form
//
//	{"action":"join","data":{…},"submitter":"join"}
//
// with an action of Options.Actions, data an object, and submitter only if there
// was one. All other messages are dealt with here.
//
// It closes the socket before it returns an error. The error is a
// *livetemplate.WSCloseError if the peer closed, with code 1006 if it did so
// without a close frame, and wraps net.ErrClosed if the server did. Errors are
// final.
func (c *Conn) ReadMessage() (messageType int, p []byte, err error) {
	for {
		kind, r, err := c.ws.NextReader()
		if err != nil {
			return 0, nil, c.readFailed(err)
		}
		c.hear()
		if c.isClosing() {
			continue // only the peer's close frame matters now: NextReader skips the rest
		}
		if kind != websocket.TextMessage {
			c.reject(rejectBinary)
			_ = c.CloseWith(websocket.CloseUnsupportedData, "text messages only")
			continue
		}
		frame, err := c.readText(r)
		if err != nil {
			return 0, nil, c.readFailed(err)
		}
		if frame != nil {
			return websocket.TextMessage, frame, nil
		}
	}
}

// readText reads one message and returns what is to be passed on of it, or nil.
func (c *Conn) readText(r io.Reader) ([]byte, error) {
	buf, ok := c.u.buffers.Get().(*bytes.Buffer)
	if !ok {
		buf = new(bytes.Buffer)
	}
	defer c.u.buffers.Put(buf)
	buf.Reset()
	if _, err := buf.ReadFrom(io.LimitReader(r, c.u.opts.MaxMessage+1)); err != nil {
		return nil, err
	}
	c.hear()
	switch {
	case int64(buf.Len()) > c.u.opts.MaxMessage:
		c.reject(rejectTooBig)
		return nil, c.CloseWith(websocket.CloseMessageTooBig, "message too big")
	case !utf8.Valid(buf.Bytes()):
		c.reject(rejectUTF8)
		return nil, c.CloseWith(websocket.CloseInvalidFramePayloadData, "invalid UTF-8")
	}
	return c.accept(c.u.filter.Read(buf.Bytes())), nil
}

// accept applies the limits to a message and returns what is to be passed on of
// it, or nil.
func (c *Conn) accept(in wire.Incoming) []byte {
	if in.Ping {
		c.answerPing(outgoing{kind: websocket.TextMessage, data: []byte(wire.Pong), once: oncePong})
		return nil
	}
	if !c.messages.Allow() {
		c.reject(rejectRate)
		switch {
		case !c.excess.Allow():
			_ = c.CloseWith(websocket.ClosePolicyViolation, "too many messages")
		case in.Action != nil:
			_ = c.enqueue(outgoing{kind: websocket.TextMessage, data: in.Action.Limited, once: onceLimited})
		}
		return nil
	}
	if in.Reject != "" {
		c.reject(in.Reject)
		return nil
	}
	return in.Frame
}

// answerPing answers a ping, or closes if there were too many.
func (c *Conn) answerPing(answer outgoing) {
	if !c.pings.Allow() {
		c.reject(rejectPing)
		_ = c.CloseWith(websocket.ClosePolicyViolation, "too many pings")
		return
	}
	_ = c.enqueue(answer)
}

// reject counts a message that is not passed on.
func (c *Conn) reject(reason string) { c.u.metrics.rejected.WithLabelValues(reason).Inc() }

// echoClose answers the peer's close frame. The reader then gets it as an error.
func (c *Conn) echoClose(code int, _ string) error {
	c.mu.Lock()
	ours := c.closing
	if c.reason == "" {
		c.reason = reasonClient
	}
	c.mu.Unlock()
	if !ours { // else this is the answer
		_ = c.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, ""), time.Now().Add(echoTimeout))
	}
	return nil
}

// readFailed closes the socket after a failed read, and returns the error for
// ReadMessage.
func (c *Conn) readFailed(err error) error {
	ours := c.isClosing()
	var closed *websocket.CloseError
	var op *net.OpError
	switch {
	case errors.As(err, &closed), errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
		c.end(reasonClient, false)
	case errors.Is(err, websocket.ErrReadLimit):
		c.end(reasonTooBig, false) // a length that overflows
	case errors.As(err, &op):
		c.end(reasonError, false)
	default:
		c.end(reasonProtocol, false)
	}
	switch {
	case ours || errors.Is(err, net.ErrClosed):
		return fmt.Errorf("read: %w", net.ErrClosed)
	case closed != nil:
		return &livetemplate.WSCloseError{Code: closed.Code, Text: closed.Text}
	}
	return fmt.Errorf("read: %w", err)
}

// Through has each text frame from livetemplate given to then, cured and in their
// order, instead of being sent: the peer gets what then sends. An error is for
// livetemplate, as that of [Conn.WriteMessage]. It has to be called before
// livetemplate has the connection.
func (c *Conn) Through(then func(frame []byte) error) { c.through.Store(&then) }

// Send queues a text frame and returns without waiting for the peer. The frame is
// not modified, and must not be by the caller; it may be sent to others, too. If sent
// is not nil, it is called once the frame has been written, or never will be. The
// error is that of [Conn.WriteMessage].
func (c *Conn) Send(frame []byte, sent func()) error {
	return c.enqueue(outgoing{kind: websocket.TextMessage, data: frame, sent: sent})
}

// WriteMessage queues a frame from livetemplate and returns without waiting for
// the peer. The frame is not modified, and must not be by the caller.
//
// Three kinds of text frames are cured on the way: a push loses its meta, a push
// of an empty tree is left out, and a null tree becomes an empty one. A close
// frame closes, as [Conn.CloseWith] does.
//
// The error wraps net.ErrClosed once the socket is closed, also when that is
// because the queue is full or an earlier frame failed. While the server closes,
// frames are discarded without an error.
func (c *Conn) WriteMessage(messageType int, data []byte) error {
	switch messageType {
	case websocket.CloseMessage:
		code, text := websocket.CloseNoStatusReceived, ""
		if len(data) >= 2 {
			code, text = int(binary.BigEndian.Uint16(data)), string(data[2:])
		}
		return c.CloseWith(code, text)
	case websocket.TextMessage:
		cured, ok := wire.Cure(data)
		if !ok {
			return nil
		}
		data = cured
		if then := c.through.Load(); then != nil {
			return (*then)(data)
		}
	}
	return c.enqueue(outgoing{kind: messageType, data: data})
}

// Ping sends a ping, after what is queued already; the pong shows in
// [Conn.Heard] and [Conn.Answered]. Pings do not pile up: while one is queued, this does nothing.
// The error wraps net.ErrClosed if the socket is closed.
func (c *Conn) Ping() error { return c.enqueue(outgoing{kind: websocket.PingMessage, once: oncePing}) }

// CloseWith closes the connection with a close code (RFC 6455, section 7.4) and
// a reason for the peer, of which the first 123 bytes are sent. It returns at
// once; the socket is closed when the peer has answered, or 2 s later. If the
// connection is being closed already, it does nothing. The error wraps
// net.ErrClosed if the socket is closed.
func (c *Conn) CloseWith(code int, reason string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return fmt.Errorf("close: %w", net.ErrClosed)
	}
	if c.closing {
		return nil
	}
	c.closing = true
	if c.reason == "" {
		c.reason = reasonOf(code)
	}
	c.deadline = time.AfterFunc(c.u.grace, func() { c.end(reasonError, false) })
	var payload []byte
	if code != websocket.CloseNoStatusReceived { // which must not be sent
		payload = livetemplate.WSFormatCloseMessage(code, reason)
	}
	c.enqueueLocked(outgoing{kind: websocket.CloseMessage, data: payload})
	return nil
}

// Close closes the socket, without a close frame, as soon as what is queued has
// been written, at the latest after Options.WriteTimeout; it does not wait for
// that. A close that is under way takes its course. The error is always nil.
func (c *Conn) Close() error {
	c.mu.Lock()
	if c.ended || c.closing {
		c.mu.Unlock()
		return nil
	}
	c.closing = true
	if c.writing {
		c.endWritten = true
		c.deadline = time.AfterFunc(c.u.opts.WriteTimeout, func() { c.end(reasonError, false) })
		c.mu.Unlock()
		return nil
	}
	c.mu.Unlock()
	c.end(reasonError, false)
	return nil
}

// drop ends the connection of a peer that no longer takes part.
func (c *Conn) drop(reason string) { c.end(reason, true) }

// end closes the socket. The first call counts, and the first reason. With reset
// the kernel forgets what it still has for the peer, instead of trying to
// deliver it for minutes.
func (c *Conn) end(reason string, reset bool) {
	c.mu.Lock()
	if c.ended {
		c.mu.Unlock()
		return
	}
	c.ended = true
	if c.reason == "" {
		c.reason = reason
	}
	reason = c.reason
	queue := c.queue
	c.queue, c.queued = nil, 0
	if c.deadline != nil {
		c.deadline.Stop()
	}
	c.mu.Unlock()
	for _, f := range queue {
		f.settled()
	}

	conn := c.ws.NetConn()
	if reset {
		if t, ok := conn.(*tls.Conn); ok {
			conn = t.NetConn() // without the farewell of TLS, which waits for the peer
		}
		if l, ok := conn.(interface{ SetLinger(sec int) error }); ok {
			_ = l.SetLinger(0)
		}
	}
	_ = conn.Close() // fails only if it is closed
	c.u.remove(c, reason)
	c.u.opts.Logger.Debug("connection ended",
		slog.String("reason", reason), slog.Duration("age", time.Since(c.born)))
}

// Ended reports whether the connection has ended.
func (c *Conn) Ended() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended
}

func (c *Conn) isClosing() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closing
}

// enqueue queues a frame, or drops the peer if its queue is full.
func (c *Conn) enqueue(f outgoing) error {
	c.mu.Lock()
	switch {
	case c.ended:
		c.mu.Unlock()
		f.settled()
		return fmt.Errorf("write: %w", net.ErrClosed)
	case c.closing, c.onceQueued&f.once != 0:
		c.mu.Unlock()
		f.settled()
		return nil
	case f.once == 0 && c.fullLocked(len(f.data)):
		c.mu.Unlock()
		f.settled()
		c.drop(reasonSlow)
		return fmt.Errorf("write: peer is too slow: %w", net.ErrClosed)
	}
	c.enqueueLocked(f)
	c.mu.Unlock()
	return nil
}

// fullLocked reports whether there is no room in the queue for size more bytes.
func (c *Conn) fullLocked(size int) bool {
	return len(c.queue) >= maxQueueFrames || len(c.queue) > 0 && c.queued+size > maxQueueBytes
}

// enqueueLocked queues f in any case and sees to it that the queue is written.
func (c *Conn) enqueueLocked(f outgoing) {
	c.queue = append(c.queue, f)
	c.queued += len(f.data)
	c.onceQueued |= f.once
	if !c.writing {
		c.writing = true
		go c.writeQueue()
	}
}

// writeQueue writes what is queued and ends when that is done or the socket is
// closed; each frame takes at most Options.WriteTimeout.
func (c *Conn) writeQueue() {
	for {
		c.mu.Lock()
		if len(c.queue) == 0 || c.ended {
			c.queue = nil // an idle connection keeps no memory for it
			c.writing = false
			end := c.endWritten
			c.mu.Unlock()
			if end {
				c.end(reasonError, false)
			}
			return
		}
		f := c.queue[0]
		c.queue[0] = outgoing{}
		c.queue = c.queue[1:]
		c.queued -= len(f.data)
		c.onceQueued &^= f.once
		c.mu.Unlock()

		err := c.write(f)
		f.settled()
		if err != nil {
			c.writeFailed(err)
		}
	}
}

// write writes one frame. Only writeQueue calls it: gorilla/websocket allows one
// writer at a time.
func (c *Conn) write(f outgoing) error {
	deadline := time.Now().Add(c.u.opts.WriteTimeout)
	if f.kind == websocket.TextMessage || f.kind == websocket.BinaryMessage {
		_ = c.ws.SetWriteDeadline(deadline) // can't fail
		return c.ws.WriteMessage(f.kind, f.data)
	}
	if f.kind == websocket.PingMessage {
		f.data = c.pingPayload()
	}
	return c.ws.WriteControl(f.kind, f.data, deadline)
}

// writeFailed ends the connection after a failed write: part of a frame may have
// been written, so nothing more can be.
func (c *Conn) writeFailed(err error) {
	var timeout net.Error
	switch {
	case errors.Is(err, websocket.ErrCloseSent):
		// The answer to the peer's close frame went out before this frame: the
		// reader is about to end the connection.
	case errors.As(err, &timeout) && timeout.Timeout():
		c.drop(reasonSlow)
	default:
		c.end(reasonError, false)
	}
}

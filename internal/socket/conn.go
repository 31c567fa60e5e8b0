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

	"presence/internal/nonblock"
	"presence/internal/wire"
)

const (
	// maxQueueFrames and maxQueueBytes bound what waits for one peer. The number of
	// frames is some seconds of pushes at their highest rate. A single frame may have any
	// size.
	maxQueueFrames = 64
	maxQueueBytes  = 1 << 20

	// echoTimeout is how long writing our answer to the peer's close frame may take. The
	// answer is a courtesy, since the peer has left already.
	echoTimeout = 200 * time.Millisecond
)

// Conn is the connection of one peer. It implements livetemplate.WSConn.
//
// Only one goroutine may call ReadMessage. All other methods may be called from any
// number of goroutines, and none of them waits for the peer.
type Conn struct {
	u    *Upgrader
	ws   *websocket.Conn
	ip   string
	born time.Time

	heard   atomic.Int64                       // when anything was last received from the peer, as time since born
	asked   atomic.Int64                       // when the last answered ping was sent, as time since born
	through atomic.Pointer[func([]byte) error] // of Through

	// Used only by the goroutine that calls ReadMessage.
	messages *rate.Limiter // messages that are passed on
	excess   *rate.Limiter // messages beyond that, which are dropped
	pings    *rate.Limiter

	nextPing time.Time // used only by the goroutine that calls Run

	conn net.Conn        // of ws, which only reads
	raw  syscall.RawConn // of conn; nil where writing may wait

	mu         sync.Mutex // guards:
	queue      []outgoing // frames that wait to be written
	queued     int        // bytes in queue
	writing    bool       // a goroutine writes the queue; it clears this when it ends
	onceQueued once
	closing    bool        // nothing more is queued, and input is discarded
	left       bool        // the peer closes, not the server
	endWritten bool        // call end when the queue is written
	deadline   *time.Timer // ends a close that takes too long
	ended      bool        // the socket is closed
	reason     string      // why the connection ended or is ending, once known
}

// outgoing is a frame that waits to be written.
type outgoing struct {
	kind int // a message type of RFC 6455, section 11.8; 0: data is the rest of a frame
	data []byte
	once once
	sent func() // of Send; may be nil
}

// settled is called for each frame, when it has been written or never will be.
func (f outgoing) settled() {
	if f.sent != nil {
		f.sent()
	}
}

// once marks frames that need not be queued again while the first one still waits. So
// they do not pile up for a peer that asks for them faster than it reads.
type once uint8

const (
	oncePing    once = 1 << iota
	oncePong         // the answer to the client's heartbeat
	onceLimited      // one answer is enough for a form that waits
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
	c.conn = ws.NetConn()
	if tcp, ok := c.conn.(*net.TCPConn); ok && nonblock.CanAttempt {
		c.raw, _ = tcp.SyscallConn() // nil if it is closed already
	}
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

// Heard returns when anything was last received from the peer: a message, a ping or a
// pong. At first it returns when the peer connected. The time has a monotonic reading.
func (c *Conn) Heard() time.Time { return c.born.Add(time.Duration(c.heard.Load())) }

func (c *Conn) hear() { c.heard.Store(int64(time.Since(c.born))) }

// Answered returns when the last ping that the peer has answered was sent; zero if it has
// answered none. A peer that answers a ping had not given the connection up when the ping
// was sent. Other input may have been under way for long. The time has a monotonic
// reading.
func (c *Conn) Answered() time.Time {
	asked := c.asked.Load()
	if asked == 0 {
		return time.Time{}
	}
	return c.born.Add(time.Duration(asked))
}

// pingPayload returns the time of the ping. The peer repeats it in its answer.
func (c *Conn) pingPayload() []byte {
	return binary.BigEndian.AppendUint64(nil, uint64(max(1, time.Since(c.born))))
}

// answered takes the payload of a pong.
func (c *Conn) answered(payload string) {
	if len(payload) != 8 {
		return // it answers no ping of ours
	}
	asked := int64(binary.BigEndian.Uint64([]byte(payload))) //nolint:gosec // a value that is too large becomes negative
	if asked > c.asked.Load() && asked <= int64(max(1, time.Since(c.born))) {
		c.asked.Store(asked)
	}
}

// ReadMessage waits for the next message to pass on, and returns it as a text message of
// the form
//
//	{"action":"join","data":{…},"submitter":"join"}
//
// where action is one of Options.Actions, data is an object, and submitter is there only
// if the message had one. ReadMessage handles all other messages itself.
//
// It closes the socket before it returns an error. If the peer closed, the error is a
// *livetemplate.WSCloseError, with code 1006 if there was no close frame. If the server
// closed, the error wraps net.ErrClosed. Errors are final.
func (c *Conn) ReadMessage() (messageType int, p []byte, err error) {
	for {
		kind, r, err := c.ws.NextReader()
		if err != nil {
			return 0, nil, c.readFailed(err)
		}
		c.hear()
		if c.isClosing() {
			continue // NextReader skips everything but the peer's close frame
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

// readText reads one message. It returns the frame to pass on, or nil.
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

// accept applies the limits to a message. It returns the frame to pass on, or nil.
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

// echoClose answers the peer's close frame, after what was queued before it, and waits a
// moment until the answer is written. The reader then gets an error.
func (c *Conn) echoClose(code int, _ string) error {
	c.mu.Lock()
	if c.reason == "" {
		c.reason = reasonClient
	}
	if c.closing || c.ended { // this is the peer's answer to our close frame
		c.mu.Unlock()
		return nil
	}
	c.closing, c.left = true, true
	written := make(chan struct{})
	echo := outgoing{kind: websocket.CloseMessage, data: websocket.FormatCloseMessage(code, ""), sent: func() { close(written) }}
	if c.enqueueLocked(echo) {
		echo.settled()
	}
	c.mu.Unlock()
	timer := time.NewTimer(echoTimeout)
	defer timer.Stop()
	select {
	case <-written:
	case <-timer.C:
	}
	return nil
}

// readFailed closes the socket after a failed read, and returns the error for
// ReadMessage.
func (c *Conn) readFailed(err error) error {
	ours := c.isClosing() && !c.hasLeft()
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

// Through makes each text frame from livetemplate go to then, cured and in order, instead
// of to the peer. The peer gets what then sends. An error of then is returned to
// livetemplate, like that of [Conn.WriteMessage]. Call Through before livetemplate has
// the connection.
func (c *Conn) Through(then func(frame []byte) error) { c.through.Store(&then) }

// Send writes a text frame and returns without waiting for the peer: what the socket does
// not take at once is queued. It does not modify the frame, and the caller must not,
// either; the frame may be sent to others, too. If sent is not nil, it is called when the
// frame has been written or never will be, perhaps before Send returns. The error is that
// of [Conn.WriteMessage].
func (c *Conn) Send(frame []byte, sent func()) error {
	return c.enqueue(outgoing{kind: websocket.TextMessage, data: frame, sent: sent})
}

// WriteMessage sends a frame from livetemplate, as [Conn.Send] does.
//
// Three kinds of text frames are cured: a push loses its meta, a push of an empty tree is
// dropped, and a null tree becomes an empty one. A close frame closes, as
// [Conn.CloseWith] does.
//
// The error wraps net.ErrClosed once the socket is closed, also if it was closed because
// the queue was full or an earlier frame failed. While the server closes, frames are
// discarded without an error.
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

// Ping queues a ping behind the frames that wait. [Conn.Heard] and [Conn.Answered] show
// the pong. While a ping is queued, Ping does nothing. The error wraps net.ErrClosed if
// the socket is closed.
func (c *Conn) Ping() error { return c.enqueue(outgoing{kind: websocket.PingMessage, once: oncePing}) }

// CloseWith closes the connection with a close code (RFC 6455, section 7.4) and a reason
// for the peer, of which it sends the first 123 bytes. It returns at once. The socket is
// closed when the peer has answered, or after 2 s. If the connection is being closed
// already, CloseWith does nothing. The error wraps net.ErrClosed if the socket is closed.
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
	if code != websocket.CloseNoStatusReceived { // this code must not be sent
		payload = livetemplate.WSFormatCloseMessage(code, reason)
	}
	c.enqueueLocked(outgoing{kind: websocket.CloseMessage, data: payload})
	return nil
}

// Close closes the socket without a close frame, once the queue has been written or
// Options.WriteTimeout has passed. It does not wait for that. It does not change a close
// that is under way. The error is always nil.
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

// drop ends the connection of a peer that no longer answers or reads.
func (c *Conn) drop(reason string) { c.end(reason, true) }

// end closes the socket. Only the first call has an effect, and only the first reason
// counts. With reset the kernel discards unsent data instead of trying to deliver them
// for minutes.
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

	conn := c.conn
	if reset {
		if t, ok := conn.(*tls.Conn); ok {
			conn = t.NetConn() // without the close message of TLS, which waits for the peer
		}
		if l, ok := conn.(interface{ SetLinger(sec int) error }); ok {
			_ = l.SetLinger(0)
		}
	}
	_ = conn.Close() // fails only if it is closed already
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

func (c *Conn) hasLeft() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.left
}

// enqueue writes a frame or queues it. It drops the peer if the queue is full.
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
	sent := c.enqueueLocked(f)
	c.mu.Unlock()
	if sent {
		f.settled()
	}
	return nil
}

// fullLocked reports whether the queue has no room for size more bytes.
func (c *Conn) fullLocked(size int) bool {
	return len(c.queue) >= maxQueueFrames || len(c.queue) > 0 && c.queued+size > maxQueueBytes
}

// enqueueLocked takes f in any case. While nothing is queued or being written, it writes
// what the socket takes at once. It reports whether that was all of f, which the caller
// settles; else the rest is queued, and writeQueue settles it.
func (c *Conn) enqueueLocked(f outgoing) (written bool) {
	if !c.writing && c.raw != nil {
		w := c.u.writer()
		defer c.u.writers.Put(w)
		c.encode(w, f)
		n := w.attempt(c.raw)
		if n == len(w.frame) {
			return true
		}
		if n > 0 {
			f.kind, f.data = 0, bytes.Clone(w.frame[n:])
		}
	}
	c.queue = append(c.queue, f)
	c.queued += len(f.data)
	c.onceQueued |= f.once
	if !c.writing {
		c.writing = true
		go c.writeQueue()
	}
	return false
}

// writeQueue writes the queue. It ends when the queue is empty or the socket is closed.
// Each frame takes at most Options.WriteTimeout.
func (c *Conn) writeQueue() {
	for {
		c.mu.Lock()
		if len(c.queue) == 0 || c.ended {
			c.queue = nil // so that an idle connection uses no memory for it
			c.writing = false
			_ = c.conn.SetWriteDeadline(time.Time{}) // fails only if it is closed
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

// write writes one frame, and waits for the peer to take it. Only writeQueue calls it.
func (c *Conn) write(f outgoing) error {
	w := c.u.writer()
	defer c.u.writers.Put(w)
	c.encode(w, f)
	_ = c.conn.SetWriteDeadline(time.Now().Add(c.u.opts.WriteTimeout)) // fails only if it is closed
	_, err := c.conn.Write(w.frame)
	return err
}

// encode has w write f next.
func (c *Conn) encode(w *writer, f outgoing) {
	switch f.kind {
	case 0:
		w.frame = append(w.frame[:0], f.data...)
		return
	case websocket.PingMessage:
		f.data = c.pingPayload()
	}
	w.frame = appendFrame(w.frame[:0], f.kind, f.data)
}

// writeFailed ends the connection after a failed write. A part of a frame may have been
// written, so nothing can follow.
func (c *Conn) writeFailed(err error) {
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		c.drop(reasonSlow)
		return
	}
	c.end(reasonError, false)
}

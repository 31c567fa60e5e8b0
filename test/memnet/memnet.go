// Package memnet is a network in memory. Its connections buffer as sockets do, and their
// deadlines follow the clock of a synctest bubble. A test can hold them up, make them
// deaf, or break them. The simulator runs whole servers over it.
package memnet

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// Conn is one end of a connection. Writes never wait.
type Conn struct {
	in, out       *half
	local, remote net.Addr
}

// New returns both ends of a connection between two addresses.
func New(a, b net.Addr) (*Conn, *Conn) {
	ab, ba := newHalf(), newHalf()
	return &Conn{in: ba, out: ab, local: a, remote: b}, &Conn{in: ab, out: ba, local: b, remote: a}
}

// half is one direction of a connection.
type half struct {
	mu       sync.Mutex // guards:
	wake     *sync.Cond
	buf      []byte
	coming   []chunk       // what arrives later, in order
	takes    time.Duration // the time until a chunk arrives
	held     bool          // nothing arrives, for now
	deaf     bool          // what is written is lost
	written  error         // returned by writes: nobody reads any more
	end      error         // returned by reads after buf
	deadline time.Time
	timer    *time.Timer
}

// chunk has the bytes of one write.
type chunk struct {
	at   time.Time // when it arrives
	data []byte
}

func newHalf() *half {
	h := &half{}
	h.wake = sync.NewCond(&h.mu)
	return h
}

// change changes the half under its lock, and wakes its readers.
func (h *half) change(change func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change()
	h.wake.Broadcast()
}

// Read reads what has arrived.
func (c *Conn) Read(b []byte) (int, error) {
	h := c.in
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case errors.Is(h.end, net.ErrClosed): // on this side
			return 0, h.end
		case !h.deadline.IsZero() && !time.Now().Before(h.deadline):
			return 0, os.ErrDeadlineExceeded
		case h.held:
		case h.arrive():
			n := copy(b, h.buf)
			if h.buf = h.buf[n:]; len(h.buf) == 0 {
				h.buf = nil
			}
			return n, nil
		case h.end != nil && len(h.coming) == 0:
			return 0, h.end
		}
		h.wake.Wait()
	}
}

// arrive reports whether anything has arrived. The caller holds the lock.
func (h *half) arrive() bool {
	for len(h.coming) > 0 && !time.Now().Before(h.coming[0].at) {
		if len(h.buf) == 0 {
			h.buf = h.coming[0].data
		} else {
			h.buf = append(h.buf, h.coming[0].data...)
		}
		h.coming = h.coming[1:]
	}
	return len(h.buf) > 0
}

// Write sends b.
func (c *Conn) Write(b []byte) (int, error) {
	h := c.out
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.written != nil {
		return 0, h.written
	}
	switch {
	case h.deaf:
	case h.takes > 0:
		h.coming = append(h.coming, chunk{time.Now().Add(h.takes), bytes.Clone(b)})
		time.AfterFunc(h.takes, func() { h.change(func() {}) })
	default:
		h.buf = append(h.buf, b...)
		h.wake.Broadcast()
	}
	return len(b), nil
}

// Delay makes bytes arrive only after d, in both directions.
func (c *Conn) Delay(d time.Duration) {
	for _, h := range []*half{c.in, c.out} {
		h.change(func() { h.takes = d })
	}
}

// Close ends the connection. The other end reads the bytes on their way, then io.EOF.
func (c *Conn) Close() error {
	c.out.change(func() {
		if c.out.end == nil {
			c.out.end = io.EOF
		}
		c.out.written = net.ErrClosed
	})
	c.in.change(func() {
		c.in.end, c.in.buf, c.in.coming = net.ErrClosed, nil, nil
		if c.in.written == nil {
			c.in.written = syscall.EPIPE
		}
	})
	return nil
}

// Break ends the connection at both ends at once, as a reset does. Bytes on their way are
// lost.
func (c *Conn) Break() {
	for _, h := range []*half{c.in, c.out} {
		h.change(func() {
			h.buf, h.coming, h.held = nil, nil, false
			if h.end == nil {
				h.end = syscall.ECONNRESET
			}
			if h.written == nil {
				h.written = syscall.ECONNRESET
			}
		})
	}
}

// Hold stops the traffic in both directions, until it is called with false. Nothing is
// lost.
func (c *Conn) Hold(held bool) {
	for _, h := range []*half{c.in, c.out} {
		h.change(func() { h.held = held })
	}
}

// Deafen loses all bytes that the other end sends from now on.
func (c *Conn) Deafen() { c.in.change(func() { c.in.deaf, c.in.buf, c.in.coming = true, nil, nil }) }

// LocalAddr is this end's address.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr is the other end's address.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline is SetReadDeadline: writes do not wait.
func (c *Conn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

// SetWriteDeadline does nothing: writes do not wait.
func (*Conn) SetWriteDeadline(time.Time) error { return nil }

// SetReadDeadline bounds how long reads wait.
func (c *Conn) SetReadDeadline(t time.Time) error {
	h := c.in
	h.change(func() {
		h.deadline = t
		if h.timer != nil {
			h.timer.Stop()
			h.timer = nil
		}
		if wait := time.Until(t); !t.IsZero() && wait > 0 {
			h.timer = time.AfterFunc(wait, func() { h.change(func() {}) })
		}
	})
	return nil
}

// Listener accepts the connections of its Dial.
type Listener struct {
	addr   net.Addr
	queue  chan *Conn
	closed chan struct{}
	once   sync.Once
}

// Listen returns a listener with an address.
func Listen(addr net.Addr) *Listener {
	return &Listener{addr: addr, queue: make(chan *Conn, 1024), closed: make(chan struct{})}
}

// Dial connects from an address.
func (l *Listener) Dial(from net.Addr) (*Conn, error) {
	near, far := New(from, l.addr)
	select {
	case <-l.closed:
		return nil, syscall.ECONNREFUSED
	default:
	}
	select {
	case l.queue <- far:
		return near, nil
	case <-l.closed:
		return nil, syscall.ECONNREFUSED
	}
}

// Accept waits for the next connection.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.queue:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close ends Accept, and breaks connections that were not accepted yet.
func (l *Listener) Close() error {
	l.once.Do(func() {
		close(l.closed)
		for {
			select {
			case c := <-l.queue:
				c.Break()
			default:
				return
			}
		}
	})
	return nil
}

// Addr is the listener's address.
func (l *Listener) Addr() net.Addr { return l.addr }

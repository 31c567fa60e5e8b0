package stream

import (
	"bytes"
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"presence/internal/nonblock"
)

const (
	// patience is how long a peer may accept nothing of what is sent.
	patience = 30 * time.Second

	// chunk is how many bytes are written at a time if writes block. Each such write is a
	// sign of progress.
	chunk = 4 << 10

	// sendBuffer bounds how many bytes the kernel keeps for a peer that does not read.
	// (Linux doubles the number it is given, for its own bookkeeping.) A snapshot of a
	// room with much metadata fits.
	sendBuffer = 256 << 10

	// maxSaid is how many bytes of a peer are read and ignored. A client sends nothing
	// after its request.
	maxSaid = 16 << 10
)

// stream is one connection on which events of rooms are sent.
type stream struct {
	all    *Streams
	subs   []*sub // one for each room
	ids    bool   // events have ids, since there is only one room
	slot   int    // the second in which it gets keepalives
	joined *joined
	until  time.Time // when it ends, if it is in Streams.timed
	why    Code
	onEnd  func() // may be nil

	mu     sync.Mutex // guards:
	conn   net.Conn   // nil until the connection is taken over
	raw    syscall.RawConn
	fd     uintptr // of raw
	rest   []byte  // of what is being sent; owned by push while push runs
	next   []byte  // what is sent after rest
	busy   bool    // push runs
	lost   bool    // an event for a sub could not be queued meanwhile
	ending []byte  // the event that is sent last
	last   bool    // ending is being sent
	opened bool    // the head was sent, or is being sent
	closed bool
}

// begin takes the connection over.
func (s *stream) begin(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn = conn; s.closed { // all streams were closed meanwhile
		_ = conn.Close()
		return
	}
	_ = conn.SetDeadline(time.Time{})
	tcp, ok := conn.(*net.TCPConn)
	if !ok || !nonblock.CanAttempt {
		return
	}
	raw, err := tcp.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { s.fd = fd })
	}
	if err == nil {
		s.raw = raw
		_ = tcp.SetWriteBuffer(s.all.sendBuffer)
		limitSilence(raw, patience)
	}
}

// send sends b. While other bytes are being sent, even a keepalive, one b can wait. For a
// further one send returns false, and pending later asks the feed what to send instead.
func (s *stream) send(b []byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed || !s.opened || s.ending != nil:
		return true // the peer gets nothing more
	case s.busy && s.next == nil && !s.lost:
		s.next = b
		return true
	case s.busy:
		s.lost = true
		return false
	}
	s.sendLocked(b)
	return true
}

// offer sends b if nothing else is being sent.
func (s *stream) offer(b []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed && s.opened && s.ending == nil && !s.busy {
		s.sendLocked(b)
	}
}

func (s *stream) sendLocked(b []byte) {
	if len(b) == 0 || s.closed {
		return
	}
	n, err := s.writeLocked(b)
	switch {
	case err != nil:
		s.closeLocked()
	case n < len(b):
		s.rest, s.busy = b[n:], true
		s.all.running.Go(s.push) // Add is safe here: s itself is counted, so Run still waits
	case s.last:
		s.closeLocked()
	}
}

// writeLocked writes as much of b as the peer takes at once. It writes to the file
// descriptor itself, because going through the connection costs a tenth of the time of
// the write. The descriptor is open, since only closeLocked closes it, and nobody else
// writes to it unless s is busy.
func (s *stream) writeLocked(b []byte) (n int, err error) {
	if s.raw == nil {
		return 0, nil
	}
	n, err = nonblock.Attempt(s.fd, b)
	s.all.metrics.bytes.Add(float64(n))
	return n, err
}

// finish tells the peer why the stream ends, and ends it.
func (s *stream) finish(why Code) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.ending != nil {
		return
	}
	s.ending = why.end()
	s.all.metrics.events[kindEnd].Inc()
	if s.opened && !s.busy {
		s.last = true
		s.sendLocked(s.ending)
	}
}

// open sends head and then first, or the stream's end if the stream is to end.
func (s *stream) open(head, first []byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.opened = true; s.ending != nil {
		first, s.last = s.ending, true
	}
	s.sendLocked(append(head, first...))
	return !s.last
}

func (s *stream) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closeLocked()
}

func (s *stream) closeLocked() {
	s.closed = true
	if s.conn != nil {
		_ = s.conn.Close() // it may be closed already
	}
}

// push sends the rest that the peer did not take at once, and then what has to follow.
func (s *stream) push() {
	for {
		for len(s.rest) > 0 {
			n, err := s.progress(s.rest)
			s.all.metrics.bytes.Add(float64(n))
			if s.rest = s.rest[n:]; err != nil {
				if errors.Is(err, os.ErrDeadlineExceeded) {
					s.all.metrics.cut.Inc()
				}
				s.rest = nil
				s.close()
				return
			}
		}
		s.rest = nil
		if !s.pending() {
			return
		}
	}
}

// pending moves what is to be sent next to rest, and reports whether there is anything.
// If not, push ends.
func (s *stream) pending() bool {
	s.mu.Lock()
	switch {
	case s.closed, s.last:
		s.closeLocked()
		s.mu.Unlock()
		return false
	case s.ending != nil:
		s.rest, s.last = s.ending, true
		s.mu.Unlock()
		return true
	case s.next != nil:
		s.rest, s.next = s.next, nil
		s.mu.Unlock()
		return true
	case !s.lost:
		s.busy = false
		if s.raw != nil {
			_ = s.conn.SetWriteDeadline(time.Time{})
		}
		s.mu.Unlock()
		return false
	}
	s.lost = false
	s.mu.Unlock()
	var next bytes.Buffer
	for _, sub := range s.subs { // takes the feeds' locks, which must be taken before s.mu
		next.Write(sub.feed.restart(sub))
	}
	s.rest = next.Bytes()
	return true
}

// progress sends a part of b. It blocks until the peer takes it.
func (s *stream) progress(b []byte) (n int, err error) {
	if err := s.conn.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		return 0, err
	}
	if s.raw == nil {
		return s.conn.Write(b[:min(len(b), chunk)])
	}
	var failed error
	err = s.raw.Write(func(fd uintptr) bool {
		n, failed = nonblock.Attempt(fd, b)
		return n > 0 || failed != nil
	})
	return n, errors.Join(err, failed)
}

// wait returns when the peer or this side has closed the connection, and ends the stream.
func (s *stream) wait() {
	var b [16]byte
	for said := 0; said < maxSaid; {
		n, err := s.conn.Read(b[:])
		if said += n; err != nil {
			break
		}
	}
	s.end()
}

// end undoes everything that the stream has begun.
func (s *stream) end() {
	s.close()
	for _, sub := range s.subs {
		sub.feed.remove(sub)
	}
	if s.joined != nil {
		s.joined.end()
	}
	s.all.unregister(s)
	s.tellEnd()
}

func (s *stream) tellEnd() {
	if s.onEnd != nil {
		s.onEnd()
	}
}

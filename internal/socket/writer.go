package socket

import (
	"encoding/binary"
	"syscall"

	"presence/internal/nonblock"
)

// keptFrame is the longest frame whose memory is kept for others, in bytes.
const keptFrame = 64 << 10

// writer is what one write needs.
type writer struct {
	frame []byte // to be written

	n   int // how much of it the last attempt has written
	try func(fd uintptr) bool
}

// writer returns one that is to be put back into writers.
func (u *Upgrader) writer() *writer {
	w, ok := u.writers.Get().(*writer)
	if !ok {
		w = &writer{}
		w.try = func(fd uintptr) bool {
			w.n, _ = nonblock.Attempt(fd, w.frame)
			return true
		}
	}
	if cap(w.frame) > keptFrame {
		w.frame = nil
	}
	return w
}

// attempt writes what the socket takes of the frame without waiting, and returns how much
// that is. An error is left for the next write to find.
func (w *writer) attempt(raw syscall.RawConn) int {
	w.n = 0
	_ = raw.Write(w.try) // fails only if it is closed
	return w.n
}

// appendFrame appends a frame of a server (RFC 6455, section 5.2): in one piece, and not
// masked. Its opcode is the message type.
func appendFrame(b []byte, kind int, data []byte) []byte {
	b = append(b, 1<<7|byte(kind)) //nolint:gosec // at most 10
	switch n := len(data); {
	case n < 126:
		b = append(b, byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 127), uint64(n))
	}
	return append(b, data...)
}

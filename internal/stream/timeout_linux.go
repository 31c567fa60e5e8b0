package stream

import (
	"syscall"
	"time"
)

// tcpUserTimeout is TCP_USER_TIMEOUT of linux/tcp.h.
const tcpUserTimeout = 0x12

// limitSilence has the kernel give a connection up of which nothing that was sent was
// acknowledged for that long.
func limitSilence(raw syscall.RawConn, d time.Duration) {
	_ = raw.Control(func(fd uintptr) { // without it, keepalives of TCP find out later
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout, int(d.Milliseconds()))
	})
}

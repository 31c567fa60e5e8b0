package stream

import (
	"syscall"
	"time"
)

// tcpUserTimeout is TCP_USER_TIMEOUT of linux/tcp.h.
const tcpUserTimeout = 0x12

// limitSilence makes the kernel close a connection when sent data are not acknowledged
// for that long.
func limitSilence(raw syscall.RawConn, d time.Duration) {
	_ = raw.Control(func(fd uintptr) { // after an error, TCP keepalives find out later
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout, int(d.Milliseconds()))
	})
}

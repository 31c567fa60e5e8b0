//go:build unix

package nonblock

import (
	"errors"
	"syscall"
)

// Attempt writes as much to a socket as it takes without blocking. fd is its descriptor, as
// [syscall.RawConn] gives it. n is 0 if the socket takes nothing, which is no error.
func Attempt(fd uintptr, b []byte) (n int, err error) {
	for {
		n, err = syscall.Write(int(fd), b)
		switch {
		case err == nil:
			return n, nil
		case errors.Is(err, syscall.EINTR):
		case errors.Is(err, syscall.EAGAIN):
			return 0, nil
		default:
			return 0, err
		}
	}
}

// CanAttempt reports whether [Attempt] works here.
const CanAttempt = true

//go:build unix

package stream

import (
	"errors"
	"syscall"
)

// attempt writes as much to a socket as it takes without blocking. n is 0 if it takes
// nothing.
func attempt(fd uintptr, b []byte) (n int, err error) {
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

// canAttempt reports whether attempt works.
const canAttempt = true

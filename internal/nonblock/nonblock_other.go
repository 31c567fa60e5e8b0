//go:build !unix

package nonblock

import "errors"

// Attempt works only on systems where a socket can be written to without blocking.
func Attempt(uintptr, []byte) (int, error) { return 0, errors.ErrUnsupported }

// CanAttempt reports whether [Attempt] works here.
const CanAttempt = false

//go:build !unix

package stream

import "errors"

// attempt exists only on systems where a socket can be written to without blocking.
func attempt(uintptr, []byte) (int, error) { return 0, errors.ErrUnsupported }

// canAttempt reports whether attempt works.
const canAttempt = false

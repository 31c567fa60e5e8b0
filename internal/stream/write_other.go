//go:build !unix

package stream

import "errors"

// attempt is for systems where a socket can be written to without waiting.
func attempt(uintptr, []byte) (int, error) { return 0, errors.ErrUnsupported }

// canAttempt reports whether attempt works.
const canAttempt = false

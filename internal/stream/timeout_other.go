//go:build !linux

package stream

import (
	"syscall"
	"time"
)

// limitSilence does nothing where there is no such option.
func limitSilence(syscall.RawConn, time.Duration) {}

//go:build !linux

package stream

import (
	"syscall"
	"time"
)

// limitSilence does nothing: these systems have no such option.
func limitSilence(syscall.RawConn, time.Duration) {}

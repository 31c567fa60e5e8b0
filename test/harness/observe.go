package harness

import (
	"testing"
	"time"
)

// Observe lets time pass in which something must not happen. why says
// what the window is for, and how its length follows from the settings.
func Observe(t testing.TB, window time.Duration, why string) {
	t.Helper()
	t.Logf("watching for %v: %s", window.Round(time.Millisecond), why)
	timer := time.NewTimer(window)
	defer timer.Stop()
	<-timer.C
}

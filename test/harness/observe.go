package harness

import (
	"testing"
	"time"
)

// Observe lets time pass while something is to be seen not to happen. why says
// what the window is for, and how its length follows from the settings.
func Observe(t testing.TB, window time.Duration, why string) {
	t.Helper()
	t.Logf("watching for %v: %s", window.Round(time.Millisecond), why)
	timer := time.NewTimer(window)
	defer timer.Stop()
	<-timer.C
}

package redistest

import (
	_ "embed"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

// clockSource is a library that steps the clock of a process.
//
//go:embed testdata/clock.c
var clockSource []byte

// Clock is the clock of a redis-server, which a test can step. Its zero value is the
// machine's.
type Clock struct {
	t    testing.TB
	file string
	env  []string
}

// HasClocks reports whether [NewClock] works here. In CI it has to.
func HasClocks() bool {
	if runtime.GOOS != "linux" {
		return false
	}
	for _, compiler := range []string{"cc", "gcc"} {
		if _, err := exec.LookPath(compiler); err == nil {
			return true
		}
	}
	return os.Getenv("CI") != ""
}

// NewClock returns a clock for [StartWithClock]. Where there is no C compiler, or another
// system than Linux, the test is skipped; in CI a missing compiler is a failure.
func NewClock(t testing.TB) *Clock {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("clocks are stepped on Linux only")
	}
	dir := t.TempDir()
	source, library := filepath.Join(dir, "clock.c"), filepath.Join(dir, "clock.so")
	c := &Clock{t: t, file: filepath.Join(dir, "ahead")}
	c.Step(0)
	if err := os.WriteFile(source, clockSource, 0o600); err != nil {
		t.Fatal(err)
	}
	compiler := "cc"
	if _, err := exec.LookPath(compiler); err != nil {
		compiler = "gcc"
	}
	//nolint:gosec,noctx // a compiler, at once
	if out, err := exec.Command(Tool(t, compiler), "-shared", "-fPIC", "-O1", "-o", library, source).CombinedOutput(); err != nil {
		t.Fatalf("compile testdata/clock.c: %v\n%s", err, out)
	}
	c.env = append(os.Environ(), "LD_PRELOAD="+library, "PRESENCE_CLOCK="+c.file)
	return c
}

// Step sets the clock ahead of the machine's by a duration.
func (c *Clock) Step(ahead time.Duration) {
	c.t.Helper()
	b := binary.NativeEndian.AppendUint64(nil, uint64(ahead.Microseconds())) //nolint:gosec // its bits
	f, err := os.OpenFile(c.file, os.O_WRONLY|os.O_CREATE, 0o600)
	if err == nil {
		if _, err = f.WriteAt(b, 0); err == nil { // in its place: it is mapped
			err = f.Close()
		}
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

// StartWithClock is Start with a clock of its own.
func StartWithClock(t testing.TB, clock *Clock, args ...string) *Server {
	t.Helper()
	return StartAtWithClock(t, FreePort(t), clock, args...)
}

// StartAtWithClock is StartAt, without TLS, with a clock of its own.
func StartAtWithClock(t testing.TB, port int, clock *Clock, args ...string) *Server {
	t.Helper()
	return startAt(t, port, nil, clock.env, args...)
}

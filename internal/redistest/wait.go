package redistest

import (
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"testing"
	"time"
)

// Tool returns the path of a program that a test needs. If the program is missing the
// test is skipped, or in CI fails.
func Tool(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("%s is not installed, and CI must not go without it", name)
		}
		t.Skipf("%s is not installed", name)
	}
	return path
}

// given are the ports that were given out in this process. Tests run at the same time,
// and it takes a moment until somebody listens on a port.
var given = struct {
	mu    sync.Mutex // guards:
	ports map[int]bool
}{ports: map[int]bool{}}

// FreePorts returns n ports of the loopback interface on which nobody listens. The
// port 10,000 above each is free, too: the nodes of a Cluster talk there. The ports are
// below those that the system gives to outgoing connections.
func FreePorts(t testing.TB, n int) []int {
	t.Helper()
	free := func(port int) bool {
		l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port)) //nolint:noctx // closed at once
		if err != nil {
			return false
		}
		return l.Close() == nil
	}
	const lowest, highest = 11_000, 22_000
	given.mu.Lock()
	defer given.mu.Unlock()
	var list []int
	for tries := 0; len(list) < n && tries < highest-lowest; tries++ {
		port := lowest + rand.IntN(highest-lowest)
		if !given.ports[port] && free(port) && free(port+10_000) {
			given.ports[port] = true
			list = append(list, port)
		}
	}
	if len(list) < n {
		t.Fatalf("no %d free ports", n)
	}
	return list
}

// FreePort returns one of [FreePorts].
func FreePort(t testing.TB) int {
	t.Helper()
	return FreePorts(t, 1)[0]
}

// Listens reports whether a process listens at an address.
func Listens(addr string) bool {
	c, err := net.DialTimeout("tcp", addr, time.Second) //nolint:noctx // bounded by itself
	if err != nil {
		return false
	}
	return c.Close() == nil
}

// Eventually waits until cond holds and fails the test when it does not within
// limit. It looks every 10 ms.
func Eventually(t testing.TB, limit time.Duration, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.Now().Add(limit)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", limit, what)
		}
		<-tick.C
	}
}

package bench

import (
	"bufio"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"presence/internal/redistest"
)

// peer is the process of test/bench/peers.
type peer struct {
	in  io.Writer
	out *bufio.Reader
}

var buildPeers = sync.OnceValues(func() (string, error) {
	path, err := filepath.Abs("out/peers")
	if err != nil {
		return "", err
	}
	output, err := exec.Command("go", "build", "-C", "peers", "-o", path, ".").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build the peers: %w\n%s", err, output)
	}
	return path, nil
})

// startPeer starts one over a Redis. It ends with the test.
func startPeer(t *testing.T, server *redistest.Server, flags ...string) *peer {
	t.Helper()
	path, err := buildPeers()
	if err != nil {
		t.Fatal(err)
	}
	user, password := redistest.Auth()
	flags = append([]string{"-redis", fmt.Sprintf("redis://%s:%s@%s", user, password, server.Addr)}, flags...)
	in, out := talk(t, exec.Command(path, flags...)) //nolint:noctx // ends with its input
	return &peer{in, out}
}

// do has n clients from first on do something by so many callers, and returns the seconds
// that it took.
func (p *peer) do(t *testing.T, what string, callers, first, n int) (seconds float64) {
	t.Helper()
	if _, err := fmt.Fprintln(p.in, what, callers, first, n); err != nil {
		t.Fatal(err)
	}
	line, err := p.out.ReadString('\n')
	if err == nil {
		_, err = fmt.Sscan(strings.TrimSpace(line), &seconds)
	}
	if err != nil {
		t.Fatalf("the peer says %q, %v", line, err)
	}
	return seconds
}

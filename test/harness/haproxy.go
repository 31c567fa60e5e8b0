package harness

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"presence/deploy"
	"presence/internal/process"
	"presence/internal/redistest"
)

// HAProxy is a balancer before some replicas.
type HAProxy struct {
	URL  string
	Addr string
}

// StartHAProxy starts a balancer with the shipped configuration, in which only
// addresses are changed: replicas take the place of names to look up. It ends
// with the test.
func StartHAProxy(t testing.TB, replicas ...string) *HAProxy {
	t.Helper()
	return StartHAProxyWith(t, func(config string) string { return config }, replicas...)
}

// StartHAProxyWith is StartHAProxy, with a change of the configuration.
func StartHAProxyWith(t testing.TB, change func(config string) string, replicas ...string) *HAProxy {
	t.Helper()
	binary := redistest.Tool(t, "haproxy")
	addr := "127.0.0.1:" + strconv.Itoa(redistest.FreePort(t))
	path := filepath.Join(t.TempDir(), "haproxy.cfg")
	config := change(deploy.HAProxyOnLoopback(addr, replicas))
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	h := &HAProxy{Addr: addr, URL: "http://" + addr}
	cmd := exec.Command(binary, "-db", "-f", path) //nolint:gosec,noctx // the test's own command; killed below
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	run, err := process.Start(cmd)
	if err != nil {
		t.Fatalf("start haproxy: %v", err)
	}
	t.Cleanup(func() {
		run.Kill()
		if t.Failed() {
			t.Logf("haproxy with\n%s\nsaid\n%s", config, &log)
		}
	})
	redistest.Eventually(t, 10*time.Second, "haproxy accepts connections", func() bool { return redistest.Listens(addr) })
	return h
}

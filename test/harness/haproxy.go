package harness

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"presence/internal/redistest"
)

// HAProxy is a balancer before some replicas.
type HAProxy struct {
	URL  string
	Addr string

	cmd *exec.Cmd
	log *bytes.Buffer
}

// shippedHAProxy is where the configuration for operators lies, seen from a
// package of tests two folders deep.
const shippedHAProxy = "../../deploy/haproxy/haproxy.cfg"

// ownHAProxy is used where none is shipped: the same health checks, nothing else.
const ownHAProxy = `global
  hard-stop-after 5s
defaults
  mode http
  option http-no-delay
  option redispatch 1
  retries 3
  retry-on conn-failure empty-response 503
  timeout http-request 5s
  timeout connect 1s
  timeout check 2s
  timeout client 60s
  timeout server 60s
  timeout tunnel 60s
frontend fe
  bind :8080
  http-request set-header X-Forwarded-For %[src]
  http-request disable-l7-retry if !METH_GET !{ method HEAD }
  default_backend app
backend app
  balance leastconn
  option httpchk
  http-check send meth GET uri /lbz ver HTTP/1.1 hdr Host lb
  http-check disable-on-404
  default-server check inter 500ms fall 2 rise 1 on-marked-down shutdown-sessions
  server-template app 20 app:8080
`

// StartHAProxy starts a balancer with the shipped configuration, in which only
// addresses are changed: replicas take the place of names to look up. It ends
// with the test.
func StartHAProxy(t testing.TB, replicas ...string) *HAProxy {
	t.Helper()
	binary := Tool(t, "haproxy")
	config := ownHAProxy
	if shipped, err := os.ReadFile(shippedHAProxy); err == nil {
		config = string(shipped)
	}
	addr := "127.0.0.1:" + strconv.Itoa(redistest.FreePort(t))
	path := filepath.Join(t.TempDir(), "haproxy.cfg")
	config = onLoopback(t, config, addr, replicas)
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	h := &HAProxy{Addr: addr, URL: "http://" + addr, log: &bytes.Buffer{}}
	h.cmd = exec.Command(binary, "-db", "-f", path) //nolint:gosec,noctx // the test's own command; ended below
	h.cmd.Stdout, h.cmd.Stderr = h.log, h.log
	endWithTest(h.cmd)
	if err := h.cmd.Start(); err != nil {
		t.Fatalf("start haproxy: %v", err)
	}
	t.Cleanup(func() {
		_ = h.cmd.Process.Signal(syscall.SIGKILL)
		_ = h.cmd.Wait()
		if t.Failed() {
			t.Logf("haproxy with\n%s\nsaid\n%s", config, h.log)
		}
	})
	redistest.Eventually(t, 10*time.Second, "haproxy accepts connections", func() bool {
		c, err := net.DialTimeout("tcp", addr, time.Second) //nolint:noctx // bounded by itself
		if err != nil {
			return false
		}
		return c.Close() == nil
	})
	return h
}

// onLoopback adapts a configuration: the first bind becomes addr, others a free
// port, server-template lines the replicas, and nothing is looked up.
func onLoopback(t testing.TB, config, addr string, replicas []string) string {
	t.Helper()
	var b strings.Builder
	inResolvers, bound := false, false
	for line := range strings.Lines(config) {
		line = strings.TrimRight(line, "\r\n")
		code, _, _ := strings.Cut(line, "#")
		fields := strings.Fields(code)
		if len(fields) > 0 && code[0] != ' ' && code[0] != '\t' {
			inResolvers = fields[0] == "resolvers"
		}
		switch {
		case inResolvers || len(fields) == 0:
			continue
		case fields[0] == "bind":
			at := addr
			if bound {
				at = "127.0.0.1:" + strconv.Itoa(redistest.FreePort(t))
			}
			bound = true
			fields[1] = at
			line = "  " + strings.Join(fields, " ")
		case fields[0] == "server-template":
			line = ""
			rest := strings.Join(withoutLookups(fields[4:]), " ")
			for i, replica := range replicas {
				line += fmt.Sprintf("  server r%d %s %s\n", i+1, replica, rest)
			}
		case fields[0] == "default-server":
			line = "  " + strings.Join(withoutLookups(fields), " ")
		case fields[0] == "user" || fields[0] == "group" || fields[0] == "chroot" || fields[0] == "daemon":
			continue
		case fields[0] == "stats" && len(fields) > 1 && fields[1] == "socket":
			continue
		}
		b.WriteString(strings.TrimRight(line, "\n") + "\n")
	}
	return b.String()
}

// withoutLookups drops the settings of name resolution of a server.
func withoutLookups(fields []string) []string {
	var kept []string
	for i := 0; i < len(fields); i++ {
		switch fields[i] {
		case "resolvers", "init-addr", "resolve-prefer", "resolve-opts":
			i++ // and its value
		default:
			kept = append(kept, fields[i])
		}
	}
	return kept
}

package deploy

import (
	"strings"
	"testing"
	"time"

	"presence/internal/redistest"
)

// TestHAProxy has the balancer read its configuration.
func TestHAProxy(t *testing.T) {
	haproxy := redistest.Tool(t, "haproxy")
	said, err := command(t, 10*time.Second, root, nil, haproxy, "-c", "-f", "deploy/haproxy/haproxy.cfg")
	if err != nil || strings.Contains(said, "[WARNING]") {
		t.Errorf("haproxy -c: %v\n%s", err, said)
	}
}

// TestHAProxySettings checks settings that measurements have shown to be necessary.
// Without any of them people notice a drain, or wait for what they should see at once.
func TestHAProxySettings(t *testing.T) {
	text := read(t, "deploy/haproxy/haproxy.cfg")
	for _, line := range []string{
		"option http-no-delay",
		"option abortonclose",
		"tcp-ut 30s",
		"timeout check",
		"http-check disable-on-404",
		"http-check send meth GET uri /lbz",
		"on-marked-down shutdown-sessions",
		"http-request set-header X-Forwarded-For %[src]",
		"http-request set-header X-Forwarded-Proto",
		"http-request disable-l7-retry unless { method GET HEAD }",
	} {
		if !strings.Contains(text, line) {
			t.Errorf("no %q", line)
		}
	}
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 3 || fields[0] != "timeout" {
			continue
		}
		switch fields[1] {
		case "client", "server", "tunnel":
			if d, err := time.ParseDuration(fields[2]); err != nil || d < 40*time.Second {
				t.Errorf("timeout %s %s: sockets are pinged every 15 s, and may miss one", fields[1], fields[2])
			}
		}
	}
}

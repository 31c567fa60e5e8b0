package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// findHAProxy returns the program, or why there is to be no balancer.
func (c *cluster) findHAProxy() (binary, missing string) {
	binary, err := exec.LookPath("haproxy")
	if err != nil {
		return "", "is not installed (apt-get install haproxy)"
	}
	if _, err := os.Stat(c.haproxy); err != nil { //nolint:gosec // whoever starts us names it
		return "", "has no configuration: " + err.Error()
	}
	return binary, ""
}

// prepareHAProxy describes a balancer with the configuration for production, in
// which only addresses are replaced.
func (c *cluster) prepareHAProxy(binary, listen string, replicas []string) (*process, error) {
	shipped, err := os.ReadFile(c.haproxy) //nolint:gosec // likewise
	if err != nil {
		return nil, fmt.Errorf("configuration of HAProxy: %w", err)
	}
	file := filepath.Join(c.dir, "haproxy.cfg")
	if err := os.WriteFile(file, []byte(onLoopback(string(shipped), listen, replicas)), 0o600); err != nil { //nolint:gosec // in our own folder
		return nil, fmt.Errorf("configuration of HAProxy: %w", err)
	}
	return &process{
		name: "HAProxy", url: "http://" + listen, addr: listen, path: binary,
		args:    []string{"-db", "-f", file},
		log:     filepath.Join(c.dir, "haproxy.log"),
		answers: c.says200("http://" + listen + "/readyz"),
		loss:    "nobody gets in, and all sockets are cut",
	}, nil
}

// onLoopback replaces addresses: what is bound becomes listen, the names that
// replicas are found by become the replicas, and no name server is asked.
func onLoopback(config, listen string, replicas []string) string {
	var b strings.Builder
	section := ""
	for line := range strings.Lines(config) {
		line = strings.TrimRight(line, "\n")
		code, _, _ := strings.Cut(line, "#")
		fields := strings.Fields(code)
		if len(fields) > 0 && !strings.HasPrefix(code, " ") && !strings.HasPrefix(code, "\t") {
			section = fields[0]
		}
		switch {
		case section == "resolvers" || len(fields) == 0:
			continue
		case fields[0] == "bind":
			line = "  bind " + listen
		case fields[0] == "server-template":
			for i, replica := range replicas {
				fmt.Fprintf(&b, "  server replica-%d %s %s\n", i+1, replica, withoutLookups(fields[4:]))
			}
			continue
		case fields[0] == "default-server":
			line = "  " + withoutLookups(fields)
		}
		b.WriteString(line + "\n")
	}
	return b.String()
}

// withoutLookups drops what a server line says of name servers.
func withoutLookups(fields []string) string {
	var kept []string
	for i := 0; i < len(fields); i++ {
		switch fields[i] {
		case "resolvers", "init-addr", "resolve-prefer", "resolve-opts":
			i++ // and its value
		default:
			kept = append(kept, fields[i])
		}
	}
	return strings.Join(kept, " ")
}

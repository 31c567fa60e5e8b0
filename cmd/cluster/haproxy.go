package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"presence/deploy"
)

// findHAProxy returns the program, or why there will be no balancer.
func (c *cluster) findHAProxy() (binary, missing string) {
	binary, err := exec.LookPath("haproxy")
	if err != nil {
		return "", "is not installed (apt-get install haproxy)"
	}
	return binary, ""
}

// prepareHAProxy describes a balancer with the configuration for production, in
// which only addresses are replaced.
func (c *cluster) prepareHAProxy(binary, listen string, replicas []string) (*program, error) {
	file := filepath.Join(c.dir, "haproxy.cfg")
	if err := os.WriteFile(file, []byte(deploy.HAProxyOnLoopback(listen, replicas)), 0o600); err != nil { //nolint:gosec // in our own folder
		return nil, fmt.Errorf("configuration of HAProxy: %w", err)
	}
	return &program{
		name: "HAProxy", url: "http://" + listen, addr: listen, path: binary,
		args:    []string{"-db", "-f", file},
		log:     filepath.Join(c.dir, "haproxy.log"),
		answers: c.says200("http://" + listen + "/readyz"),
		loss:    "nobody gets in, and all sockets are cut",
	}, nil
}

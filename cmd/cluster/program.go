package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"

	"presence/internal/process"
)

// program is one of those that run, and can be started again after it has ended.
type program struct {
	name string
	url  string // "" where it has none
	addr string
	path string

	admin string // address of metrics; "" where there are none
	args  []string
	log   string // file
	loss  string // what visitors notice when it ends

	answers func(context.Context) bool

	mu  sync.Mutex // guards:
	now *process.Process
}

// start starts the program. Its output is added to the log.
func (p *program) start() error {
	log, err := os.OpenFile(p.log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	defer func() { _ = log.Close() }()     // the program has its own
	cmd := exec.Command(p.path, p.args...) //nolint:gosec,noctx // our own programs; supervise ends them, and gives them time
	cmd.Stdout, cmd.Stderr, cmd.Env = log, log, environ()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a Ctrl-C does not reach it: supervise ends it
	r, err := process.Start(cmd)
	if err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now = r
	return nil
}

// running returns the present run, or the last one. start must have succeeded.
func (p *program) running() *process.Process {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now
}

// killCommand is the command that kills the present run.
func (p *program) killCommand() string { return fmt.Sprintf("kill -9 %d", p.running().ID()) }

// lastWords are the last lines of the log.
func (p *program) lastWords() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-10):], []byte("\n")))
}

// environ is the environment without settings of servers, which flags give instead.
func environ() []string {
	var env []string
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "PRESENCE_") {
			env = append(env, variable)
		}
	}
	return env
}

// ports gives out ports of the loopback interface on which nobody listens.
type ports struct{ at int }

// newPorts begins at a port; 0 leaves the choice to the system.
func newPorts(first int) *ports { return &ports{at: first} }

// next returns the next free port.
func (p *ports) next() (int, error) {
	const most = 1000
	for range most {
		l, err := net.Listen("tcp", at(p.at)) //nolint:noctx // closed at once
		if p.at > 0 {
			p.at++
		}
		if err != nil {
			continue
		}
		port := l.Addr().(*net.TCPAddr).Port //nolint:errcheck,forcetypeassert // of a TCP listener
		return port, l.Close()
	}
	return 0, fmt.Errorf("no free port below %d", p.at) //nolint:err113 // told as it is
}

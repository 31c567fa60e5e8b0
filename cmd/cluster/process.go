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
	"time"
)

// process is a program that runs, and that can be started again after it ended.
type process struct {
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
	now *running
}

// running is one run of a process.
type running struct {
	pid   int
	cmd   *exec.Cmd
	ended chan struct{} // closed when it has
}

// how says how a run ended.
func (r *running) how() string { return r.cmd.ProcessState.String() }

// start starts the process. Its output is added to the log.
func (p *process) start() error {
	log, err := os.OpenFile(p.log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	defer func() { _ = log.Close() }()     // the process has its own
	cmd := exec.Command(p.path, p.args...) //nolint:gosec,noctx // our own programs; stop ends them, and gives them time
	cmd.Stdout, cmd.Stderr, cmd.Env = log, log, environ()
	cmd.SysProcAttr = ownGroup()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	r := &running{pid: cmd.Process.Pid, cmd: cmd, ended: make(chan struct{})}
	go func() { // ends with the process
		defer close(r.ended)
		_ = cmd.Wait() // how it ended is in ProcessState
	}()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now = r
	return nil
}

// running is the present run, or the last one. start must have succeeded.
func (p *process) running() *running {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now
}

// stop asks the process to end, kills it if it does not, and returns when it has
// ended.
func (p *process) stop() {
	r := p.running()
	_ = r.cmd.Process.Signal(syscall.SIGTERM) // an error is its having ended
	limit := time.NewTimer(stopTimeout)
	defer limit.Stop()
	select {
	case <-r.ended:
	case <-limit.C:
		_ = r.cmd.Process.Kill()
		<-r.ended
	}
}

// lastWords are the last lines of the log.
func (p *process) lastWords() string {
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

// Package process starts and stops the programs that tests and tools run.
package process

import (
	"os"
	"os/exec"
	"syscall"
	"time"
)

// Process is one run of a program. Its methods may be called from several goroutines.
type Process struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed when it has
}

// Start starts a program, which somebody has to end by [Process.Kill] or [Process.Stop]. On
// Linux the kernel kills it when this process ends in any way: a test that panics or runs out
// of time cleans nothing up.
func Start(cmd *exec.Cmd) (*Process, error) {
	endWithParent(cmd)
	if err := cmd.Start(); err != nil {
		return nil, err //nolint:wrapcheck // it names the program
	}
	p := &Process{cmd: cmd, ended: make(chan struct{})}
	go func() { // ends with the program
		defer close(p.ended)
		_ = cmd.Wait() // how it ended is in ProcessState
	}()
	return p, nil
}

// ID is the program's process id.
func (p *Process) ID() int { return p.cmd.Process.Pid }

// Ended is closed when the program has ended, and its output has been read.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// State is how the program ended, once Ended is closed.
func (p *Process) State() *os.ProcessState { return p.cmd.ProcessState }

// Kill ends the program at once, as kill -9 does, also one that is paused. It returns when
// the program has ended.
func (p *Process) Kill() {
	p.signal(syscall.SIGKILL)
	<-p.ended
}

// Stop asks the program to end, as orchestrators do, and returns when it has ended. It kills
// a program that has not ended within limit, and then returns false.
func (p *Process) Stop(limit time.Duration) bool {
	p.Terminate()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-p.ended:
		return true
	case <-timer.C:
		p.Kill()
		return false
	}
}

// Terminate asks the program to end, and returns at once.
func (p *Process) Terminate() { p.signal(syscall.SIGTERM) }

// Pause stops the program as a frozen machine is stopped, until Continue.
func (p *Process) Pause() { p.signal(syscall.SIGSTOP) }

// Continue ends Pause.
func (p *Process) Continue() { p.signal(syscall.SIGCONT) }

func (p *Process) signal(s os.Signal) {
	_ = p.cmd.Process.Signal(s) // an error means that the program has ended
}

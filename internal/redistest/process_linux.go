package redistest

import (
	"os/exec"
	"syscall"
)

// EndWithTest has the kernel end the process when the test's is no more, in
// whatever way that came about: a test that panics or runs out of time cleans up
// nothing.
func EndWithTest(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}

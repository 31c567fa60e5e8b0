package redistest

import (
	"os/exec"
	"syscall"
)

// EndWithTest lets the kernel end the process when the process of the test ends, in
// whatever way: a test that panics or runs out of time cleans nothing up.
func EndWithTest(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}

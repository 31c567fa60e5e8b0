//go:build !linux

package process

import "os/exec"

// endWithParent does nothing: only Linux has PR_SET_PDEATHSIG.
func endWithParent(*exec.Cmd) {}

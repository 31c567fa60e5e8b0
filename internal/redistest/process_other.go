//go:build !linux

package redistest

import "os/exec"

// EndWithTest does nothing: only Linux has PR_SET_PDEATHSIG.
func EndWithTest(*exec.Cmd) {}

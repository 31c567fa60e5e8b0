package main

import "syscall"

// ownGroup keeps the Ctrl-C of a terminal away from a process, since stop ends it. The
// kernel kills the process if this one is killed.
func ownGroup() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

package main

import "syscall"

// ownGroup keeps the Ctrl-C of a terminal from a process, which is stopped in
// its turn, and ends it when we are killed.
func ownGroup() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

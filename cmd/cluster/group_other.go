//go:build unix && !linux

package main

import "syscall"

// ownGroup keeps the Ctrl-C of a terminal from a process, which is stopped in
// its turn.
func ownGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

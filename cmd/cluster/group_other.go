//go:build unix && !linux

package main

import "syscall"

// ownGroup keeps the Ctrl-C of a terminal away from a process, since stop ends it.
func ownGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

//go:build !linux

package demo

import "syscall"

// childAttributes keep a terminal's Ctrl-C from a child, so that the demo ends
// its children in order.
func childAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

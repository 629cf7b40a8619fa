package demo

import "syscall"

// childAttributes have a child end with the demo, however that ends, and keep a
// terminal's Ctrl-C from it, so that the demo ends its children in order.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}

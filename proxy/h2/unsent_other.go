//go:build !linux

package h2

import (
	"net"
	"syscall"
)

// boundUnsent leaves it to the system how much it takes before it is sent.
func boundUnsent(net.Conn, syscall.RawConn, int) {}

func maxUnsent(Role) int { return 0 }

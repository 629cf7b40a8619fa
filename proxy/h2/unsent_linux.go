package h2

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxUnsent is how many bytes the kernel takes beyond those that are on their way.
// Without a bound it takes megabytes from a peer's point of view long gone: RPCs
// that were cancelled, which could be dropped here, and which all that come after
// wait behind. Two reads' worth keep a socket busy until its writer is woken.
const maxUnsent = 2 * readBufferSize

// boundUnsent sets TCP_NOTSENT_LOWAT of tcp(7). What has no such thing is left
// alone, and so is a socket that is closed already.
func boundUnsent(nc net.Conn, rc syscall.RawConn) {
	if _, is := nc.(*net.TCPConn); !is {
		return
	}
	_ = rc.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, maxUnsent)
	})
}

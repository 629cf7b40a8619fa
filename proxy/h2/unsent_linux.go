package h2

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxUnsent is how many bytes the kernel takes beyond those that are on their way.
// Without a bound it takes megabytes from a peer's point of view long gone: RPCs
// that were cancelled, which could be dropped here, and which all that come after
// wait behind.
//
// A connection to an instance is shared by all callers: as little as two reads' worth
// keeps a socket busy until its writer is woken, which it is when half of that is
// left. A caller's connection has only his own RPCs, and the less often its writer
// has to be woken, the faster are streams: a twelfth.
func maxUnsent(role Role) int {
	if role == Server {
		return 8 * readBufferSize
	}
	return 2 * readBufferSize
}

// boundUnsent sets TCP_NOTSENT_LOWAT of tcp(7) to n bytes. What has no such thing is
// left alone, and so is a socket that is closed already.
func boundUnsent(nc net.Conn, rc syscall.RawConn, n int) {
	if _, is := nc.(*net.TCPConn); !is {
		return
	}
	_ = rc.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, n)
	})
}

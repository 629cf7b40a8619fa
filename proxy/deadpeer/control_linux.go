package deadpeer

import (
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Control is a [net.Dialer]'s: it bounds how long data may stay unacknowledged,
// which the kernel would else send again for a quarter of an hour.
func Control(limit time.Duration) func(network, address string, c syscall.RawConn) error {
	return func(network, _ string, c syscall.RawConn) error {
		if !strings.HasPrefix(network, "tcp") {
			return nil
		}
		return setUnacknowledged(c, limit)
	}
}

// setUnacknowledged sets TCP_USER_TIMEOUT of tcp(7) (RFC 5482).
func setUnacknowledged(c syscall.RawConn, limit time.Duration) error {
	var failed error
	err := c.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(limit.Milliseconds()))
	})
	if err == nil {
		err = failed
	}
	return err
}

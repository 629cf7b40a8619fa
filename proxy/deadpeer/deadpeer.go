// Package deadpeer has TCP find out that the host at the other end is gone without
// a word, within a bound. It does without HTTP/2 PINGs, which peers may take amiss,
// and knows nothing of a host that still acknowledges bytes.
package deadpeer

import (
	"net"
	"time"
)

// KeepAlive finds it out where nothing is under way, after about limit.
func KeepAlive(limit time.Duration) net.KeepAliveConfig {
	return net.KeepAliveConfig{Enable: true, Idle: limit / 2, Interval: limit / 6, Count: 3}
}

// Watch does so for a connection that was accepted, as [KeepAlive] and [Control]
// do for one that is dialled. What is not TCP is left alone.
func Watch(c net.Conn, limit time.Duration) error {
	tcp, is := c.(*net.TCPConn)
	if !is {
		return nil
	}
	if err := tcp.SetKeepAliveConfig(KeepAlive(limit)); err != nil {
		return err
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return err
	}
	return setUnacknowledged(raw, limit)
}

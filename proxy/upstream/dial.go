package upstream

import (
	"net"
	"time"
)

// newDialer returns a dialer whose connections end about deadAfter after their
// host is gone without a word. TCP finds it out, without HTTP/2 PINGs, which
// servers may take amiss: by keepalive probes where nothing is under way, and by
// unacknowledgedTimeout where something is, which the kernel would else send again
// for a quarter of an hour.
func newDialer(deadAfter time.Duration) *net.Dialer {
	return &net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{
			Enable: true, Idle: deadAfter / 2, Interval: deadAfter / 6, Count: 3,
		},
		Control: unacknowledgedTimeout(deadAfter),
	}
}

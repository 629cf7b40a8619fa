package upstream

import (
	"net"
	"time"
)

// deadAfter is about how long a host that is gone without a word is believed to
// be there. TCP finds it out, without HTTP/2 PINGs, which servers may take amiss:
// by keepalive probes where nothing is under way, and by unacknowledgedTimeout
// where something is, which the kernel would else send again for a quarter of an
// hour.
const deadAfter = 30 * time.Second

var dialer = net.Dialer{
	KeepAliveConfig: net.KeepAliveConfig{
		Enable: true, Idle: deadAfter / 2, Interval: deadAfter / 6, Count: 3,
	},
	Control: unacknowledgedTimeout,
}

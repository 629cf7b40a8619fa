package upstream

import (
	"net"
	"time"

	"github.com/pillion-proxy/pillion/proxy/deadpeer"
)

// newDialer returns a dialer whose connections end about deadAfter after their
// host is gone without a word.
func newDialer(deadAfter time.Duration) *net.Dialer {
	return &net.Dialer{KeepAliveConfig: deadpeer.KeepAlive(deadAfter), Control: deadpeer.Control(deadAfter)}
}

//go:build !linux

package upstream

import (
	"syscall"
	"time"
)

// unacknowledgedTimeout leaves it to the system how long data may stay
// unacknowledged.
func unacknowledgedTimeout(time.Duration) func(network, address string, c syscall.RawConn) error {
	return nil
}

//go:build !linux

package deadpeer

import (
	"syscall"
	"time"
)

// Control leaves it to the system how long data may stay unacknowledged.
func Control(time.Duration) func(network, address string, c syscall.RawConn) error { return nil }

func setUnacknowledged(syscall.RawConn, time.Duration) error { return nil }

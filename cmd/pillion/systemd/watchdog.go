package systemd

import (
	"context"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// patsPerTimeout is how often in the watchdog's time the service is looked at: it
// is ended after as many failures in a row, not after one.
const patsPerTimeout = 3

// Watch tells the manager that the service makes progress, for as long as check
// says so, until ctx ends. check gets a third of the watchdog's time. Where the
// unit has no watchdog (WatchdogSec=), Watch does nothing.
func (m *Manager) Watch(ctx context.Context, check func(context.Context) error) {
	if m == nil {
		return
	}
	timeout, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		m.logger.Warn("there is no watchdog: the service manager's time is wrong", "err", err)
		return
	}
	if timeout > 0 {
		m.watch(ctx, timeout/patsPerTimeout, check)
	}
}

func (m *Manager) watch(ctx context.Context, every time.Duration, check func(context.Context) error) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		bounded, cancel := context.WithTimeout(ctx, every)
		err := check(bounded)
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			m.logger.Error("the data plane makes no progress: the service manager ends this process unless that changes", "err", err)
		default:
			m.watchdog()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"

	"github.com/pillion-proxy/pillion/cmd/pillion/handover"
	"github.com/pillion-proxy/pillion/cmd/pillion/sidecar"
	"github.com/pillion-proxy/pillion/cmd/pillion/systemd"
)

// process attends to a sidecar that runs: it tells the predecessor and the service
// manager how the sidecar fares, and hears the signals that do not end it.
type process struct {
	logger      *slog.Logger
	sidecar     *sidecar.Sidecar
	manager     *systemd.Manager
	predecessor *handover.Predecessor
	upgrade     upgrade

	hangups, rotations <-chan os.Signal
}

// attend begins, and returns what ends it. ctx ends with the signal that ends the
// sidecar.
func (p *process) attend(ctx context.Context) (stop func()) {
	running, cancel := context.WithCancel(context.Background())
	var attending sync.WaitGroup
	attending.Go(func() {
		select {
		case <-p.sidecar.Serving():
		case <-running.Done():
			return
		}
		if p.predecessor != nil {
			p.predecessor.Begun()
			p.sidecar.Alone()
		}
		p.manager.Ready(p.status())
		attending.Go(func() { p.manager.Watch(running, p.sidecar.Probe) })
		attending.Go(func() { p.hear(ctx, running) })
	})
	attending.Go(func() {
		select {
		case <-ctx.Done():
			if p.upgrade.serving() {
				p.manager.Stopping("draining")
			}
		case <-running.Done():
		}
	})
	return func() {
		cancel()
		attending.Wait()
	}
}

// hear serves signals until the process ends.
func (p *process) hear(ctx, running context.Context) {
	var upgrading sync.WaitGroup
	defer upgrading.Wait()
	for {
		select {
		case <-p.hangups:
			p.reopen()
			if err := p.upgrade.begin(); err != nil {
				p.logger.Warn("SIGHUP does nothing: " + err.Error())
				continue
			}
			upgrading.Go(func() { p.upgrade.run(ctx, p.status) })
		case <-p.rotations:
			p.reopen()
		case <-running.Done():
			return
		}
	}
}

func (p *process) reopen() {
	if err := p.sidecar.Reopen(); err != nil {
		p.logger.Error(fmt.Sprintf("the access log cannot be opened anew: %v", err))
	}
}

// status is the service in a line, for `systemctl status`.
func (p *process) status() string {
	text := []string{"serving:"}
	for _, side := range []string{"outbound", "inbound", "admin"} {
		if where := p.sidecar.Address(side); where != "" {
			text = append(text, side, where)
		}
	}
	return strings.Join(text, " ")
}

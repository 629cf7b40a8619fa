package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/pillion-proxy/pillion/cmd/pillion/handover"
	"github.com/pillion-proxy/pillion/cmd/pillion/sidecar"
	"github.com/pillion-proxy/pillion/cmd/pillion/systemd"
)

func newRunCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run a sidecar",
		Long: `Runs a sidecar until SIGTERM or SIGINT, and then drains: it says that it is not
healthy, leaves the registry, and lets the RPCs under way finish. A second signal
ends it at once.

SIGHUP upgrades it in place: the binary, which may be another by now, is started
anew with the same arguments. It reads its configuration, takes over the listening
sockets and the place in the registry, and this process drains. No RPC fails. If
the new process does not get that far, this one goes on. SIGUSR1 opens the access
log's file anew, and so does SIGHUP.`,
		Example: `  pillion run -c pillion.yaml
  pillion run --outbound 127.0.0.1:15001 --admin 127.0.0.1:15000 --upstream greeter=127.0.0.1:50051,127.0.0.1:50052`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return run(cmd) },
	}
	addBootstrapFlags(cmd)
	return cmd
}

// run runs a sidecar in this process, in the place of another one where that has
// started this process.
func run(cmd *cobra.Command) error {
	// Before all else: until there is somebody to hear it, the signal would end
	// the process.
	hangups, rotations := heard(syscall.SIGHUP), heard(syscall.SIGUSR1)
	defer signal.Stop(hangups)
	defer signal.Stop(rotations)
	predecessor, err := handover.Inherit()
	if err != nil {
		return err
	}
	if err = serve(cmd, predecessor, hangups, rotations); err != nil {
		predecessor.Failed(err)
	}
	return err
}

// heard returns a signal's deliveries. One is kept until there is time for it.
func heard(s os.Signal) chan os.Signal {
	c := make(chan os.Signal, 1)
	signal.Notify(c, s)
	return c
}

func serve(cmd *cobra.Command, predecessor *handover.Predecessor, hangups, rotations <-chan os.Signal) error {
	cfg, err := bootstrapFrom(cmd)
	if err != nil {
		return err
	}
	level := new(slog.LevelVar)
	if err := level.UnmarshalText([]byte(cfg.GetLog().GetLevel())); err != nil {
		return err
	}
	logger := newLogger(cmd.ErrOrStderr(), cfg.GetLog().GetFormat(), level)
	slog.SetDefault(logger)
	activated, err := systemd.Activated()
	if err != nil {
		return err
	}
	var known sidecar.Known
	if err := predecessor.Known(&known); err != nil {
		logger.Warn("what the process before knew is of no use", "err", err)
	}
	s, err := sidecar.New(cfg, sidecar.Options{
		Build: build(), Logger: logger, LogLevel: level,
		Sockets: []sidecar.Sockets{predecessor, activated}, Known: known, Replaces: predecessor != nil,
	})
	if err != nil {
		return err
	}
	if err := activated.Unused(); err != nil {
		return err
	}
	trimMemory(logger)
	ctx, stop := untilSignal(cmd.Context(), logger)
	defer stop()
	if err := predecessor.AwaitBegin(ctx); err != nil {
		return err
	}
	manager := systemd.New(logger)
	defer manager.Close()
	p := &process{
		logger: logger, sidecar: s, manager: manager, predecessor: predecessor,
		upgrade: upgrade{logger: logger, manager: manager, sidecar: s, timeout: cfg.GetUpgrade().GetTimeout().AsDuration()},
		hangups: hangups, rotations: rotations,
	}
	defer p.attend(ctx)()
	return s.Run(ctx)
}

// untilSignal returns a context that ends with the first SIGTERM or SIGINT. The
// second one ends the process at once.
func untilSignal(parent context.Context, logger *slog.Logger) (context.Context, func()) {
	ctx, cancel := context.WithCancel(parent)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	done := make(chan struct{})
	go func() {
		for first := true; ; first = false {
			select {
			case sig := <-signals:
				if !first {
					logger.Warn("second signal: ending at once", "signal", sig.String())
					os.Exit(exitSecondSignal)
				}
				logger.Info("signal received", "signal", sig.String())
				cancel()
			case <-done:
				return
			}
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(done)
		cancel()
	}
}

// exitSecondSignal is the exit status after a second signal: that of a process
// that was interrupted, as shells have it.
const exitSecondSignal = 130

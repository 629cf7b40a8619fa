package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/pillion-proxy/pillion/cmd/pillion/sidecar"
)

func newRunCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run a sidecar",
		Long: `Runs a sidecar until SIGTERM or SIGINT, and then drains: it says that it is not
healthy, leaves the registry, and lets the RPCs under way finish. A second signal
ends it at once. SIGHUP opens the access log's file anew.`,
		Example: `  pillion run -c pillion.yaml
  pillion run --outbound 127.0.0.1:15001 --admin 127.0.0.1:15000 --upstream greeter=127.0.0.1:50051,127.0.0.1:50052`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return run(cmd) },
	}
	addBootstrapFlags(cmd)
	return cmd
}

func run(cmd *cobra.Command) error {
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
	s, err := sidecar.New(cfg, sidecar.Options{Build: build(), Logger: logger, LogLevel: level})
	if err != nil {
		return err
	}
	trimMemory(logger)
	ctx, stop := untilSignal(cmd.Context(), logger)
	defer stop()
	defer onHangup(logger, s.Reopen)()
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

// onHangup calls reopen at every SIGHUP until the returned function is called.
func onHangup(logger *slog.Logger, reopen func() error) (stop func()) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP)
	done := make(chan struct{})
	go func() {
		for {
			select {
			case <-signals:
				if err := reopen(); err != nil {
					logger.Error(fmt.Sprintf("the access log cannot be opened anew: %v", err))
				}
			case <-done:
				return
			}
		}
	}()
	return func() {
		signal.Stop(signals)
		close(done)
	}
}

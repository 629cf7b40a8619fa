package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/pillion-proxy/pillion/cmd/pillion/demo"
)

func newDemoCommand() *cobra.Command {
	o := demo.Options{}
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show a whole mesh on this machine: no Consul, no certificates, no set-up",
		Long: `Starts two versions of a greeter, a sidecar beside each and one beside a client,
sends load, and shows where the RPCs go while an instance ends and comes back.
It ends by itself, and fails if any RPC failed.`,
		Example: "  pillion demo\n  pillion demo --serve --outbound 127.0.0.1:15001",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if o.Executable, err = os.Executable(); err != nil {
				return err
			}
			o.Out = cmd.OutOrStdout()
			o.Live = isTerminal(o.Out)
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			return demo.Run(ctx, o)
		},
	}
	flags := cmd.Flags()
	flags.DurationVar(&o.Duration, "duration", 12*time.Second, "how long the load goes on, at least 3s")
	flags.IntVar(&o.Rate, "rate", 1000, "RPCs started per second")
	flags.BoolVar(&o.Serve, "serve", false, "stay up afterwards, until Ctrl-C")
	flags.StringVar(&o.Outbound, "outbound", "127.0.0.1:0", "where the client's sidecar listens; port 0 chooses one")
	flags.StringVar(&o.Admin, "admin", "127.0.0.1:0", "the admin port of the client's sidecar; port 0 chooses one")
	cmd.AddCommand(newDemoAppCommand())
	return cmd
}

// newDemoAppCommand is the demo's greeter, which the demo starts as a process of
// its own.
func newDemoAppCommand() *cobra.Command {
	var version, listen string
	cmd := &cobra.Command{
		Use:    "app",
		Short:  "The demo's greeter",
		Args:   noArguments,
		Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(context.WithoutCancel(cmd.Context()), os.Interrupt, syscall.SIGTERM)
			defer stop()
			return demo.RunApp(ctx, version, listen, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&version, "version-name", "v1", "the version that it says it is")
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:0", "where it listens")
	return cmd
}

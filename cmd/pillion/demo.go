package main

import (
	"context"
	"os"
	"os/signal"
	"strings"
	"syscall"

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
It ends by itself, and fails if any RPC failed.

With --scenario it shows what policies, canaries and experiments do, each in about a
minute:

  ` + strings.Join(demo.Scenarios(), "\n  ") + `

Then it says what must have come of it, and fails if that is not so.`,
		Example: "  pillion demo\n  pillion demo --scenario ab\n  pillion demo --scenario experiment --report report.html\n  pillion demo --serve --outbound 127.0.0.1:15001",
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
	flags.StringVar(&o.Scenario, "scenario", "", "what is shown: "+strings.Join(demo.ScenarioNames(), ", "))
	flags.DurationVar(&o.Duration, "duration", 0, "how long the load goes on, at least 3s, of a scenario 8s (default 12s, of a scenario 1m)")
	flags.IntVar(&o.Rate, "rate", 0, "RPCs started per second (default 1000, in a scenario 500)")
	flags.StringVar(&o.Report, "report", "", "the `FILE` that the report of --scenario experiment is written to (default one among the temporary files)")
	_ = cmd.MarkFlagFilename("report")
	flags.BoolVar(&o.Serve, "serve", false, "stay up afterwards, until Ctrl-C")
	flags.StringVar(&o.Outbound, "outbound", "127.0.0.1:0", "where the client's sidecar listens; port 0 chooses one")
	flags.StringVar(&o.Admin, "admin", "127.0.0.1:0", "the admin port of the client's sidecar; port 0 chooses one")
	_ = cmd.RegisterFlagCompletionFunc("scenario", cobra.FixedCompletions(demo.ScenarioNames(), cobra.ShellCompDirectiveNoFileComp))
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
			return demo.RunApp(ctx, version, listen, cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&version, "version-name", "v1", "the version that it says it is")
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:0", "where it listens")
	return cmd
}

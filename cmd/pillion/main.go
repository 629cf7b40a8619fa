// Command pillion is a sidecar for gRPC. This package is its command line:
// arguments in, one-line errors out, and the wiring of what they ask for.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/charmbracelet/lipgloss"
	"github.com/spf13/cobra"
)

func main() {
	os.Exit(execute(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
}

// execute runs one command line and returns the process's exit code.
func execute(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRoot() //nolint:contextcheck // commands get theirs when they are executed
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	ctx, done := context.WithCancel(ctx)
	defer done() // what commands have opened is closed then
	err := root.ExecuteContext(ctx)
	if code, is := errors.AsType[exitCode](err); is {
		return int(code)
	}
	if err != nil {
		printError(stderr, err)
		return 1
	}
	return 0
}

// exitCode ends a command that has said all there is to say with an exit code of its own.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "pillion",
		Short: "A sidecar for gRPC",
		Long: `Pillion is a sidecar for gRPC: clients dial it at localhost:15001, it finds the
instances of the service that they call, and carries each RPC to one of them.`,
		// Errors are printed once, by execute, and need no lesson on usage.
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return cmd.Help()
		},
		Args:                       cobra.ArbitraryArgs,
		SuggestionsMinimumDistance: 2,
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("%w: see %s --help", err, cmd.CommandPath())
	})
	root.AddCommand(commands()...)
	return root
}

func unknownCommand(root *cobra.Command, name string) error {
	if near := root.SuggestionsFor(name); len(near) > 0 {
		return fmt.Errorf("unknown command %q: did you mean %q?", name, near[0])
	}
	return fmt.Errorf("unknown command %q: see %s --help", name, root.CommandPath())
}

// noArguments refuses what is neither command nor flag.
func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("unexpected argument %q: see %s --help", args[0], cmd.CommandPath())
	}
	return nil
}

// printError prints an error on one line, or what consists of several problems
// on one line for each.
func printError(w io.Writer, err error) {
	mark := lipgloss.NewRenderer(w).NewStyle().Foreground(lipgloss.Color("1")).Bold(true).Render("pillion:")
	for line := range strings.Lines(err.Error()) {
		// Where standard error is closed there is nobody left to tell.
		_, _ = fmt.Fprintf(w, "%s %s\n", mark, strings.TrimRight(line, "\n"))
	}
}

// commands are all that pillion can do.
func commands() []*cobra.Command {
	return append(documentCommands(), newRunCommand(), newCheckCommand(), newDemoCommand(), newEndpointsCommand(),
		newExplainCommand(), newTestCommand(), newCACommand(), newIdentityCommand(), newReportCommand(), newPlanCommand(), newStatusCommand(), newCanaryCommand(), newExperimentCommand(), newTrafficCommand(), newVersionCommand(),
	)
}

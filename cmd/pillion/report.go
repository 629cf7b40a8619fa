package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/charmbracelet/lipgloss"
	"github.com/spf13/cobra"

	adminv1 "github.com/pillion-proxy/pillion/proto/pillion/admin/v1"
)

func newReportCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "report",
		Short: "Report on running sidecars",
		Args:  noArguments,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newReportPlaintextCommand())
	return cmd
}

func newReportPlaintextCommand() *cobra.Command {
	var (
		admin     adminFlags
		addresses []string
		output    string
	)
	cmd := &cobra.Command{
		Use:   "plaintext",
		Short: "List the callers that still come without TLS",
		Long: `Ask running sidecars which callers came to their apps without TLS since they started.
Where there are none left, inbound.tls can go from "permissive" to "strict". An upgrade
(SIGHUP) is a start: give those who seldom call their time.
It ends with exit code 1 where there are any.`,
		Example: "  pillion report plaintext\n  pillion report plaintext --admin 10.0.0.1:15000 --admin 10.0.0.2:15000",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "table" && output != "json" {
				return fmt.Errorf("--output: %q is not known: use table or json", output)
			}
			var answers []*adminv1.ListCallersResponse
			for _, address := range addresses {
				err := admin.ask(cmd.Context(), address, func(ctx context.Context, sidecar adminv1.AdminClient) error {
					answer, err := sidecar.ListCallers(ctx, &adminv1.ListCallersRequest{PlaintextOnly: true})
					answers = append(answers, answer)
					return err
				})
				if err != nil {
					return err
				}
			}
			if output == "json" {
				for _, answer := range answers {
					if err := writeJSON(cmd.OutOrStdout(), answer); err != nil {
						return err
					}
				}
			} else if _, err := io.WriteString(cmd.OutOrStdout(), plaintextTable(cmd.OutOrStdout(), answers)); err != nil {
				return err
			}
			for _, answer := range answers {
				if len(answer.GetCallers()) > 0 {
					return errPlaintextCallers
				}
			}
			return nil
		},
	}
	cmd.Flags().StringArrayVar(&addresses, "admin", []string{cmp.Or(os.Getenv(variable("admin")), defaultAdmin)},
		usage("ask the sidecar with this admin `ADDRESS`; may be repeated", "admin"))
	admin.addRest(cmd)
	addOutputFlag(cmd, &output, "table")
	return cmd
}

var errPlaintextCallers = errors.New("some callers still come without TLS")

// plaintextTable lays callers out for people, a table for all services.
func plaintextTable(out io.Writer, answers []*adminv1.ListCallersResponse) string {
	rows := plainTable(lipgloss.NewRenderer(out), "SERVICE", "INBOUND", "CALLER", "RPCS", "CONNECTIONS", "FIRST SEEN", "LAST SEEN")
	var quiet strings.Builder
	some := false
	for _, answer := range answers {
		service := cmp.Or(answer.GetService(), "-")
		switch {
		case answer.GetTls() == "":
			fmt.Fprintf(&quiet, "%s: this sidecar has no inbound side\n", service)
		case len(answer.GetCallers()) == 0:
			fmt.Fprintf(&quiet, "%s: nobody came without TLS since its sidecar started, at %s (inbound.tls: %s)\n", service, at(answer.GetSince()), answer.GetTls())
		}
		for _, c := range answer.GetCallers() {
			some = true
			rows.Row(service, answer.GetTls(), c.GetHost(), strconv.FormatUint(c.GetRpcs(), 10), number(c.GetConnections()), at(c.GetFirstSeen()), at(c.GetLastSeen()))
		}
		if n := answer.GetForgotten(); n > 0 {
			fmt.Fprintf(&quiet, "%s: %d more callers were not remembered\n", service, n)
		}
	}
	if !some {
		return quiet.String()
	}
	return rendered(rows) + quiet.String()
}

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/charmbracelet/lipgloss"
	"github.com/spf13/cobra"

	adminv1 "github.com/pillion-proxy/pillion/proto/pillion/admin/v1"
)

// maxNamed bounds the known services that are named where one is not known.
const maxNamed = 20

func newEndpointsCommand() *cobra.Command {
	var (
		admin  adminFlags
		output string
	)
	cmd := &cobra.Command{
		Use:     "endpoints [SERVICE...]",
		Short:   "Show the instances that a running sidecar knows",
		Long:    "Ask a running sidecar which services and instances it knows, all or those that are named.",
		Example: "  pillion endpoints\n  pillion endpoints greeter --admin 127.0.0.1:15000",
		RunE: func(cmd *cobra.Command, services []string) error {
			if output != "table" && output != "json" {
				return fmt.Errorf("--output: %q is not known: use table or json", output)
			}
			answer, err := askEndpoints(cmd.Context(), &admin, services)
			if err != nil {
				return err
			}
			if missing := notAmong(services, answer.GetServices()); len(missing) > 0 {
				return unknownServices(cmd.Context(), &admin, missing)
			}
			if output == "json" {
				return writeJSON(cmd.OutOrStdout(), answer)
			}
			_, err = io.WriteString(cmd.OutOrStdout(), endpointsTable(cmd.OutOrStdout(), answer.GetServices()))
			return err
		},
	}
	admin.add(cmd)
	addOutputFlag(cmd, &output, "table")
	return cmd
}

// askEndpoints returns what the sidecar answers.
func askEndpoints(ctx context.Context, admin *adminFlags, services []string) (answer *adminv1.ListEndpointsResponse, err error) {
	err = admin.ask(ctx, admin.address, func(ctx context.Context, sidecar adminv1.AdminClient) (err error) {
		answer, err = sidecar.ListEndpoints(ctx, &adminv1.ListEndpointsRequest{Services: services})
		return err
	})
	return answer, err
}

// notAmong returns the names that no service has.
func notAmong(names []string, services []*adminv1.Service) (missing []string) {
	for _, name := range names {
		if !slices.ContainsFunc(services, func(s *adminv1.Service) bool { return s.GetName() == name }) {
			missing = append(missing, name)
		}
	}
	return missing
}

// unknownServices says that the sidecar does not know services, one line for
// each, and which it knows.
func unknownServices(ctx context.Context, admin *adminFlags, missing []string) error {
	answer, err := askEndpoints(ctx, admin, nil)
	if err != nil {
		return err
	}
	services := answer.GetServices()
	known := "no services are known yet: they are looked up when the first RPC asks for them"
	if len(services) > 0 {
		var names []string
		for _, s := range services {
			names = append(names, s.GetName())
		}
		slices.Sort(names)
		names = slices.Compact(names)
		if more := len(names) - maxNamed; more > 0 {
			names = append(names[:maxNamed], fmt.Sprintf("and %d more", more))
		}
		known = "known: " + strings.Join(names, ", ")
	}
	var errs []error
	for _, name := range missing {
		errs = append(errs, fmt.Errorf("service %q is not known here; %s", name, known))
	}
	return errors.Join(errs...)
}

// endpointsTable lays services and their instances out for people, in colour
// where out is a terminal.
func endpointsTable(out io.Writer, services []*adminv1.Service) string {
	if len(services) == 0 {
		return "no services are known yet: they are looked up when the first RPC asks for them\n"
	}
	r := lipgloss.NewRenderer(out)
	colours := map[adminv1.InstanceState]lipgloss.Style{
		adminv1.InstanceState_INSTANCE_STATE_READY:   r.NewStyle().Foreground(lipgloss.Color("2")),
		adminv1.InstanceState_INSTANCE_STATE_BACKOFF: r.NewStyle().Foreground(lipgloss.Color("1")),
	}
	rows := plainTable(r, "SERVICE", "SIDE", "INSTANCE", "STATE", "WEIGHT", "RPCS", "CONNECTIONS", "VERSION", "NOTE")
	for _, s := range services {
		side := enumWord(s.GetSide().String(), "SIDE_")
		if len(s.GetInstances()) == 0 {
			rows.Row(s.GetName(), side, "-", "-", "-", "-", "-", "-", note(s, "no instances"))
		}
		for _, i := range s.GetInstances() {
			colour := colours[i.GetState()]
			if len(i.GetBlocked()) > 0 {
				colour = colours[adminv1.InstanceState_INSTANCE_STATE_BACKOFF]
			}
			rows.Row(s.GetName(), side, i.GetAddress(), colour.Render(instanceState(i)), number(i.GetWeight()),
				number(i.GetInFlight()), number(i.GetConnections()), cmp.Or(i.GetMeta()["version"], "-"),
				note(s, cmp.Or(i.GetLastError(), i.GetBlockedBecause())))
		}
	}
	return rendered(rows)
}

// instanceState is what keeps RPCs from an instance, or how it stands.
func instanceState(i *adminv1.Instance) string {
	state := enumWord(i.GetState().String(), "INSTANCE_STATE_")
	if len(i.GetBlocked()) == 0 || i.GetState() == adminv1.InstanceState_INSTANCE_STATE_BACKOFF {
		return state
	}
	var reasons []string
	for _, reason := range i.GetBlocked() {
		reasons = append(reasons, enumWord(reason.String(), "BLOCK_REASON_"))
	}
	return strings.Join(reasons, ", ")
}

// note is what there is to say beside the numbers, on one line.
func note(s *adminv1.Service, text string) string {
	if s.GetStale() {
		text = strings.TrimSuffix("stale: the registry is out of reach; "+text, "; ")
	}
	return strings.Join(strings.Fields(text), " ")
}

func number(n uint32) string { return strconv.FormatUint(uint64(n), 10) }

// enumWord returns INSTANCE_STATE_READY as "ready".
func enumWord(name, prefix string) string {
	return strings.ToLower(strings.TrimPrefix(name, prefix))
}

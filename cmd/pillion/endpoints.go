package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/charmbracelet/lipgloss"
	"github.com/charmbracelet/lipgloss/table"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"

	adminv1 "github.com/pillion-proxy/pillion/proto/pillion/admin/v1"
	"github.com/pillion-proxy/pillion/registry"
)

const (
	defaultAdmin = "127.0.0.1:15000"
	// maxEndpointsAnswer bounds what is read of a sidecar's answer, in bytes.
	maxEndpointsAnswer = 256 << 20
	// maxNamed bounds the known services that are named where one is not known.
	maxNamed = 20
)

func newEndpointsCommand() *cobra.Command {
	var (
		admin, output string
		timeout       time.Duration
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
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			raw, err := askEndpoints(ctx, admin, services)
			if err != nil {
				return err
			}
			answer, err := parseEndpoints(admin, raw)
			if err != nil {
				return err
			}
			if missing := notAmong(services, answer); len(missing) > 0 {
				return unknownServices(ctx, admin, missing)
			}
			if output == "json" {
				_, err := cmd.OutOrStdout().Write(raw)
				return err
			}
			_, err = io.WriteString(cmd.OutOrStdout(), endpointsTable(cmd.OutOrStdout(), answer))
			return err
		},
	}
	cmd.Flags().StringVar(&admin, "admin", cmp.Or(os.Getenv(variable("admin")), defaultAdmin), usage("the sidecar's admin `ADDRESS`", "admin"))
	cmd.Flags().StringVarP(&output, "output", "o", "table", "the `FORM` of what is shown: table or json")
	cmd.Flags().DurationVar(&timeout, "timeout", 5*time.Second, "how long the answer may take, a `DURATION`")
	_ = cmd.RegisterFlagCompletionFunc("admin", cobra.NoFileCompletions)
	_ = cmd.RegisterFlagCompletionFunc("timeout", cobra.NoFileCompletions)
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// askEndpoints returns what the sidecar whose admin port is given answers.
func askEndpoints(ctx context.Context, admin string, services []string) ([]byte, error) {
	network, address, err := registry.ParseAddress(admin)
	if err != nil {
		return nil, fmt.Errorf("--admin: %w", err)
	}
	host := address
	if network == "unix" {
		host = "localhost"
	}
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}}
	defer transport.CloseIdleConnections()
	target := url.URL{Scheme: "http", Host: host, Path: "/endpoints", RawQuery: url.Values{"service": services}.Encode()}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("--admin: %w", err)
	}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return nil, noSidecar(admin, err)
	}
	defer func() { _ = response.Body.Close() }()
	raw, err := io.ReadAll(io.LimitReader(response.Body, maxEndpointsAnswer))
	if err != nil {
		return nil, noSidecar(admin, err)
	}
	if response.StatusCode != http.StatusOK || !json.Valid(raw) {
		first, _, _ := strings.Cut(string(raw[:min(len(raw), 200)]), "\n")
		return nil, fmt.Errorf("%s: does not answer as a sidecar's admin port: %s: %q", admin, response.Status, first)
	}
	return raw, nil
}

func parseEndpoints(admin string, raw []byte) ([]*adminv1.Service, error) {
	answer := &adminv1.ListEndpointsResponse{}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(raw, answer); err != nil {
		return nil, fmt.Errorf("%s: does not answer as a sidecar's admin port: %w", admin, err)
	}
	return answer.GetServices(), nil
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
func unknownServices(ctx context.Context, admin string, missing []string) error {
	raw, err := askEndpoints(ctx, admin, nil)
	if err != nil {
		return err
	}
	services, err := parseEndpoints(admin, raw)
	if err != nil {
		return err
	}
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

// noSidecar says why nobody answered, without the URL that the HTTP library
// puts before it.
func noSidecar(admin string, err error) error {
	if inner, ok := errors.AsType[*url.Error](err); ok {
		err = inner.Err
	}
	why := err.Error()
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		why = "connection refused"
	case errors.Is(err, context.DeadlineExceeded):
		why = "no answer in time"
	}
	return fmt.Errorf("no sidecar answers at %s: %s: is it running, and is this its admin.listen (--admin)?", admin, why)
}

// endpointsTable lays services and their instances out for people, in colour
// where out is a terminal.
func endpointsTable(out io.Writer, services []*adminv1.Service) string {
	if len(services) == 0 {
		return "no services are known yet: they are looked up when the first RPC asks for them\n"
	}
	r := lipgloss.NewRenderer(out)
	header := r.NewStyle().Bold(true)
	colours := map[adminv1.InstanceState]lipgloss.Style{
		adminv1.InstanceState_INSTANCE_STATE_READY:   r.NewStyle().Foreground(lipgloss.Color("2")),
		adminv1.InstanceState_INSTANCE_STATE_BACKOFF: r.NewStyle().Foreground(lipgloss.Color("1")),
	}
	rows := table.New().Border(lipgloss.HiddenBorder()).
		BorderTop(false).BorderBottom(false).BorderLeft(false).BorderRight(false).BorderHeader(false).BorderColumn(false).
		StyleFunc(func(row, _ int) lipgloss.Style {
			style := r.NewStyle().PaddingRight(2)
			if row == table.HeaderRow {
				return style.Inherit(header)
			}
			return style
		}).
		Headers("SERVICE", "SIDE", "INSTANCE", "STATE", "WEIGHT", "RPCS", "CONNECTIONS", "VERSION", "NOTE")
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
	var text strings.Builder
	for line := range strings.Lines(rows.Render() + "\n") {
		text.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
	return text.String()
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

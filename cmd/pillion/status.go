package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/charmbracelet/lipgloss"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/documents"
	"github.com/pillion-proxy/pillion/control/kv"
	"github.com/pillion-proxy/pillion/control/status"
)

// soon is how long before the end of a certificate it is marked.
const soon = time.Hour

// statusPause is the least time between two looks at the store.
const statusPause = 200 * time.Millisecond

func newStatusCommand() *cobra.Command {
	var (
		output, service string
		watch, wait     bool
		timeout         time.Duration
	)
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show all sidecars of the mesh, and what each obeys",
		Long: `Show the sidecars that follow the documents of the mesh: which revision of each document
they obey, who lags behind, who has refused what and why, when certificates end, and
where canaries and experiments stand.

--wait returns once every sidecar has seen the newest revision of all that it follows. It
ends with exit code 1 where one has refused it, where one obeys what the store has lost,
or where the time is over.`,
		Example: "  pillion status\n  pillion status --service greeter --watch\n  pillion apply -f policies && pillion status --wait --timeout 10s",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "table" && output != "json" {
				return fmt.Errorf("--output: %q is not known: use table or json", output)
			}
			if watch && wait {
				return errors.New("--watch and --wait exclude each other: give one")
			}
			store, err := openStore(cmd)
			if err != nil {
				return err
			}
			show := func(m *status.Mesh) error { return showStatus(cmd.OutOrStdout(), m, output) }
			switch {
			case watch:
				return followStatus(cmd.Context(), store, service, func(m *status.Mesh) (bool, error) { return false, show(m) })
			case wait:
				return awaitStatus(cmd.Context(), store, service, timeout, show)
			}
			m, err := status.Read(cmd.Context(), store, service)
			if err != nil {
				return err
			}
			return show(m)
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&service, "service", "", "show only the sidecars that stand beside this service or call it, by its `NAME`")
	flags.BoolVarP(&watch, "watch", "w", false, "show it again whenever it changes")
	flags.BoolVar(&wait, "wait", false, "wait until all sidecars have the newest documents")
	flags.DurationVar(&timeout, "timeout", 30*time.Second, "how long --wait waits, a `DURATION`")
	_ = cmd.RegisterFlagCompletionFunc("service", cobra.NoFileCompletions)
	_ = cmd.RegisterFlagCompletionFunc("timeout", cobra.NoFileCompletions)
	addStoreFlags(cmd)
	addOutputFlag(cmd, &output, "table")
	return cmd
}

// followStatus hands each state of the mesh to see, until that says that it is enough.
func followStatus(ctx context.Context, store kv.Store, service string, see func(*status.Mesh) (enough bool, err error)) error {
	ctx, cancel := context.WithCancel(ctx)
	changed := make(chan error, 1)
	watching := make(chan struct{})
	defer func() { <-watching }()
	defer cancel()
	go func() {
		defer close(watching)
		store.Watch(ctx, control.Root, func(st kv.State) {
			select {
			case changed <- st.Err:
			default: // it looks again anyway
			}
		})
	}()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-changed:
			if err == nil {
				var m *status.Mesh
				if m, err = status.Read(ctx, store, service); err == nil {
					if enough, err := see(m); enough || err != nil {
						return err
					}
				}
			}
			if errors.Is(err, kv.ErrDenied) {
				return err
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(statusPause):
		}
	}
}

// awaitStatus waits until all sidecars have made up their minds, and shows how it ended.
func awaitStatus(ctx context.Context, store kv.Store, service string, timeout time.Duration, show func(*status.Mesh) error) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var last *status.Mesh
	err := followStatus(ctx, store, service, func(m *status.Mesh) (bool, error) {
		last = m
		return m.Settled(), nil
	})
	if last != nil {
		if err := show(last); err != nil {
			return err
		}
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded) && last == nil:
		return fmt.Errorf("%s: no answer within %v", store.Describe(), timeout)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("after %v some sidecars have not seen the newest documents yet", timeout)
	case err != nil:
		return err
	case last.Refused() > 0:
		return errors.New("some sidecars have refused documents")
	case last.Lost() > 0:
		return errors.New("the store has lost documents that some sidecars still obey: apply them again")
	}
	return nil
}

func showStatus(out io.Writer, m *status.Mesh, output string) error {
	if output == "json" {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		return enc.Encode(m)
	}
	_, err := io.WriteString(out, statusText(out, m, time.Now()))
	return err
}

// statusText lays the mesh out for people, in colour where out is a terminal.
func statusText(out io.Writer, m *status.Mesh, now time.Time) string {
	r := lipgloss.NewRenderer(out)
	good, bad := r.NewStyle().Foreground(lipgloss.Color("2")), r.NewStyle().Foreground(lipgloss.Color("1"))
	// Whoever may write a status, or a state, may have written anything there.
	show := documents.Printable
	var b strings.Builder
	if len(m.Sidecars) == 0 {
		b.WriteString("no sidecar follows the documents here (they do with `control: {}` in their bootstraps)\n")
	} else {
		rows := plainTable(r, "SERVICE", "SIDECAR", "VERSION", "POLICIES", "DOCUMENTS", "CERTIFICATE", "STATE")
		for _, s := range m.Sidecars {
			state := good.Render("in order")
			switch {
			case len(s.Refused) > 0:
				state = bad.Render(fmt.Sprintf("refused %d", len(s.Refused)))
			case len(s.Behind) > 0:
				state = bad.Render(fmt.Sprintf("behind by %d", len(s.Behind)))
			case len(s.Lost) > 0:
				state = bad.Render(fmt.Sprintf("keeps %d lost", len(s.Lost)))
			case len(s.Problems) > 0:
				state = bad.Render("problems")
			}
			rows.Row(cmp.Or(show(s.Service), "-"), show(s.ID), show(s.Version), cmp.Or(show(s.Policies), "-"), strconv.Itoa(s.InForce), certificate(s.CertificateExpires, now, bad), state)
		}
		b.WriteString(rendered(rows))
	}
	if len(m.Documents) > 0 {
		b.WriteByte('\n')
		rows := plainTable(r, "DOCUMENT", "SERVICE", "REVISION", "IN FORCE", "BEHIND", "REFUSED")
		for _, d := range m.Documents {
			rows.Row(show(d.Label()), show(d.Service), strconv.FormatUint(d.Revision, 10), fmt.Sprintf("%d of %d", d.InForce, d.Followers), marked(d.Behind, bad), marked(d.Refused, bad))
		}
		b.WriteString(rendered(rows))
	}
	if len(m.Runs) > 0 {
		b.WriteByte('\n')
		rows := plainTable(r, "RUN", "SERVICE", "PHASE", "STEP", "WEIGHT", "SINCE", "ELECTED", "REASON")
		for _, run := range m.Runs {
			step, weight := "-", "-"
			if run.Kind == string(control.Canary) {
				step, weight = number(run.Step), fmt.Sprintf("%g%%", float64(run.Weight)/100)
			}
			rows.Row(show(run.Kind+"/"+run.Name), show(run.Service), run.Phase, step, weight, at(timestamppb.New(run.Since)), cmp.Or(show(run.Elected), "-"), show(run.Reason))
		}
		b.WriteString(rendered(rows))
	}
	b.WriteString(statusDetails(m))
	return b.String()
}

// maxDetails bounds the lines on single sidecars that people are shown; -o json has all.
const maxDetails = 100

// statusDetails says what is the matter with each sidecar that is not in order. Those
// that lag behind, which are all of them just after a change, come last.
func statusDetails(m *status.Mesh) string {
	show := documents.Printable
	var lines, behind []string
	add := func(to *[]string, format string, args ...any) { *to = append(*to, fmt.Sprintf(format, args...)) }
	for _, s := range m.Sidecars {
		who := show(cmp.Or(s.Service, "client") + " " + s.ID)
		if len(s.Behind) > 0 {
			add(&behind, "%s: has not seen %s", who, show(strings.Join(s.Behind, ", ")))
		}
		for _, refusal := range s.Refused {
			kept := "nothing holds in its place"
			if refusal.InForce > 0 {
				kept = fmt.Sprintf("revision %d stays in force", refusal.InForce)
			}
			add(&lines, "%s: has refused %s: %s (%s)", who, show(refusal.Document), show(refusal.Problem), kept)
		}
		for _, lost := range s.Lost {
			add(&lines, "%s: %s revision %d: %s", who, show(lost.Document), lost.InForce, show(lost.Problem))
		}
		for _, problem := range s.Problems {
			add(&lines, "%s: %s", who, show(problem))
		}
	}
	for _, key := range m.Unreadable {
		add(&lines, "the key %s cannot be read", show(key))
	}
	lines = append(lines, behind...)
	if len(lines) == 0 {
		return ""
	}
	if n := len(lines) - maxDetails; n > 0 {
		lines = append(lines[:maxDetails], fmt.Sprintf("and %d more lines (-o json)", n))
	}
	return "\n" + strings.Join(lines, "\n") + "\n"
}

func marked(n int, bad lipgloss.Style) string {
	if n == 0 {
		return "0"
	}
	return bad.Render(strconv.Itoa(n))
}

// certificate says how long a certificate holds yet.
func certificate(expires *time.Time, now time.Time, bad lipgloss.Style) string {
	if expires == nil {
		return "-"
	}
	left := expires.Sub(now)
	switch {
	case left <= 0:
		return bad.Render("expired")
	case left < soon:
		return bad.Render(left.Round(time.Second).String())
	}
	return left.Round(time.Minute).String()
}

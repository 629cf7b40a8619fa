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
	"time"

	"github.com/charmbracelet/lipgloss"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/canary"
	"github.com/pillion-proxy/pillion/control/documents"
	"github.com/pillion-proxy/pillion/control/kv"
	"github.com/pillion-proxy/pillion/control/requests"
	adminv1 "github.com/pillion-proxy/pillion/proto/pillion/admin/v1"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
)

// canaryPause is how long --watch waits between two looks.
const canaryPause = time.Second

func newCanaryStatusCommand() *cobra.Command {
	var (
		admin  adminFlags
		output string
		watch  bool
		wait   bool
		limit  time.Duration
	)
	cmd := &cobra.Command{
		Use:   "status [NAME]",
		Short: "Show where canaries stand, or one and the evidence of its guards",
		Long: `Show where all canaries stand, or one of them: its step, what that waits for, what was
counted and what its guards have come to. What is counted just now comes from a running
sidecar (--admin), any that calls the service; without one it is what was known at the
last transition.

A guard's p is the chance of seeing evidence as strong at any time of the run of a canary
that is as good as it may be. When it is below the guard's part of false_alarm, the canary
is rolled back.

--wait shows each step until the run is over, and ends with exit code 0 where the canary
was promoted, and 1 where it was rolled back or aborted, or the time is over.`,
		Example:           "  pillion canary status\n  pillion canary status greeter-v2 --watch\n  pillion canary start greeter-v2 && pillion canary status greeter-v2 --wait",
		Args:              atMostOneRun(control.Canary),
		ValidArgsFunction: completeRuns(control.Canary),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output != formTable && output != formJSON {
				return fmt.Errorf("--output: %q is not known: use table or json", output)
			}
			switch {
			case watch && wait:
				return errors.New("--watch and --wait exclude each other: give one")
			case wait && len(args) == 0:
				return errors.New("--wait is for one canary: name it")
			case wait && output == formJSON:
				return errors.New("--wait shows steps as text: leave out --output, and ask for it afterwards")
			}
			store, err := openStore(cmd)
			if err != nil {
				return err
			}
			look := func(ctx context.Context) (proto.Message, string, error) {
				return lookAtCanaries(ctx, store, cmd.OutOrStdout())
			}
			if len(args) > 0 {
				service, _, err := canaryPlace(cmd.Context(), store, args[0])
				if err != nil {
					return err
				}
				if wait {
					return awaitCanary(cmd, store, requests.Subject{Kind: control.Canary, Service: service, Name: args[0]}, limit)
				}
				look = func(ctx context.Context) (proto.Message, string, error) {
					return lookAtCanary(ctx, store, &admin, cmd.Flags().Changed("admin"), cmd.OutOrStdout(), service, args[0])
				}
			}
			return showCanaries(cmd, look, output, watch)
		},
	}
	admin.add(cmd)
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "show it again whenever it changes")
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until the run is over")
	// --timeout says how long sidecars are waited for.
	cmd.Flags().DurationVar(&limit, "wait-timeout", 0, "how long --wait waits, a `DURATION`; 0: as long as it takes")
	_ = cmd.RegisterFlagCompletionFunc("wait-timeout", cobra.NoFileCompletions)
	addOutputFlag(cmd, &output, formTable)
	addStoreFlags(cmd)
	return cmd
}

// showCanaries shows what look returns, once or whenever it is another.
func showCanaries(cmd *cobra.Command, look func(context.Context) (proto.Message, string, error), output string, watch bool) error {
	last := ""
	for {
		m, text, err := look(cmd.Context())
		if err != nil && (!watch || last == "") {
			return err
		}
		if err != nil {
			text = err.Error() + "\n" // it may be over soon
		} else if output == formJSON {
			var b strings.Builder
			if err := writeJSON(&b, m); err != nil {
				return err
			}
			text = b.String()
		}
		if text != last {
			if last != "" && output != formJSON {
				text = "\n" + text
			}
			if _, err := io.WriteString(cmd.OutOrStdout(), text); err != nil {
				return err
			}
			last = strings.TrimPrefix(text, "\n")
		}
		if !watch {
			return nil
		}
		select {
		case <-time.After(canaryPause):
		case <-cmd.Context().Done():
			return nil
		}
	}
}

// awaitCanary shows where a canary stands, whenever that changes, until its run is over.
func awaitCanary(cmd *cobra.Command, store kv.Store, s requests.Subject, limit time.Duration) error {
	ctx := cmd.Context()
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	var shown uint64
	last, err := requests.Follow(ctx, store, s, func(state *controlv1.RunState) (enough bool) {
		if state.GetNumber() != shown && state.GetRefusal() == nil {
			shown = state.GetNumber()
			_, _ = fmt.Fprintf(cmd.OutOrStdout(), "%s  %s: %s\n", at(state.GetSince()), standing(state), documents.Printable(state.GetReason()))
		}
		return !canary.Active(state.GetPhase())
	})
	switch {
	case errors.Is(err, context.DeadlineExceeded) && cmd.Context().Err() == nil:
		return fmt.Errorf("canary %s: after %v its run is not over, as far as is known", s.Name, limit)
	case err != nil:
		return fmt.Errorf("canary %s: %w", s.Name, err)
	case last.GetRun() == 0:
		return fmt.Errorf("canary %s: it was not started yet: pillion canary start %s", s.Name, s.Name)
	case last.GetPhase() != controlv1.Phase_PHASE_PROMOTED:
		return fmt.Errorf("canary %s: it was %s", s.Name, control.PhaseWord(last.GetPhase()))
	}
	return nil
}

// lookAtCanaries returns the states of all canaries.
func lookAtCanaries(ctx context.Context, store kv.Store, out io.Writer) (proto.Message, string, error) {
	list, err := requests.States(ctx, store, control.Canary)
	if err != nil {
		return nil, "", err
	}
	slices.SortStableFunc(list, lastFirst)
	all := &meshv1.ReportResponse{States: list}
	for _, s := range list {
		s.Document = nil // which nobody can read in base64
	}
	if len(list) == 0 {
		return all, "no canary was started yet\n", nil
	}
	rows := plainTable(lipgloss.NewRenderer(out), "CANARY", "SERVICE", "PHASE", "STEP", "WEIGHT", "SINCE", "REASON")
	for _, s := range list {
		rows.Row(documents.Printable(s.GetName()), documents.Printable(s.GetService()), control.PhaseWord(s.GetPhase()), number(s.GetStep()), percent(s.GetWeight()), at(s.GetSince()), documents.Printable(s.GetReason()))
	}
	return all, rendered(rows), nil
}

// lookAtCanary returns how one canary stands, as a sidecar says or, without one, the store.
func lookAtCanary(ctx context.Context, store kv.Store, admin *adminFlags, asked bool, out io.Writer, service, name string) (proto.Message, string, error) {
	s, err := requests.State(ctx, store, requests.Subject{Kind: control.Canary, Service: service, Name: name})
	if err != nil {
		return nil, "", err
	}
	if s == nil {
		e := &meshv1.EvidenceResponse{State: &controlv1.RunState{Name: name, Service: service}}
		return e, fmt.Sprintf("canary %s of %s: not started yet: pillion canary start %s\n", name, service, name), nil
	}
	e, live := &meshv1.EvidenceResponse{State: s, Guards: s.GetGuards(), Tally: s.GetTally()}, false
	if canary.Active(s.GetPhase()) {
		err := admin.ask(ctx, admin.address, func(ctx context.Context, sidecar adminv1.AdminClient) error {
			answer, err := sidecar.GetEvidence(ctx, &adminv1.GetEvidenceRequest{Service: service, Name: name})
			if answer.GetEvidence().GetState() != nil {
				e, live = answer.GetEvidence(), true
			}
			return err
		})
		if err != nil && asked {
			return nil, "", err
		}
		if !live {
			e.Waiting = "not known: a running sidecar says it, with --admin ADDRESS"
		}
	}
	text := canaryText(out, e, live)
	if trouble := canaryTrouble(ctx, store, service, name); trouble != "" {
		text += "\n" + trouble + "\n"
	}
	e = proto.CloneOf(e)
	e.GetState().Document = nil // which nobody can read in base64
	return e, text, nil
}

// canaryText lays a canary out for people, in colour where out is a terminal.
func canaryText(out io.Writer, e *meshv1.EvidenceResponse, live bool) string {
	r := lipgloss.NewRenderer(out)
	colour := map[controlv1.Phase]string{
		controlv1.Phase_PHASE_PROMOTED: "2", controlv1.Phase_PHASE_ROLLED_BACK: "1", controlv1.Phase_PHASE_ABORTED: "1",
	}
	s := e.GetState()
	var b strings.Builder
	fmt.Fprintf(&b, "canary %s of %s: %s\n", documents.Printable(s.GetName()), documents.Printable(s.GetService()),
		r.NewStyle().Foreground(lipgloss.Color(colour[s.GetPhase()])).Bold(true).Render(standing(s)))
	fact := func(name, text string) { fmt.Fprintf(&b, "%-9s  %s\n", name, text) }
	if s.GetRun() > 0 {
		fact("run", fmt.Sprintf("%d, of revision %d", s.GetRun(), s.GetRevision()))
		fact("since", at(s.GetSince())+", by "+documents.Printable(cmp.Or(s.GetBy(), "-")))
		fact("because", documents.Printable(s.GetReason()))
	}
	if s.GetRefusal() != nil {
		when, who, why := occurrence(s)
		fact("then", fmt.Sprintf("%s (%s, by %s)", why, when, cmp.Or(who, "-")))
	}
	if w := e.GetWaiting(); w != "" {
		if e.GetNext() != nil {
			w += ", until " + at(e.GetNext())
		}
		fact("waits for", documents.Printable(w))
	}
	if len(e.GetTripped()) > 0 {
		fact("off it", "the RPCs of "+documents.Printable(strings.Join(e.GetTripped(), ", ")))
	}
	if t := e.GetTally(); t != nil {
		what := "in the run"
		if live {
			what = "in this step"
		}
		b.WriteByte('\n')
		rows := plainTable(r, "VERSION", "RPCS", "FAILED", "LATENCY")
		rows.Row("stable", strconv.FormatUint(t.GetStableRpcs(), 10), ofAll(t.GetStableFailures(), t.GetStableRpcs()), seconds(t.GetStableLatency()))
		rows.Row("canary", strconv.FormatUint(t.GetCanaryRpcs(), 10), ofAll(t.GetCanaryFailures(), t.GetCanaryRpcs()), seconds(t.GetCanaryLatency()))
		b.WriteString(rendered(rows))
		fmt.Fprintf(&b, "%s, on %d sidecars\n", what, t.GetSidecars())
	}
	if len(e.GetGuards()) > 0 {
		b.WriteByte('\n')
		rows := plainTable(r, "GUARD", "P")
		for _, g := range e.GetGuards() {
			rows.Row(documents.Printable(g.GetName()), fmt.Sprintf("%.2g", g.GetP()))
		}
		b.WriteString(rendered(rows))
	}
	return b.String()
}

func ofAll(n, of uint64) string {
	if of == 0 {
		return "-"
	}
	return fmt.Sprintf("%d (%.2g%%)", n, float64(n)/float64(of)*100)
}

func seconds(s float64) string {
	if s == 0 {
		return "-"
	}
	return fmt.Sprintf("%.3gms", s*1000)
}

func newCanaryHistoryCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:               "history NAME",
		Short:             "Show what became of a canary, when, why and by whom",
		Example:           "  pillion canary history greeter-v2",
		Args:              oneRun(control.Canary),
		ValidArgsFunction: completeRuns(control.Canary),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output != formTable && output != formJSON {
				return fmt.Errorf("--output: %q is not known: use table or json", output)
			}
			store, err := openStore(cmd)
			if err != nil {
				return err
			}
			service, _, err := canaryPlace(cmd.Context(), store, args[0])
			if err != nil {
				return err
			}
			list, err := requests.History(cmd.Context(), store, requests.Subject{Kind: control.Canary, Service: service, Name: args[0]})
			if err != nil {
				return err
			}
			if len(list) == 0 {
				return fmt.Errorf("canary %q was never started", args[0])
			}
			return showTransitions(cmd.OutOrStdout(), output, list, transitionsTable)
		},
	}
	addOutputFlag(cmd, &output, formTable)
	addStoreFlags(cmd)
	return cmd
}

// transitionsTable lays transitions out for people, the last one first.
func transitionsTable(out io.Writer, list []*controlv1.Transition) string {
	rows := plainTable(lipgloss.NewRenderer(out), "TIME", "RUN", "PHASE", "STEP", "WEIGHT", "BY", "REASON")
	for _, t := range slices.Backward(list) {
		s := t.GetState()
		when, who, why := occurrence(s)
		rows.Row(when, strconv.FormatUint(s.GetRun(), 10), control.PhaseWord(s.GetPhase()), number(s.GetStep()), percent(s.GetWeight()), who, why)
		for _, answer := range t.GetHooks() {
			rows.Row("", "", "", "", "", "hook", documents.Printable(answer))
		}
	}
	return rendered(rows)
}

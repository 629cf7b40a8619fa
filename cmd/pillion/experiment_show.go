package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/charmbracelet/lipgloss"
	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/documents"
	"github.com/pillion-proxy/pillion/control/experiment/report"
	"github.com/pillion-proxy/pillion/control/kv"
	"github.com/pillion-proxy/pillion/control/requests"
	"github.com/pillion-proxy/pillion/proto/configyaml"
	adminv1 "github.com/pillion-proxy/pillion/proto/pillion/admin/v1"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
)

func newExperimentStatusCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:               "status [NAME]",
		Short:             "Show where experiments stand",
		Example:           "  pillion experiment status\n  pillion experiment status checkout-button -o json",
		Args:              atMostOneRun(control.Experiment),
		ValidArgsFunction: completeRuns(control.Experiment),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output != formTable && output != formJSON {
				return fmt.Errorf("--output: %q is not known: use table or json", output)
			}
			store, err := openStore(cmd)
			if err != nil {
				return err
			}
			states, err := requests.States(cmd.Context(), store, control.Experiment)
			if err != nil {
				return err
			}
			if len(args) == 1 {
				states = slices.DeleteFunc(states, func(s *controlv1.RunState) bool { return s.GetName() != args[0] })
				if len(states) == 0 {
					return fmt.Errorf("experiment %q never ran: start it (pillion experiment start %s)", args[0], args[0])
				}
			}
			if output == formJSON {
				for _, s := range states {
					s.Document = nil // which is bytes to a reader
				}
				return writeMessages(cmd.OutOrStdout(), states)
			}
			if len(states) == 0 {
				_, err = io.WriteString(cmd.OutOrStdout(), "no experiment was started yet\n")
				return err
			}
			rows := plainTable(lipgloss.NewRenderer(cmd.OutOrStdout()), "EXPERIMENT", "SERVICE", "PHASE", "RUN", "REVISION", "SINCE", "BY", "WHY")
			for _, s := range states {
				rows.Row(documents.Printable(s.GetName()), documents.Printable(s.GetService()), control.PhaseWord(s.GetPhase()), strconv.FormatUint(s.GetRun(), 10),
					strconv.FormatUint(s.GetRevision(), 10), at(s.GetSince()), documents.Printable(s.GetBy()), documents.Printable(s.GetReason()))
			}
			_, err = io.WriteString(cmd.OutOrStdout(), rendered(rows))
			return err
		},
	}
	addOutputFlag(cmd, &output, formTable)
	addStoreFlags(cmd)
	return cmd
}

func newExperimentHistoryCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:               "history NAME",
		Short:             "Show what became of an experiment, and what hooks answered",
		Long:              "Show all transitions of an experiment, the last one first. Who changed its document is what\npillion history shows.",
		Example:           "  pillion experiment history checkout-button",
		Args:              oneRun(control.Experiment),
		ValidArgsFunction: completeRuns(control.Experiment),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output != formTable && output != formJSON {
				return fmt.Errorf("--output: %q is not known: use table or json", output)
			}
			store, err := openStore(cmd)
			if err != nil {
				return err
			}
			state, err := findRun(cmd.Context(), store, control.Experiment, args[0])
			if err != nil {
				return err
			}
			if state == nil {
				return fmt.Errorf("experiment %q never ran, and so has no history", args[0])
			}
			list, err := requests.History(cmd.Context(), store, subjectOf(state))
			if err != nil {
				return err
			}
			return showTransitions(cmd.OutOrStdout(), output, list, experimentTransitions)
		},
	}
	addOutputFlag(cmd, &output, formTable)
	addStoreFlags(cmd)
	return cmd
}

// experimentTransitions lays transitions out for people, the last one first.
func experimentTransitions(out io.Writer, list []*controlv1.Transition) string {
	rows := plainTable(lipgloss.NewRenderer(out), "NUMBER", "TIME", "RUN", "PHASE", "BY", "WHY", "HOOKS")
	for _, one := range slices.Backward(list) {
		s := one.GetState()
		when, who, why := occurrence(s)
		rows.Row(strconv.FormatUint(s.GetNumber(), 10), when, strconv.FormatUint(s.GetRun(), 10), control.PhaseWord(s.GetPhase()),
			who, why, documents.Printable(strings.Join(one.GetHooks(), "; ")))
	}
	return rendered(rows)
}

func subjectOf(s *controlv1.RunState) requests.Subject {
	return requests.Subject{Kind: control.Experiment, Service: s.GetService(), Name: s.GetName()}
}

// The forms of a report.
const (
	formText = "text"
	formHTML = "html"
)

func newExperimentReportCommand() *cobra.Command {
	var (
		admin        adminFlags
		output, save string
	)
	cmd := &cobra.Command{
		Use:   "report NAME",
		Short: "Show what an experiment has come to",
		Long: `Show what an experiment has come to, how sure that is, and what is still missing. While it
runs, the sidecar that is elected for its service is asked, by way of any sidecar (--admin).
What it has come to at its end is in the mesh's store.

It may be looked at as often as one likes: the figures stay right.`,
		Example: `  pillion experiment report checkout-button
  pillion experiment report checkout-button -o html --save report.html`,
		Args:              oneRun(control.Experiment),
		ValidArgsFunction: completeRuns(control.Experiment),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output != formText && output != formJSON && output != formHTML {
				return fmt.Errorf("--output: %q is not known: use text, json or html", output)
			}
			e, results, err := findResults(cmd, &admin, args[0])
			if err != nil {
				return err
			}
			a := report.Analyze(e, results)
			write := a.WriteText
			switch output {
			case formJSON:
				write = a.WriteJSON
			case formHTML:
				write = a.WriteHTML
			}
			if save == "" {
				return write(cmd.OutOrStdout())
			}
			var b bytes.Buffer
			if err := write(&b); err != nil {
				return err
			}
			if err := renameio.WriteFile(save, b.Bytes(), 0o644); err != nil {
				return fmt.Errorf("--save: %w", err)
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", formText, "the `FORM` of the report: text, json or html")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{formText, formJSON, formHTML}, cobra.ShellCompDirectiveNoFileComp))
	cmd.Flags().StringVar(&save, "save", "", "write the report into this `FILE`")
	_ = cmd.MarkFlagFilename("save")
	admin.add(cmd)
	addStoreFlags(cmd)
	return cmd
}

// findResults returns what an experiment has come to, and the document as it ran.
func findResults(cmd *cobra.Command, admin *adminFlags, name string) (*configv1.Experiment, *meshv1.ResultsResponse, error) {
	store, err := openStore(cmd)
	if err != nil {
		return nil, nil, err
	}
	state, err := findRun(cmd.Context(), store, control.Experiment, name)
	switch {
	case err != nil:
		return nil, nil, err
	case state.GetRun() == 0:
		return nil, nil, fmt.Errorf("experiment %q never ran: start it (pillion experiment start %s)", name, name)
	}
	e := &configv1.Experiment{}
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(state.GetDocument(), e); err != nil {
		return nil, nil, fmt.Errorf("experiment %q: its document as it runs cannot be read: %w", name, err)
	}
	e = configyaml.EffectiveExperiment(e)
	if state.GetPhase() != controlv1.Phase_PHASE_RUNNING {
		results, err := lastResults(cmd.Context(), store, state)
		return e, results, err
	}
	var results *meshv1.ResultsResponse
	err = admin.ask(cmd.Context(), admin.address, func(ctx context.Context, sidecar adminv1.AdminClient) error {
		answer, err := sidecar.GetResults(ctx, &adminv1.GetResultsRequest{Service: state.GetService(), Name: name})
		results = answer.GetResults()
		return err
	})
	return e, results, err
}

// errNoResults says that an experiment ended without anybody who knew its results.
var errNoResults = errors.New("when it ended, no sidecar knew what it had come to")

// lastResults returns what an experiment had come to at its end.
func lastResults(ctx context.Context, store kv.Store, state *controlv1.RunState) (*meshv1.ResultsResponse, error) {
	history, err := requests.History(ctx, store, subjectOf(state))
	if err != nil {
		return nil, err
	}
	for _, one := range slices.Backward(history) {
		s := one.GetState()
		if s.GetRun() != state.GetRun() || len(one.GetResults()) == 0 {
			continue
		}
		results := &meshv1.ResultsResponse{}
		if err := proto.Unmarshal(one.GetResults(), results); err != nil {
			return nil, fmt.Errorf("experiment %q: its results in the store cannot be read: %w", state.GetName(), err)
		}
		results.State = state
		return results, nil
	}
	return nil, fmt.Errorf("experiment %q: %w", state.GetName(), errNoResults)
}

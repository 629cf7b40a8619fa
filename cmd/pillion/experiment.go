package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/documents"
	"github.com/pillion-proxy/pillion/control/kv"
	"github.com/pillion-proxy/pillion/control/requests"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
)

func newExperimentCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "experiment",
		Short: "Plan, start, watch and stop experiments that compare variants",
		Long: `Divide users, or whatever else requests come from, among variants of a service, and compare
what comes of them. docs/experiments.md explains how, and what the figures mean.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newExperimentPlanCommand(), newExperimentStartCommand(), newExperimentStatusCommand(),
		newExperimentReportCommand(), newExperimentStopCommand(), newExperimentHistoryCommand())
	return cmd
}

func newExperimentStartCommand() *cobra.Command {
	var (
		files []string
		wait  time.Duration
		part  bool
	)
	cmd := &cobra.Command{
		Use:   "start [NAME]",
		Short: "Start an experiment",
		Long: `Start an experiment that was applied, or, with --file, apply it and start it. It runs as it
is now: a later revision holds from the next start on.`,
		Example:           "  pillion experiment start checkout-button -m \"does green sell better?\"\n  pillion experiment start -f checkout-button.yaml",
		Args:              atMostOneName,
		ValidArgsFunction: completeExperiments,
		RunE: func(cmd *cobra.Command, args []string) error {
			store, err := openStore(cmd)
			if err != nil {
				return err
			}
			name := ""
			if len(args) == 1 {
				name = args[0]
			}
			if len(files) > 0 {
				if name, err = applyExperiment(cmd, files, name, part); err != nil {
					return err
				}
			}
			if name == "" {
				return errors.New("no experiment is named: give its NAME, or a --file with it")
			}
			doc, err := findExperiment(cmd, name)
			if err != nil {
				return err
			}
			e := doc.GetExperiment()
			return askExperiment(cmd, store, requests.Subject{Kind: control.Experiment, Service: e.GetService(), Name: name},
				&controlv1.Request{Action: controlv1.Action_ACTION_START, Revision: doc.GetRevision()}, wait)
		},
	}
	addFileFlag(cmd, &files)
	cmd.Flags().BoolVar(&part, "subsets-elsewhere", false, "with --file: allow subsets that no document defines, but Consul or mesh files do")
	addAskFlags(cmd, &wait)
	return cmd
}

func newExperimentStopCommand() *cobra.Command {
	var wait time.Duration
	cmd := &cobra.Command{
		Use:   "stop NAME",
		Short: "Stop an experiment, and keep what it has come to",
		Long: `Stop an experiment: from then on all go where the routes say. What it has come to stays, for
pillion experiment report.`,
		Example:           "  pillion experiment stop checkout-button -m \"green it is\"",
		Args:              oneName,
		ValidArgsFunction: completeExperiments,
		RunE: func(cmd *cobra.Command, args []string) error {
			store, err := openStore(cmd)
			if err != nil {
				return err
			}
			state, err := findRun(cmd.Context(), store, args[0])
			if err != nil {
				return err
			}
			if state == nil {
				return fmt.Errorf("experiment %q never ran: there is nothing to stop", args[0])
			}
			return askExperiment(cmd, store, requests.Subject{Kind: control.Experiment, Service: state.GetService(), Name: args[0]},
				&controlv1.Request{Action: controlv1.Action_ACTION_STOP}, wait)
		},
	}
	addAskFlags(cmd, &wait)
	return cmd
}

// askExperiment asks for something, waits for the answer, and says what it is.
func askExperiment(cmd *cobra.Command, store kv.Store, s requests.Subject, q *controlv1.Request, wait time.Duration) error {
	q.Author, q.Message = author(cmd), message(cmd)
	number, err := requests.Ask(cmd.Context(), store, s, q)
	if err != nil {
		return err
	}
	if wait <= 0 {
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "experiment %s: asked for, as request %d\n", s.Name, number)
		return err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), wait)
	defer cancel()
	state, err := awaitAnswer(ctx, cmd, store, s, number)
	switch {
	case errors.Is(err, context.DeadlineExceeded) && cmd.Context().Err() == nil:
		return fmt.Errorf("experiment %s: after %v no sidecar has done it yet: does one that calls %s follow these documents? (pillion status says so; the request stays)", s.Name, wait, s.Service)
	case err != nil:
		return fmt.Errorf("experiment %s: asked for, but whether it is done is not known: %w", s.Name, err)
	}
	if why := requests.Refused(state); why != "" {
		return fmt.Errorf("experiment %s: refused: %s", s.Name, documents.Printable(why))
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "experiment %s: %s, run %d of revision %d\n",
		s.Name, phaseWord(state.GetPhase()), state.GetRun(), state.GetRevision())
	return err
}

// phaseWord is what people call a phase.
func phaseWord(p controlv1.Phase) string {
	switch p {
	case controlv1.Phase_PHASE_RUNNING:
		return "running"
	case controlv1.Phase_PHASE_ENDED:
		return "ended"
	}
	return "not started"
}

// applyExperiment applies the one experiment that files have, and returns its name, which
// must be the one that is wanted, if any is.
func applyExperiment(cmd *cobra.Command, files []string, wanted string, part bool) (string, error) {
	d, err := readDocumentFiles(files, cmd.InOrStdin())
	if err != nil {
		return "", err
	}
	name := ""
	for _, one := range d.list {
		e := one.GetExperiment()
		if e == nil || wanted != "" && e.GetName() != wanted {
			continue
		}
		if name != "" {
			return "", fmt.Errorf("the files have the experiments %q and %q: name the one that is to start", name, e.GetName())
		}
		name = e.GetName()
	}
	if name == "" {
		return "", fmt.Errorf("the files have no experiment%s", named(wanted))
	}
	return name, applyBefore(cmd, d, part)
}

func named(name string) string {
	if name == "" {
		return ""
	}
	return fmt.Sprintf(" named %q", name)
}

// findExperiment returns an experiment's document.
func findExperiment(cmd *cobra.Command, name string) (*controlv1.Document, error) {
	docs, err := openDocuments(cmd)
	if err != nil {
		return nil, err
	}
	all, err := docs.Load(cmd.Context())
	if err != nil {
		return nil, err
	}
	one := all.Find(documents.ID{Kind: control.Experiment, Name: name})
	switch {
	case one == nil:
		return nil, fmt.Errorf("there is no experiment %q: apply it first (pillion apply -f FILE), or see pillion get experiments", name)
	case one.Problem != nil:
		return nil, fmt.Errorf("experiment %q: %w", name, one.Problem)
	}
	return one.Document, nil
}

// findRun returns the state of an experiment, of the service where it ran last; nil: it
// never ran.
func findRun(ctx context.Context, store kv.Store, name string) (*controlv1.RunState, error) {
	states, err := requests.States(ctx, store, control.Experiment)
	if err != nil {
		return nil, err
	}
	var found *controlv1.RunState
	for _, s := range states {
		newer := cmp.Compare(s.GetSince().AsTime().UnixNano(), found.GetSince().AsTime().UnixNano()) > 0
		running := s.GetPhase() == controlv1.Phase_PHASE_RUNNING
		if s.GetName() == name && (found == nil || running || newer && found.GetPhase() != controlv1.Phase_PHASE_RUNNING) {
			found = s
		}
	}
	return found, nil
}

// oneName takes the one argument NAME.
func oneName(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("%d arguments are given, but one name is wanted, such as: %s checkout-button", len(args), cmd.CommandPath())
	}
	return nil
}

func atMostOneName(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return oneName(cmd, args)
}

// completeExperiments offers the names of experiments.
func completeExperiments(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	d, err := openDocuments(cmd)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), documentPatience)
	defer cancel()
	state, err := d.Load(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, one := range state.All {
		if one.ID.Kind == control.Experiment {
			names = append(names, one.ID.Name)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/documents"
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
		Args:              atMostOneRun(control.Experiment),
		ValidArgsFunction: completeRuns(control.Experiment),
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
				if name, err = applyRun(cmd, control.Experiment, files, name, part); err != nil {
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
			s := requests.Subject{Kind: control.Experiment, Service: doc.GetExperiment().GetService(), Name: name}
			if err := runsElsewhere(cmd.Context(), store, s); err != nil {
				return err
			}
			return askRun(cmd, store, s, &controlv1.Request{Action: controlv1.Action_ACTION_START, Revision: doc.GetRevision()}, wait, experimentStands)
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
		Args:              oneRun(control.Experiment),
		ValidArgsFunction: completeRuns(control.Experiment),
		RunE: func(cmd *cobra.Command, args []string) error {
			store, err := openStore(cmd)
			if err != nil {
				return err
			}
			state, err := findRun(cmd.Context(), store, control.Experiment, args[0])
			if err != nil {
				return err
			}
			if state == nil {
				return fmt.Errorf("experiment %q never ran: there is nothing to stop", args[0])
			}
			s := subjectOf(state)
			docs, err := documents.New(store, documents.Options{}).Load(cmd.Context())
			if err != nil {
				return err
			}
			if docs.Find(documents.ID{Kind: s.Kind, Name: s.Name}) == nil {
				if err := mustRun(cmd.Context(), store, s, controlv1.Action_ACTION_STOP); err != nil {
					return err
				}
			}
			return askRun(cmd, store, s, &controlv1.Request{Action: controlv1.Action_ACTION_STOP}, wait, experimentStands)
		},
	}
	addAskFlags(cmd, &wait)
	return cmd
}

// experimentStands says where an experiment stands, such as "running, run 1 of revision 3".
func experimentStands(s *controlv1.RunState) string {
	return fmt.Sprintf("%s, run %d of revision %d", control.PhaseWord(s.GetPhase()), s.GetRun(), s.GetRevision())
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

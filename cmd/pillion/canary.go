package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/canary"
	"github.com/pillion-proxy/pillion/control/documents"
	"github.com/pillion-proxy/pillion/control/kv"
	"github.com/pillion-proxy/pillion/control/requests"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
)

func newCanaryCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "canary",
		Short: "Lead RPCs to a new version step by step, and watch that",
		Long: `Start canaries that were applied, see where they stand, and have them go on, stop or end.
Commands write what is wanted into the mesh's store; the sidecar that is elected for the
service does it, and says no, with a reason, where it cannot be done.`,
		Args: noArguments,
	}
	cmd.AddCommand(newCanaryStartCommand(), newCanaryStatusCommand(),
		newCanaryAskCommand("promote", "Go to the next step now, whatever this one still waits for"),
		newCanaryAskCommand("pause", "Stay at this step; guards go on"),
		newCanaryAskCommand("resume", "Go on after a pause"),
		newCanaryAskCommand("abort", "Send all RPCs to the stable version, and end the run"),
		newCanaryHistoryCommand())
	return cmd
}

func newCanaryStartCommand() *cobra.Command {
	var (
		files   []string
		part    bool
		timeout time.Duration
	)
	cmd := &cobra.Command{
		Use:   "start NAME | -f FILE",
		Short: "Begin a run of a canary",
		Long: `Begin a run of a canary that was applied, or, with -f, apply the documents of a file first
and start the one canary among them, or that of the given name. A service has one running
canary at a time.`,
		Example: "  pillion canary start greeter-v2\n  pillion canary start -f greeter-v2.yaml -m \"the new greeting\"",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 && len(files) > 0 {
				return nil
			}
			return oneRun(control.Canary)(cmd, args)
		},
		ValidArgsFunction: completeRuns(control.Canary),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := ""
			if len(args) > 0 {
				name = args[0]
			}
			if len(files) > 0 {
				var err error
				if name, err = applyRun(cmd, control.Canary, files, name, part); err != nil {
					return err
				}
			}
			return askCanary(cmd, name, controlv1.Action_ACTION_START, timeout)
		},
	}
	addFileFlag(cmd, &files)
	cmd.Flags().BoolVar(&part, "subsets-elsewhere", false, "allow the canary subsets that no document defines, but Consul or mesh files do")
	addAskFlags(cmd, &timeout)
	return cmd
}

func newCanaryAskCommand(name, short string) *cobra.Command {
	var (
		timeout time.Duration
		fully   bool
	)
	actions := map[string]controlv1.Action{
		"promote": controlv1.Action_ACTION_PROMOTE, "pause": controlv1.Action_ACTION_PAUSE,
		"resume": controlv1.Action_ACTION_RESUME, "abort": controlv1.Action_ACTION_ABORT,
	}
	cmd := &cobra.Command{
		Use:               name + " NAME",
		Short:             short,
		Example:           "  pillion canary " + name + " greeter-v2",
		Args:              oneRun(control.Canary),
		ValidArgsFunction: completeRuns(control.Canary),
		RunE: func(cmd *cobra.Command, args []string) error {
			action := actions[name]
			if fully {
				action = controlv1.Action_ACTION_PROMOTE_FULLY
			}
			return askCanary(cmd, args[0], action, timeout)
		},
	}
	if name == "promote" {
		cmd.Flags().BoolVar(&fully, "fully", false, "send all RPCs to the canary now, and end the run")
	}
	addAskFlags(cmd, &timeout)
	return cmd
}

// canaryPlace finds the service of a canary, by its document or, where it runs for another
// one, by its run, and the revision of its document there, 0 where there is none.
func canaryPlace(ctx context.Context, store kv.Store, name string) (service string, revision uint64, err error) {
	s, err := findRun(ctx, store, control.Canary, name)
	if err != nil {
		return "", 0, err
	}
	state, err := documents.New(store, documents.Options{}).Load(ctx)
	if err != nil {
		return "", 0, err
	}
	if one := state.Find(documents.ID{Kind: control.Canary, Name: name}); one != nil && (one.Service == s.GetService() || !canary.Active(s.GetPhase())) {
		return one.Service, one.Document.GetRevision(), nil
	}
	if s != nil {
		return s.GetService(), 0, nil
	}
	return "", 0, fmt.Errorf("canary %q: there is no such document: pillion get canaries shows all, pillion apply makes one", name)
}

// askCanary asks something of a canary, and says what came of it.
func askCanary(cmd *cobra.Command, name string, action controlv1.Action, timeout time.Duration) error {
	store, err := openStore(cmd)
	if err != nil {
		return err
	}
	service, revision, err := canaryPlace(cmd.Context(), store, name)
	if err != nil {
		return err
	}
	q := &controlv1.Request{Action: action}
	s := requests.Subject{Kind: control.Canary, Service: service, Name: name}
	if action == controlv1.Action_ACTION_START {
		if revision == 0 {
			if err := runsElsewhere(cmd.Context(), store, requests.Subject{Kind: control.Canary, Name: name}); err != nil {
				return err
			}
			return fmt.Errorf("canary %q: its document was deleted: apply it first", name)
		}
		q.Revision = revision
	} else if revision == 0 {
		if err := mustRun(cmd.Context(), store, s, action); err != nil {
			return err
		}
	}
	return askRun(cmd, store, s, q, timeout, standing)
}

// standing says where a canary stands, such as "running, step 1 of 3, 10%".
func standing(s *controlv1.RunState) string {
	if s.GetRun() == 0 {
		return control.PhaseWord(s.GetPhase())
	}
	steps := ""
	if c, err := canary.Document(s); err == nil {
		steps = fmt.Sprintf(" of %d", len(c.GetSteps()))
	}
	return fmt.Sprintf("%s, step %d%s, %s", control.PhaseWord(s.GetPhase()), s.GetStep(), steps, percent(s.GetWeight()))
}

// percent writes a share in 1/10,000.
func percent(weight uint32) string { return fmt.Sprintf("%g%%", float64(weight)/100) }

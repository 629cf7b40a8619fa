package main

import (
	"context"
	"errors"
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

// defaultAwait is how long commands wait for the elected sidecar.
const defaultAwait = 30 * time.Second

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

// oneCanary takes the name of a canary.
func oneCanary(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("%d arguments are given, but the name of one canary is wanted: %s NAME", len(args), cmd.CommandPath())
	}
	return nil
}

// completeCanaries completes the name of a canary.
func completeCanaries(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	d, err := openDocuments(cmd)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	state, err := d.Load(cmd.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var names []string
	for _, one := range state.All {
		if one.ID.Kind == control.Canary {
			names = append(names, one.ID.Name)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
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
			return oneCanary(cmd, args)
		},
		ValidArgsFunction: completeCanaries,
		RunE: func(cmd *cobra.Command, args []string) error {
			name := ""
			if len(args) > 0 {
				name = args[0]
			}
			if len(files) > 0 {
				d, err := readDocumentFiles(files, cmd.InOrStdin())
				if err != nil {
					return err
				}
				if name, err = canaryAmong(d.list, name); err != nil {
					return err
				}
				if err := applyBefore(cmd, d, part); err != nil {
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

// canaryAmong returns the name of the canary that is to be started among documents.
func canaryAmong(list []*controlv1.Document, name string) (string, error) {
	var names []string
	for _, d := range list {
		if c := d.GetCanary(); c != nil {
			if c.GetName() == name {
				return name, nil
			}
			names = append(names, c.GetName())
		}
	}
	switch {
	case name != "":
		return "", fmt.Errorf("the files have no canary %q", name)
	case len(names) == 0:
		return "", errors.New("the files have no canary")
	case len(names) > 1:
		return "", fmt.Errorf("the files have %d canaries: say which is to be started, such as %s", len(names), names[0])
	}
	return names[0], nil
}

// applyBefore applies documents before one of them is started.
func applyBefore(cmd *cobra.Command, d *documentFiles, subsetsElsewhere bool) error {
	in, err := openDocuments(cmd)
	if err != nil {
		return err
	}
	result, err := in.Apply(cmd.Context(), documents.Wanted{
		Documents: d.list, SubsetsElsewhere: subsetsElsewhere, Author: author(cmd), Message: message(cmd),
	})
	if result != nil {
		printResult(cmd, result, false)
	}
	return d.located(err)
}

// addAskFlags gives a command the flags of those that ask something of a canary.
func addAskFlags(cmd *cobra.Command, timeout *time.Duration) {
	cmd.Flags().DurationVar(timeout, "timeout", defaultAwait, "how long to wait until it is done, a `DURATION`; 0: not at all")
	_ = cmd.RegisterFlagCompletionFunc("timeout", cobra.NoFileCompletions)
	addAuthorFlags(cmd)
	addStoreFlags(cmd)
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
		Args:              oneCanary,
		ValidArgsFunction: completeCanaries,
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

// canaryPlace finds the service of a canary and the revision of its document, 0 where it
// was deleted.
func canaryPlace(ctx context.Context, store kv.Store, name string) (service string, revision uint64, err error) {
	state, err := documents.New(store, documents.Options{}).Load(ctx)
	if err != nil {
		return "", 0, err
	}
	if one := state.Find(documents.ID{Kind: control.Canary, Name: name}); one != nil {
		return one.Service, one.Document.GetRevision(), nil
	}
	list, err := requests.States(ctx, store, control.Canary)
	if err != nil {
		return "", 0, err
	}
	for _, s := range list {
		if s.GetName() == name {
			return s.GetService(), 0, nil
		}
	}
	return "", 0, fmt.Errorf("canary %q: there is no such document: pillion get canaries shows all, pillion apply makes one", name)
}

// askCanary asks something of a canary, and says what came of it.
func askCanary(cmd *cobra.Command, name string, action controlv1.Action, timeout time.Duration) error {
	ctx := cmd.Context()
	store, err := openStore(cmd)
	if err != nil {
		return err
	}
	service, revision, err := canaryPlace(ctx, store, name)
	if err != nil {
		return err
	}
	q := &controlv1.Request{Action: action, Author: author(cmd), Message: message(cmd)}
	if action == controlv1.Action_ACTION_START {
		if revision == 0 {
			return fmt.Errorf("canary %q: its document was deleted: apply it first", name)
		}
		q.Revision = revision
	}
	subject := requests.Subject{Kind: control.Canary, Service: service, Name: name}
	number, err := requests.Ask(ctx, store, subject, q)
	if err != nil {
		return err
	}
	if timeout <= 0 {
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "canary %s: asked for, as request %d\n", name, number)
		return err
	}
	waiting, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	s, err := awaitAnswer(waiting, cmd, store, subject, number)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return fmt.Errorf("canary %s: after %v no sidecar has done it yet: does one that calls %s follow these documents? (pillion status says so; the request stays)", name, timeout, service)
	}
	if err == nil {
		s, err = justAfter(ctx, store, subject, number, s)
	}
	if err != nil {
		return err
	}
	if requests.Refused(s) != "" {
		return fmt.Errorf("canary %s: %s", name, documents.Printable(s.GetReason()))
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "canary %s: %s\n", name, standing(s))
	return err
}

// justAfter returns the state just after a request, which may have gone on since to now.
func justAfter(ctx context.Context, store kv.Store, subject requests.Subject, number uint64, now *controlv1.RunState) (*controlv1.RunState, error) {
	list, err := requests.History(ctx, store, subject)
	if err != nil {
		return nil, err
	}
	for _, t := range list {
		s := t.GetState()
		if s.GetRequest() != number {
			continue
		}
		if s.GetRun() == now.GetRun() {
			s.Document = now.GetDocument() // which the history does not have
		}
		return s, nil
	}
	return now, nil // the history is bounded
}

// standing says where a canary stands, such as "running, step 1 of 3, 10%".
func standing(s *controlv1.RunState) string {
	if s.GetRun() == 0 {
		return canary.PhaseWord(s.GetPhase())
	}
	steps := ""
	if c, err := canary.Document(s); err == nil {
		steps = fmt.Sprintf(" of %d", len(c.GetSteps()))
	}
	return fmt.Sprintf("%s, step %d%s, %s", canary.PhaseWord(s.GetPhase()), s.GetStep(), steps, percent(s.GetWeight()))
}

// percent writes a share in 1/10,000.
func percent(weight uint32) string { return fmt.Sprintf("%g%%", float64(weight)/100) }

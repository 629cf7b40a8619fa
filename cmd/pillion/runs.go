package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/canary"
	"github.com/pillion-proxy/pillion/control/documents"
	"github.com/pillion-proxy/pillion/control/kv"
	"github.com/pillion-proxy/pillion/control/requests"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
)

// What commands for canaries and for experiments have in common.

// oneRun takes the name of a canary, or of an experiment.
func oneRun(kind control.Kind) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return fmt.Errorf("%d arguments are given, but the name of one %s is wanted: %s NAME", len(args), kind, cmd.CommandPath())
		}
		return nil
	}
}

// atMostOneRun takes such a name, or none.
func atMostOneRun(kind control.Kind) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		return oneRun(kind)(cmd, args)
	}
}

// completeRuns offers the names of canaries, or of experiments.
func completeRuns(kind control.Kind) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return documentNames(cmd, kind, ""), cobra.ShellCompDirectiveNoFileComp
	}
}

// runAmong returns the one document of a kind that files have, of the given name if that is
// not empty.
func runAmong(kind control.Kind, list []*controlv1.Document, name string) (*controlv1.Document, error) {
	var found *controlv1.Document
	named := ""
	for _, d := range list {
		id, _ := documents.IDOf(d)
		if id.Kind != kind || name != "" && id.Name != name {
			continue
		}
		if found != nil {
			return nil, fmt.Errorf("the files have %s %q and %q: name the one that is meant", kind, named, id.Name)
		}
		found, named = d, id.Name
	}
	switch {
	case found != nil:
		return found, nil
	case name != "":
		return nil, fmt.Errorf("the files have no %s %q", kind, name)
	}
	return nil, fmt.Errorf("the files have no %s", kind)
}

// applyRun applies files before the one canary, or experiment, that they have is started,
// and returns its name. It must be the given one if that is not empty.
func applyRun(cmd *cobra.Command, kind control.Kind, files []string, name string, subsetsElsewhere bool) (string, error) {
	d, err := readDocumentFiles(files, cmd.InOrStdin())
	if err != nil {
		return "", err
	}
	one, err := runAmong(kind, d.list, name)
	if err != nil {
		return "", err
	}
	id, _ := documents.IDOf(one)
	return id.Name, applyBefore(cmd, d, subsetsElsewhere)
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

// defaultAwait is how long commands wait for the elected sidecar.
const defaultAwait = 30 * time.Second

// addAskFlags gives a command the flags of those that ask something of a canary or an
// experiment.
func addAskFlags(cmd *cobra.Command, timeout *time.Duration) {
	cmd.Flags().DurationVar(timeout, "timeout", defaultAwait, "how long to wait until it is done, a `DURATION`; 0: not at all")
	_ = cmd.RegisterFlagCompletionFunc("timeout", cobra.NoFileCompletions)
	addAuthorFlags(cmd)
	addStoreFlags(cmd)
}

// runsElsewhere refuses to start what runs for another service: its document was moved, or
// deleted and written anew for another service, by force. Both would be of one name.
func runsElsewhere(ctx context.Context, store kv.Store, s requests.Subject) error {
	state, err := findRun(ctx, store, s.Kind, s.Name)
	if err != nil || !canary.Active(state.GetPhase()) || state.GetService() == s.Service {
		return err
	}
	end := "canary abort"
	if s.Kind == control.Experiment {
		end = "experiment stop"
	}
	return fmt.Errorf("%s %s: it still runs for the service %s, for which there is no document of it any more: end that first (pillion %s %s)", s.Kind, s.Name, documents.Printable(state.GetService()), end, s.Name)
}

// mustRun refuses what is asked of a canary, or an experiment, that has no document any
// more and is over: nobody is elected to say so.
func mustRun(ctx context.Context, store kv.Store, s requests.Subject, action controlv1.Action) error {
	state, err := requests.State(ctx, store, s)
	if err != nil || canary.Active(state.GetPhase()) {
		return err
	}
	return fmt.Errorf("%s %s: there is nothing to %s: it is %s, and its document was deleted", s.Kind, s.Name, requests.Verb(action), control.PhaseWord(state.GetPhase()))
}

// askRun asks something of a canary or an experiment, waits until it is done, and says what
// came of it, in the words of standing.
func askRun(cmd *cobra.Command, store kv.Store, s requests.Subject, q *controlv1.Request, timeout time.Duration, standing func(*controlv1.RunState) string) error {
	q.Author, q.Message = author(cmd), message(cmd)
	ctx := cmd.Context()
	number, err := requests.Ask(ctx, store, s, q)
	if err != nil {
		return err
	}
	if timeout <= 0 {
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s %s: asked for, as request %d\n", s.Kind, s.Name, number)
		return err
	}
	waiting, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	state, err := awaitAnswer(waiting, cmd, store, s, number)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return fmt.Errorf("%s %s: after %v no sidecar has done it yet: does one that calls %s follow these documents? (pillion status says so; the request stays)", s.Kind, s.Name, timeout, s.Service)
	}
	if err == nil {
		state, err = justAfter(ctx, store, s, number, state)
	}
	if err != nil {
		return fmt.Errorf("%s %s: asked for, but whether it is done is not known: %w", s.Kind, s.Name, err)
	}
	if why := requests.Refused(state); why != "" {
		return fmt.Errorf("%s %s: %s", s.Kind, s.Name, why)
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s %s: %s\n", s.Kind, s.Name, standing(state))
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

// findRun returns the state of a canary or an experiment, of the service where it ran last;
// nil: it never ran.
func findRun(ctx context.Context, store kv.Store, kind control.Kind, name string) (*controlv1.RunState, error) {
	states, err := requests.States(ctx, store, kind)
	if err != nil {
		return nil, err
	}
	states = slices.DeleteFunc(states, func(s *controlv1.RunState) bool { return s.GetName() != name })
	if len(states) == 0 {
		return nil, nil
	}
	return slices.MinFunc(states, lastFirst), nil
}

// lastFirst has those that run first, then the others, the last of them first.
func lastFirst(a, b *controlv1.RunState) int {
	if x, y := canary.Active(a.GetPhase()), canary.Active(b.GetPhase()); x != y {
		if x {
			return -1
		}
		return 1
	}
	return b.GetSince().AsTime().Compare(a.GetSince().AsTime())
}

// occurrence says of a transition when it was, who was behind it, and why: of a request
// that was refused, those of the refusal.
func occurrence(s *controlv1.RunState) (when, who, why string) {
	if refused := requests.Refused(s); refused != "" {
		return at(s.GetRefusal().GetTime()), documents.Printable(s.GetRefusal().GetAuthor()), refused
	}
	return at(s.GetSince()), documents.Printable(s.GetBy()), documents.Printable(s.GetReason())
}

// showTransitions shows what became of a canary or an experiment: in JSON, or as a table.
func showTransitions(out io.Writer, output string, list []*controlv1.Transition, table func(io.Writer, []*controlv1.Transition) string) error {
	if output != formJSON {
		_, err := io.WriteString(out, table(out, list))
		return err
	}
	for _, one := range list {
		one.Results = nil // which are bytes to a reader: pillion experiment report has them
	}
	return writeMessages(out, list)
}

// writeMessages writes messages as a JSON array.
func writeMessages[M proto.Message](out io.Writer, list []M) error {
	var b strings.Builder
	for i, m := range list {
		raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
		if err != nil {
			return err
		}
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(raw)
	}
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(json.RawMessage("[" + b.String() + "]"))
}

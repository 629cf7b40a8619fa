package main

import (
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/charmbracelet/lipgloss"
	"github.com/spf13/cobra"

	"github.com/pillion-proxy/pillion/control/documents"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
)

func newHistoryCommand() *cobra.Command {
	var (
		output string
		diffs  bool
	)
	cmd := &cobra.Command{
		Use:   "history KIND/NAME",
		Short: "Show who changed a document, when and why",
		Long: `Show the revisions of a policy, a canary or an experiment, the last one first, also of one
that was deleted. What sidecars did with a canary is what pillion canary history shows.

The newest 1,000 revisions of each document are kept; see pillion history prune.`,
		Example:           "  pillion history policy/checkout-routes\n  pillion history policy/checkout-routes --diff",
		Args:              oneDocument,
		ValidArgsFunction: completeDocuments,
		RunE: func(cmd *cobra.Command, args []string) error {
			if output != formTable && output != formJSON {
				return fmt.Errorf("--output: %q is not known: use table or json", output)
			}
			id, _ := documents.ParseID(args[0])
			d, err := openDocuments(cmd)
			if err != nil {
				return err
			}
			revisions, err := d.History(cmd.Context(), id)
			if err != nil {
				return err
			}
			if len(revisions) == 0 {
				return fmt.Errorf("%s: there is no such document, and never was", id)
			}
			switch {
			case output == formJSON:
				var list []*controlv1.Document
				for _, r := range revisions {
					list = append(list, r.Document)
				}
				return writeDocuments(cmd.OutOrStdout(), list)
			case diffs:
				return writeHistory(cmd.OutOrStdout(), revisions)
			}
			_, err = io.WriteString(cmd.OutOrStdout(), historyTable(cmd.OutOrStdout(), revisions))
			return err
		},
	}
	addOutputFlag(cmd, &output, formTable)
	cmd.Flags().BoolVar(&diffs, "diff", false, "show what each revision changed")
	addStoreFlags(cmd)
	cmd.AddCommand(newHistoryPruneCommand())
	return cmd
}

// defaultKept is how many revisions of each document pillion history prune leaves there.
const defaultKept = 20

func newHistoryPruneCommand() *cobra.Command {
	var (
		keep   uint
		age    time.Duration
		dryRun bool
	)
	cmd := &cobra.Command{
		Use:   "prune [KIND/NAME...]",
		Short: "Remove old revisions",
		Long: `Remove old revisions of the named documents, or of all: those that are not among the newest
--keep, and older than --older-than where that is given. The last revision always stays, also
one that says that the document was deleted. What is in force does not change; what was
removed cannot be brought back.`,
		Example:           "  pillion history prune --keep 50 --dry-run\n  pillion history prune policy/checkout-routes --older-than 2160h",
		Args:              documentsAtWill,
		ValidArgsFunction: completeDocuments,
		RunE: func(cmd *cobra.Command, args []string) error {
			if keep == 0 {
				return errors.New("--keep: the last revision always stays: give 1 or more")
			}
			if age < 0 {
				return fmt.Errorf("--older-than: %v is less than nothing", age)
			}
			p := documents.Pruning{Keep: int(min(keep, math.MaxInt32)), DryRun: dryRun}
			if age > 0 {
				p.Before = time.Now().Add(-age)
			}
			for _, arg := range args {
				id, _ := documents.ParseID(arg)
				p.Of = append(p.Of, id)
			}
			d, err := openDocuments(cmd)
			if err != nil {
				return err
			}
			list, err := d.Prune(cmd.Context(), p)
			verb, sum := "removed", 0
			if dryRun {
				verb = "would be removed"
			}
			for _, one := range list {
				sum += len(one.Removed)
				_, _ = fmt.Fprintf(cmd.OutOrStdout(), "%s: %d of %d revisions %s\n", one.ID, len(one.Removed), len(one.Removed)+one.Left, verb)
			}
			if err == nil && sum == 0 {
				_, err = io.WriteString(cmd.OutOrStdout(), "nothing is that old\n")
			}
			return err
		},
	}
	flags := cmd.Flags()
	flags.UintVar(&keep, "keep", defaultKept, "leave the newest of each document, a `NUMBER`, whatever their age")
	flags.DurationVar(&age, "older-than", 0, "remove only what is older than this `DURATION`, such as 2160h")
	flags.BoolVar(&dryRun, "dry-run", false, "say what would be removed, but remove nothing")
	for _, name := range []string{"keep", "older-than"} {
		_ = cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions)
	}
	addStoreFlags(cmd)
	return cmd
}

// documentsAtWill takes any number of arguments KIND/NAME.
func documentsAtWill(_ *cobra.Command, args []string) error {
	for _, arg := range args {
		if _, err := documents.ParseID(arg); err != nil {
			return err
		}
	}
	return nil
}

// historyTable lays revisions out for people, the last one first.
func historyTable(out io.Writer, revisions []documents.Revision) string {
	rows := plainTable(lipgloss.NewRenderer(out), "REVISION", "TIME", "BY", "WHAT", "MESSAGE")
	for i, r := range slices.Backward(revisions) {
		d := r.Document
		rows.Row(strconv.FormatUint(d.GetRevision(), 10), at(d.GetTime()), documents.Printable(d.GetAuthor()), became(revisions, i), documents.Printable(d.GetMessage()))
	}
	return rendered(rows)
}

// became says in a word what became of the document in a revision.
func became(revisions []documents.Revision, i int) string {
	r := revisions[i]
	switch {
	case r.Problem != nil:
		return r.Problem.Error()
	case r.Deleted():
		return "deleted"
	case r.Document.GetRestores() != 0:
		return fmt.Sprintf("restored %d", r.Document.GetRestores())
	case r.Document.GetRevision() == 1 || i > 0 && revisions[i-1].Deleted():
		return "created"
	}
	return "changed"
}

// writeHistory prints what each revision changed, the last one first.
func writeHistory(out io.Writer, revisions []documents.Revision) error {
	bold := lipgloss.NewRenderer(out).NewStyle().Bold(true)
	for i, r := range slices.Backward(revisions) {
		d := r.Document
		head := fmt.Sprintf("revision %d, %s, by %s, %s: %s", d.GetRevision(), became(revisions, i), documents.Printable(d.GetAuthor()), at(d.GetTime()), documents.Printable(d.GetMessage()))
		if _, err := fmt.Fprintln(out, bold.Render(head)); err != nil {
			return err
		}
		var before *controlv1.Document
		if i > 0 {
			before = revisions[i-1].Document
		}
		if err := writeDiff(out, documents.Diff(before, d)); err != nil {
			return err
		}
	}
	return nil
}

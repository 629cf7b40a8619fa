package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"

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
		Long: `Show all revisions of a policy, a canary or an experiment, the last one first, also of one
that was deleted. What sidecars did with a canary is what pillion canary history shows.`,
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
	return cmd
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
	case i == 0 || revisions[i-1].Deleted():
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

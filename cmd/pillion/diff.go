package main

import (
	"io"
	"strings"

	"github.com/charmbracelet/lipgloss"
	"github.com/spf13/cobra"

	"github.com/pillion-proxy/pillion/control/documents"
)

// differs is the exit code of pillion diff where there are differences, as diff(1) ends
// with one of its own then.
const differs = 2

func newDiffCommand() *cobra.Command {
	var (
		files []string
		prune bool
	)
	cmd := &cobra.Command{
		Use:   "diff",
		Short: "Show what pillion apply would change",
		Long: `Show how the documents in the mesh's store differ from those in files, as a unified diff
of YAML. Whether they can be applied is what pillion apply --dry-run says.

Exit codes: 0, nothing differs; 1, it cannot be said; 2, something differs.`,
		Example: "  pillion diff -f policies\n  pillion diff -f policies --prune",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := readDocumentFiles(files, cmd.InOrStdin())
			if err != nil {
				return err
			}
			in, err := openDocuments(cmd)
			if err != nil {
				return err
			}
			changes, err := in.Changes(cmd.Context(), documents.Wanted{Documents: d.list, Prune: prune})
			if err != nil {
				return err
			}
			for _, c := range changes {
				if err := writeDiff(cmd.OutOrStdout(), c.Diff()); err != nil {
					return err
				}
			}
			if len(changes) > 0 {
				return exitCode(differs)
			}
			return nil
		},
	}
	addFileFlag(cmd, &files)
	cmd.Flags().BoolVar(&prune, "prune", false, "show too what apply --prune would delete")
	addStoreFlags(cmd)
	return cmd
}

// writeDiff prints a unified diff, in colour where out is a terminal.
func writeDiff(out io.Writer, diff string) error {
	r := lipgloss.NewRenderer(out)
	bold := r.NewStyle().Bold(true)
	colour := func(c string) lipgloss.Style { return r.NewStyle().Foreground(lipgloss.Color(c)) }
	var text strings.Builder
	for line := range strings.Lines(diff) {
		line = strings.TrimSuffix(line, "\n")
		style := r.NewStyle()
		switch {
		case strings.HasPrefix(line, "--- "), strings.HasPrefix(line, "+++ "):
			style = bold
		case strings.HasPrefix(line, "@@"):
			style = colour("6")
		case strings.HasPrefix(line, "+"):
			style = colour("2")
		case strings.HasPrefix(line, "-"):
			style = colour("1")
		}
		text.WriteString(style.Render(line) + "\n")
	}
	_, err := io.WriteString(out, text.String())
	return err
}

package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pillion-proxy/pillion/control/documents"
)

// applyCommand is what the command is called that makes the folder that documents are
// kept in.
const applyCommand = "apply"

func newApplyCommand() *cobra.Command {
	var (
		files, expect       []string
		dryRun, prune, part bool
	)
	cmd := &cobra.Command{
		Use:   applyCommand,
		Short: "Hand policies, canaries and experiments to the mesh",
		Long: `Write documents into the mesh's store, from where all sidecars take them that are
concerned. All are checked first, together with those that are there; where one is wrong,
nothing is written. Each document has a history with who changed it, when and why.

What somebody else has changed at the same moment is not written over: the command ends
with exit code 1 and says who it was. What is as it is to be already is not written again.

Documents that are there and not in the files are left alone. With --prune they are
deleted, of those services that the files have documents for.`,
		Example: `  pillion apply -f policies -m "slow down retries"
  pillion apply -f canary.yaml --control /var/lib/pillion/documents
  pillion apply -f policies --dry-run
  pillion get -o yaml | pillion apply -f -`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := readDocumentFiles(files, cmd.InOrStdin())
			if err != nil {
				return err
			}
			wanted := documents.Wanted{
				Documents: d.list, Prune: prune, DryRun: dryRun, SubsetsElsewhere: part,
				Author: author(cmd), Message: message(cmd),
			}
			if wanted.Expect, err = expectations(expect); err != nil {
				return err
			}
			in, err := openDocuments(cmd)
			if err != nil {
				return err
			}
			result, err := in.Apply(cmd.Context(), wanted)
			if result != nil {
				printResult(cmd, result, dryRun)
			}
			if err != nil {
				return d.located(err)
			}
			if len(d.list) == 0 {
				warn(cmd, []string{strings.Join(files, ", ") + ": there is no document in it"})
			}
			ok := "ok"
			if dryRun {
				ok = "ok, and nothing was written"
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %d documents, %d unchanged\n", ok, len(d.list), result.Unchanged)
			return err
		},
	}
	addFileFlag(cmd, &files)
	flags := cmd.Flags()
	flags.BoolVar(&dryRun, "dry-run", false, "check all and say what would change, but write nothing")
	flags.BoolVar(&prune, "prune", false, "delete the documents that are not in the files, of the services that are")
	flags.BoolVar(&part, "subsets-elsewhere", false, "allow canaries and experiments subsets that no document defines, but Consul or mesh files do")
	flags.StringArrayVar(&expect, "expect", nil, "write only where a document has this revision now, as `KIND/NAME=REVISION`, 0 for none; may be repeated")
	_ = cmd.RegisterFlagCompletionFunc("expect", cobra.NoFileCompletions)
	addAuthorFlags(cmd)
	addStoreFlags(cmd)
	return cmd
}

// expectations reads what --expect says.
func expectations(list []string) (map[documents.ID]uint64, error) {
	expect := map[documents.ID]uint64{}
	for _, text := range list {
		name, number, ok := strings.Cut(text, "=")
		id, err := documents.ParseID(name)
		if !ok {
			err = errors.New("has no =REVISION, such as policy/checkout-routes=3")
		}
		revision, noNumber := strconv.ParseUint(number, 10, 63)
		if err == nil && noNumber != nil {
			err = fmt.Errorf("%q is no revision, such as 3", number)
		}
		if err != nil {
			return nil, fmt.Errorf("--expect: %s: %w", text, err)
		}
		expect[id] = revision
	}
	return expect, nil
}

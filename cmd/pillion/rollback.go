package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/pillion-proxy/pillion/control/documents"
)

func newRollbackCommand() *cobra.Command {
	var (
		to           uint64
		dryRun, part bool
	)
	cmd := &cobra.Command{
		Use:   "rollback KIND/NAME",
		Short: "Bring an earlier revision of a document back",
		Long: `Bring an earlier revision of a policy, a canary or an experiment back, as a new revision:
by default the one before the last; where the document was deleted, the last one that
there was. It is checked as pillion apply does.

To roll a canary back that is running, abort it: pillion canary abort.`,
		Example:           "  pillion rollback policy/checkout-routes -m \"too slow\"\n  pillion rollback policy/checkout-routes --to 3",
		Args:              oneDocument,
		ValidArgsFunction: completeDocuments,
		RunE: func(cmd *cobra.Command, args []string) error {
			id, _ := documents.ParseID(args[0])
			d, err := openDocuments(cmd)
			if err != nil {
				return err
			}
			result, err := d.Rollback(cmd.Context(), id, to, documents.Wanted{
				Author: author(cmd), Message: message(cmd), DryRun: dryRun, SubsetsElsewhere: part,
			})
			if err != nil {
				return err
			}
			printResult(cmd, result, dryRun)
			if len(result.Changes) == 0 {
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is like that already\n", id)
			}
			return err
		},
	}
	flags := cmd.Flags()
	flags.Uint64Var(&to, "to", 0, "bring this revision back, a `NUMBER` (see pillion history)")
	_ = cmd.RegisterFlagCompletionFunc("to", cobra.NoFileCompletions)
	flags.BoolVar(&dryRun, "dry-run", false, "check it and say what would change, but write nothing")
	flags.BoolVar(&part, "subsets-elsewhere", false, "allow canaries and experiments subsets that no document defines, but Consul or mesh files do")
	addAuthorFlags(cmd)
	addStoreFlags(cmd)
	return cmd
}

package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/pillion-proxy/pillion/control/documents"
)

func newDeleteCommand() *cobra.Command {
	var force, dryRun bool
	cmd := &cobra.Command{
		Use:   "delete KIND/NAME...",
		Short: "Delete documents of the mesh",
		Long: `Delete policies, canaries and experiments. Their history stays, so that pillion rollback
can bring them back.

A canary or an experiment that runs is not deleted, and neither is what another one
needs, such as the policy with its subsets, unless --force is given. What runs goes on
without its document, and can be ended as before.`,
		Example: "  pillion delete policy/checkout-routes -m \"no longer needed\"\n  pillion delete canary/checkout-v2 experiment/prices",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return oneDocument(cmd, args)
			}
			return documentsAtWill(cmd, args)
		},
		ValidArgsFunction: completeDocuments,
		RunE: func(cmd *cobra.Command, args []string) error {
			wanted := documents.Wanted{Force: force, DryRun: dryRun, Author: author(cmd), Message: message(cmd)}
			for _, arg := range args {
				id, err := documents.ParseID(arg)
				if err != nil {
					return fmt.Errorf("%s: %w", arg, err)
				}
				wanted.Delete = append(wanted.Delete, id)
			}
			d, err := openDocuments(cmd)
			if err != nil {
				return err
			}
			result, err := d.Apply(cmd.Context(), wanted)
			if result != nil {
				printResult(cmd, result, dryRun)
			}
			return err
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&force, "force", false, "delete what runs, or what others need, all the same")
	flags.BoolVar(&dryRun, "dry-run", false, "check it and say what would be deleted, but delete nothing")
	addAuthorFlags(cmd)
	addStoreFlags(cmd)
	return cmd
}

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/pillion-proxy/pillion/cmd/pillion/plan"
	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/documents"
	"github.com/pillion-proxy/pillion/control/status"
	adminv1 "github.com/pillion-proxy/pillion/proto/pillion/admin/v1"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

// The exit codes of pillion plan where something would change.
const (
	planChanges = 2
	planMoves   = 3
)

func newPlanCommand() *cobra.Command {
	var (
		admin     adminFlags
		addresses []string
		files     []string
		prune     bool
		output    string
	)
	cmd := &cobra.Command{
		Use:   "plan",
		Short: "Say what pillion apply would do to RPCs",
		Long: `Show what would change in which documents, for whose RPCs, and how many sidecars obey
them. RPCs that sidecars remember (--admin) are put to the policies as they are and as
they would be: those that would fare otherwise are listed, with what would become of them.
Sidecars remember a sample, of the metadata only the keys that policies mention.

Nothing is changed. Whatever is wrong in the files is an error, as with pillion apply.

Exit codes: 0, nothing would change; 1, it cannot be said; 2, documents would change, but
no RPC that is remembered would fare otherwise; 3, some would.`,
		Example: "  pillion plan -f policies --admin 10.0.0.1:15000 --admin 10.0.0.2:15000\n  pillion plan -f policies -o json",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "text" && output != "json" {
				return fmt.Errorf("--output: %q is not known: use text or json", output)
			}
			d, err := readDocumentFiles(files, cmd.InOrStdin())
			if err != nil {
				return err
			}
			p, err := makePlan(cmd, d, prune, func(ctx context.Context) (list []*adminv1.RecordedRPC, err error) {
				for _, address := range addresses {
					err := admin.ask(ctx, address, func(ctx context.Context, sidecar adminv1.AdminClient) error {
						answer, err := sidecar.ListRecorded(ctx, &adminv1.ListRecordedRequest{})
						list = append(list, answer.GetList()...)
						return err
					})
					if err != nil {
						return nil, err
					}
				}
				return list, nil
			})
			if err != nil {
				return err
			}
			if output == "json" {
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				err = enc.Encode(p)
			} else {
				_, err = io.WriteString(cmd.OutOrStdout(), plan.Text(cmd.OutOrStdout(), p))
			}
			switch {
			case err != nil:
				return err
			case p.Moved > 0:
				return exitCode(planMoves)
			case len(p.Changes) > 0:
				return exitCode(planChanges)
			}
			return nil
		},
	}
	addFileFlag(cmd, &files)
	cmd.Flags().BoolVar(&prune, "prune", false, "look too at what apply --prune would delete")
	cmd.Flags().StringArrayVar(&addresses, "admin", nil, "put the RPCs that the sidecar with this admin `ADDRESS` remembers to the policies; may be repeated")
	admin.addRest(cmd)
	addStoreFlags(cmd)
	addOutputFlag(cmd, &output, "text")
	return cmd
}

// makePlan says what applying documents would do.
func makePlan(cmd *cobra.Command, files *documentFiles, prune bool, recorded func(context.Context) ([]*adminv1.RecordedRPC, error)) (*plan.Plan, error) {
	ctx := cmd.Context()
	store, err := openStore(cmd)
	if err != nil {
		return nil, err
	}
	in := documents.New(store, documents.Options{Made: madePolicy})
	result, err := in.Apply(ctx, documents.Wanted{Documents: files.list, Prune: prune, DryRun: true})
	if err != nil {
		return nil, files.located(err)
	}
	warn(cmd, result.Warnings)
	state, err := in.Load(ctx)
	if err != nil {
		return nil, err
	}
	mesh, err := status.Read(ctx, store, "")
	if err != nil {
		return nil, err
	}
	input := &plan.Input{Now: time.Now()}
	if input.Recorded, err = recorded(ctx); err != nil {
		return nil, err
	}
	changed := map[documents.ID]bool{}
	for _, c := range result.Changes {
		changed[c.ID] = true
		var before, after *plan.Document
		if c.Before != nil && c.Before.Problem == nil {
			before = planned(c.ID, c.Before.Service, documents.Body(documents.Effective(c.Before.Document)))
		}
		if c.After != nil {
			after = planned(c.ID, c.Service, documents.Body(documents.Effective(c.After)))
			if p, ok := after.Body.(*configv1.Policy); ok {
				input.NewPolicies = append(input.NewPolicies, p)
			}
		}
		input.Before, input.After = append(input.Before, before), append(input.After, after)
	}
	for _, one := range state.All {
		if one.ID.Kind != control.Policy || one.Problem != nil {
			continue
		}
		p := documents.Effective(one.Document).GetPolicy()
		input.Policies = append(input.Policies, p)
		if !changed[one.ID] {
			input.NewPolicies = append(input.NewPolicies, p)
		}
	}
	p, err := plan.Make(ctx, input)
	if err != nil {
		return nil, err
	}
	for _, c := range p.Changes {
		c.Sidecars = concerned(mesh, c.Service)
	}
	return p, nil
}

func planned(id documents.ID, service string, body proto.Message) *plan.Document {
	return &plan.Document{Kind: string(id.Kind), Name: id.Name, Service: service, Body: body}
}

// concerned counts the sidecars that follow the documents of a service, by their own.
func concerned(mesh *status.Mesh, service string) map[string]int {
	by := map[string]int{}
	for _, s := range mesh.Sidecars {
		if slices.Contains(s.Status.GetServices(), service) {
			by[s.Service]++
		}
	}
	return by
}

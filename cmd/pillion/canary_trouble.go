package main

import (
	"context"
	"fmt"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/documents"
	"github.com/pillion-proxy/pillion/control/kv"
	"github.com/pillion-proxy/pillion/control/status"
)

// canaryTrouble says what sidecars find wrong with a canary, such as that it divides none
// of their RPCs: the first one's words, and how many they are. "": nothing, as far as is
// known.
func canaryTrouble(ctx context.Context, store kv.Store, service, name string) string {
	mesh, err := status.Read(ctx, store, service)
	if err != nil {
		return "" // what is asked for is where it stands, and that is known
	}
	label, why, troubled := string(control.Canary)+"/"+name, "", 0
	for _, s := range mesh.Sidecars {
		for _, r := range s.Refused {
			if r.Document != label {
				continue
			}
			if troubled++; why == "" {
				why = r.Problem
			}
		}
	}
	if troubled == 0 {
		return ""
	}
	return fmt.Sprintf("not as it should be on %d of %d sidecars: %s", troubled, len(mesh.Sidecars), documents.Printable(why))
}

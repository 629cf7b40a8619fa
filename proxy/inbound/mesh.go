package inbound

import (
	"context"
	"net"

	"github.com/pillion-proxy/pillion/proxy/access"
	"github.com/pillion-proxy/pillion/proxy/admission"
	"github.com/pillion-proxy/pillion/proxy/inmemory"
	"github.com/pillion-proxy/pillion/proxy/relay"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
)

// maxMeshRPCs is how many RPCs to the sidecar itself are under way at most: who answers
// has bounds of its own, which tell who takes too much.
const maxMeshRPCs = 20_000

// meshName is what the sidecar itself is called among the services.
const meshName = "pillion-mesh"

// meshOf has RPCs of other sidecars go to the server within the process that dial leads
// to; nil: there is none. No access policy, intention or policy of the app's holds for
// them, and how much the app can do does not matter: who may speak is for the server to
// say, which is told who calls as the app is. Where there is none they do not come to
// the app either: what is called so is no business of its.
func meshOf(o *Options, dial func(context.Context) (net.Conn, error)) *relay.Own {
	own := &relay.Own{
		Prefix: access.OwnPrefix, Missing: "this sidecar does not do what the mesh's documents say: its bootstrap has no block control",
		Gate: admission.NewGate(admission.Options{MaxRPCs: maxMeshRPCs}),
	}
	if dial != nil {
		own.Cluster = inmemory.Cluster(meshName, o.HTTP2, dial, o.Counters.Service(telemetry.Inbound, meshName))
	}
	return own
}

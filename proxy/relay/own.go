package relay

import (
	"google.golang.org/grpc/codes"

	"github.com/pillion-proxy/pillion/proxy/admission"
	"github.com/pillion-proxy/pillion/proxy/h2"
	"github.com/pillion-proxy/pillion/proxy/upstream"
	"github.com/pillion-proxy/pillion/proxy/wire"
)

// Own are RPCs that the sidecar itself answers and not its app. What is meant for the
// app does not hold for them: its policies, who may call it, how much it can do at a
// time. Who calls is told to whoever answers as it is to the app.
type Own struct {
	// Prefix is what the paths of these RPCs begin with, as "/pillion.mesh.v1.Mesh/".
	Prefix string
	// Cluster answers them; nil: nobody does, and a caller is told Missing with the status
	// UNIMPLEMENTED.
	Cluster *upstream.Cluster
	Missing string
	// Gate bounds how many there are; nil: nothing does.
	Gate *admission.Gate
}

// answers says whether an RPC is one of these. o may be nil. Hardly any other has a slash
// where the prefix ends.
func (o *Own) answers(path string) bool {
	if o == nil || len(path) <= len(o.Prefix) {
		return false
	}
	last := len(o.Prefix) - 1
	return path[last] == o.Prefix[last] && path[:last] == o.Prefix[:last]
}

// tooManyOwn is what a caller is told whose RPC to the sidecar is refused.
const tooManyOwn = "overloaded: as many RPCs to the sidecar itself are under way as it takes"

// toOwn has the sidecar itself answer. r.mu is held.
func (r *RPC) toOwn(b *h2.Batch) {
	own := r.p.cfg.Own
	if own.Cluster == nil {
		r.fail(b, codes.Unimplemented, wire.FlagNoRoute, own.Missing)
		return
	}
	r.dest, r.route = own.Cluster, "sidecar"
	r.send(b)
}

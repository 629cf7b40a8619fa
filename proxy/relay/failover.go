package relay

import (
	"strings"

	"github.com/pillion-proxy/pillion/proxy/h2"
	"github.com/pillion-proxy/pillion/proxy/upstream"
)

// failOver sends an RPC for which there is no instance to the next place that the
// policies name. It is false where there is none. r.mu is held.
func (r *RPC) failOver(b *h2.Batch) bool {
	if r.pol == nil || r.expired(b) {
		return false
	}
	for p := r.pol; len(p.failover) > 0; {
		to, router := p.failover[0], r.p.cfg.Router
		found := Found{Cluster: r.dest}
		if to.Service != "" && to.Service != r.dest.Name() {
			found = router.Service(to.Service)
		}
		if found.Wait && router.Await(to.Service, strings.Clone(r.authority), strings.Clone(r.path), r, r.life) {
			p.awaiting = true
			r.phase = phaseRouting
			return true
		}
		p.failover = p.failover[1:]
		if found.Cluster == nil {
			continue
		}
		r.redirect(found.Cluster)
		r.choice.Subset = to.Subset
		r.phase = phaseTrying
		r.try(b)
		return true
	}
	return false
}

// redirect makes a service the RPC's destination instead of the one that it had. r.mu
// is held.
func (r *RPC) redirect(to *upstream.Cluster) {
	if r.shared > 0 {
		r.dest.Kept.Add(-int64(r.shared))
		to.Kept.Add(int64(r.shared))
	}
	r.dest = to
}

// routed goes on with an RPC whose destination is known now. r.mu is held.
func (r *RPC) routed(b *h2.Batch) {
	if r.pol == nil || !r.pol.awaiting {
		r.findDestination(b)
		return
	}
	r.pol.awaiting = false
	r.phase = phaseTrying
	if !r.failOver(b) {
		r.failUnplaced(b)
	}
}

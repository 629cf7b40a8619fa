package relay

import (
	"strings"

	"github.com/pillion-proxy/pillion/proxy/h2"
	"github.com/pillion-proxy/pillion/proxy/policy"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
	"github.com/pillion-proxy/pillion/proxy/upstream"
)

// failOver sends an RPC for which there is no instance to the next place that the
// policies name. It is false where there is none. r.mu is held.
func (r *RPC) failOver(b *h2.Batch) bool {
	if r.pol == nil || r.expired(b) {
		return false
	}
	for p := r.pol; len(p.failover) > 0; {
		if p.home == nil {
			p.home = r.dest
		}
		to, router := p.failover[0], r.p.cfg.Router
		found := Found{Cluster: p.home}
		if to.Service != "" && to.Service != p.home.Name() {
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

// standIn finds a service for one that the registry does not know: the first of the
// next places that is there, or has to be looked up. Those that come after it are the
// rest. r.mu is held.
func (r *RPC) standIn(service string, next []policy.Target) (found Found, to policy.Target, rest []policy.Target) {
	if r.p.cfg.Side == telemetry.Inbound {
		return Found{}, to, nil
	}
	for i, to := range next {
		if to.Service == "" || to.Service == service {
			continue
		}
		if found = r.p.cfg.Router.Service(to.Service); found.Cluster != nil || found.Wait {
			return found, to, next[i+1:]
		}
	}
	return Found{}, to, nil
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
	switch {
	case r.pol != nil && r.pol.awaiting:
	case r.pol != nil && r.pol.decided:
		set := r.pol.set
		found := r.p.cfg.Router.Find(set, r.authority, r.path)
		r.follow(b, set, found, r.pol.decision, r.said(set, r.pol.decision.Service))
		return
	default:
		r.findDestination(b)
		return
	}
	r.pol.awaiting = false
	r.phase = phaseTrying
	if !r.failOver(b) {
		r.failUnplaced(b)
	}
	if r.phase == phaseTrying {
		r.rearm(b)
	}
}

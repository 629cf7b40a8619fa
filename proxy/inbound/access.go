package inbound

import (
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/pillion-proxy/pillion/identity"
	"github.com/pillion-proxy/pillion/proxy/access"
	"github.com/pillion-proxy/pillion/proxy/internal/fewlines"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
	"github.com/pillion-proxy/pillion/registry"
)

// accessControl makes of rules, intentions and the own identity what is in force, and
// has RPCs under way looked at again when that changes.
type accessControl struct {
	proxy *Proxy
	await bool
	gate  access.Gate
	// audits logs what is let through and in mode "audit" would not be.
	audits fewlines.Log

	mu         sync.Mutex
	rules      *access.Rules
	broken     []string // access policies that are wrong, and have no version that holds
	intentions *registry.Intentions
	own        *identity.State // as far as who this is matters
	checking   bool            // RPCs are looked at
	again      bool            // and will be once more
	closed     bool
	checks     sync.WaitGroup
	unwatch    func()
}

func newAccessControl(p *Proxy, o *Options) *accessControl {
	a := &accessControl{proxy: p, await: o.AwaitIntentions, unwatch: func() {}, own: new(identity.State)}
	a.audits = fewlines.Log{
		Logger: o.Logger, Level: slog.LevelInfo,
		One:  "access is allowed, and would be refused if what is in mode audit were enforced",
		More: "more of what was allowed would be refused if what is in mode audit were enforced",
	}
	if o.Logger == nil {
		a.audits.Logger = slog.Default()
	}
	o.Counters.ExportDenials(a.denials)
	return a
}

// start is called once the proxy can be asked for the RPCs that are under way.
func (a *accessControl) start(s *Security) {
	a.mu.Lock()
	a.put()
	a.mu.Unlock()
	if s != nil {
		a.unwatch = s.Keeper.Watch(a.setIdentity)
	}
}

// setRules puts other rules in force.
func (a *accessControl) setRules(rules *access.Rules) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.rules.Equal(rules) {
		a.rules = rules
		a.put()
	}
}

func (a *accessControl) setIntentions(in *registry.Intentions) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.intentions = in
	a.put()
}

// setIdentity is told of the own identity: names of services in rules stand for SPIFFE
// IDs of its trust domain.
func (a *accessControl) setIdentity(state *identity.State) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if state.TrustDomain != a.own.TrustDomain || state.ID != a.own.ID {
		a.own = state
		a.put()
	}
}

// setBroken has everybody refused in the name of access policies that are wrong.
func (a *accessControl) setBroken(names []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if slices.Equal(names, a.broken) {
		return
	}
	a.broken = names
	a.put()
}

// rulesOf are the rules and, where there are access policies that are wrong, those that
// refuse everybody for it.
func (a *accessControl) rulesOf() *access.Rules {
	if len(a.broken) == 0 {
		return a.rules
	}
	all := slices.Clone(a.rules.Policies())
	for _, name := range a.broken {
		// The app's methods, and the sidecar's own.
		all = append(all, &access.Written{Name: name, Rules: []access.Rule{
			{Name: "wrong"}, {Name: "wrong", Methods: []access.Selector{{Path: access.OwnPrefix}}},
		}})
	}
	return access.NewRules(all...)
}

// put puts in force what there is. a.mu is held.
func (a *accessControl) put() {
	rules := a.rulesOf()
	if rules == nil && a.intentions == nil && !a.await {
		if a.gate.Policy() != nil { // what was refused is not any more
			a.gate.Set(nil)
		}
		return
	}
	a.gate.Set(access.New(rules, a.intentions, access.Env{
		TrustDomain: a.own.TrustDomain, IDs: a.proxy.secure.ids(a.own), AwaitIntentions: a.await,
	}))
	switch {
	case a.closed: // nobody calls
	case a.checking:
		a.again = true
	default:
		a.checking = true
		a.checks.Go(a.check)
	}
}

// check looks again at the RPCs that are under way, as long as what is in force changes.
func (a *accessControl) check() {
	for {
		a.proxy.relay.Recheck(a.proxy.callers.Conns())
		a.mu.Lock()
		if !a.again || a.closed {
			a.checking = false
			a.mu.Unlock()
			return
		}
		a.again = false
		a.mu.Unlock()
	}
}

func (a *accessControl) close() {
	a.unwatch()
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	a.checks.Wait()
	a.audits.Close()
}

func (a *accessControl) audited(caller, path, by string) {
	a.audits.Note("caller", caller, "method", path, "by", by)
}

// denials is what is exported of what was refused.
func (a *accessControl) denials() (all []telemetry.Denials) {
	for policy, counts := range a.gate.Counts() {
		all = append(all, telemetry.Denials{Policy: policy, Refused: counts.Refused.Load(), Audited: counts.Audited.Load()})
	}
	return all
}

// MayReport says why somebody may not report to this sidecar on its app; the zero ID has
// proven nothing. Rules of access policies may say so, which name the method
// pillion.mesh.v1.Mesh/Report. And who has proven an ID by which he may make no RPC at all to
// the app, by the access policies and intentions in force, does not report on it either.
func (p *Proxy) MayReport(id spiffeid.ID) error {
	in := p.access.gate.Policy()
	if in == nil {
		return nil
	}
	caller := in.ForID(id)
	if by := caller.RefusedOwn(access.OwnPrefix + "Report"); by != "" {
		return fmt.Errorf("%s refuses reports of %s", by, caller.Name())
	}
	if id.IsZero() {
		return nil
	}
	if by := caller.Hopeless(); by != "" {
		return fmt.Errorf("%s refuses all RPCs of %s", by, caller.Name())
	}
	return nil
}

// ids returns what the instances of a service prove, for rules that name services.
func (s *secure) ids(own *identity.State) func(service string) []identity.Pattern {
	if s.Security == nil || own.TrustDomain.IsZero() {
		return nil
	}
	return access.Names(s.ServiceID, own.ID, own.TrustDomain)
}

// identityOf is the own SPIFFE ID; zero where there is none.
func identityOf(state *identity.State) spiffeid.ID {
	if state == nil {
		return spiffeid.ID{}
	}
	return state.ID
}

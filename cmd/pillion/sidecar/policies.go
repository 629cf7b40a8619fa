package sidecar

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	"github.com/pillion-proxy/pillion/proxy/policy"
	"github.com/pillion-proxy/pillion/registry"
)

// policies are those in force: it takes them from their sources, compiles them
// together, and hands them to the proxies. One that is wrong is refused alone, and
// its last version that was not stays.
type policies struct {
	env    policy.Env
	logger *slog.Logger

	stop  context.CancelFunc // of watching; nil: nothing is watched
	ended sync.WaitGroup

	mu      sync.Mutex
	said    []*registry.Policies // by source; nil: nothing yet
	set     *policy.Set
	since   time.Time          // when the version of set came into force
	all     *registry.Policies // as the sources say together
	refused []registry.RefusedPolicy
	states  map[string]policyState
	targets []func(*policy.Set)

	service string         // the app's
	unknown []string       // what there may be of access policies for it, and is not known yet
	broken  []string       // those, and the ones that are wrong and have no version that holds
	refuse  func([]string) // is told of them; nil: there is no inbound side
}

// meansAccess says which service a policy of the list is for, and whether it refuses
// callers.
func meansAccess(list []*configv1.Policy, name string) (service string, access bool) {
	for _, m := range list {
		if a := m.GetAccess(); m.GetName() == name && a != nil {
			return m.GetService(), a.GetMode() != "off" && a.GetMode() != "audit"
		}
	}
	return "", false
}

// brokenAccess returns the names of the access policies for the app that are wrong, and of
// which no version holds: after a restart there is no last good one. p.mu is held.
func (p *policies) brokenAccess(set *policy.Set, refused []registry.RefusedPolicy) (names []string) {
	held := map[string]bool{}
	for one := range set.All() {
		held[one.Source.GetName()] = true
	}
	for _, r := range refused {
		mine := r.Service == "" || r.Service == policy.AllServices || r.Service == p.service
		if r.Access && mine && !held[r.Policy] && !slices.Contains(names, r.Policy) {
			names = append(names, r.Policy)
		}
	}
	return names
}

// setBroken has everybody refused in the name of access policies. p.mu is held.
func (p *policies) setBroken(names []string) {
	if slices.Equal(names, p.broken) {
		return
	}
	p.broken = names
	if p.refuse != nil {
		p.refuse(names)
	}
}

// setUnknown says what there may be of access policies for the app, and is not known yet.
func (p *policies) setUnknown(names []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.unknown = names
	p.setBroken(append(p.brokenAccess(p.set, p.refused), names...))
}

// refusals returns the policies that are not in force as they are written.
func (p *policies) refusals() []registry.RefusedPolicy {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.refused)
}

// applyBroken has the inbound side told of access policies that are wrong, now and
// whenever that changes.
func (p *policies) applyBroken(to func(names []string)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = to
	to(p.broken)
}

// brokenError says that there are such.
func (p *policies) brokenError() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.broken) == 0 {
		return nil
	}
	return fmt.Errorf("access policy %q is wrong or not known, and there is no version of it that is not: everybody would be refused", p.broken[0])
}

func newPolicies(env policy.Env, service string, logger *slog.Logger) *policies {
	return &policies{env: env, service: service, logger: logger}
}

// apply has a proxy told of the policies in force, now and whenever they change.
func (p *policies) apply(to func(*policy.Set)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.targets = append(p.targets, to)
	to(p.set)
}

// watch takes policies from sources until close. It returns once each has said what
// there is for the first time: RPCs that came before would obey none.
func (p *policies) watch(sources []registry.PolicySource) {
	var first sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	p.stop = cancel
	p.said = make([]*registry.Policies, len(sources))
	for i, source := range sources {
		first.Add(1)
		var once sync.Once
		p.ended.Go(func() {
			source.WatchPolicies(ctx, func(now *registry.Policies) {
				p.take(i, now)
				once.Do(first.Done)
			})
			once.Do(first.Done)
		})
	}
	first.Wait()
}

// take puts in force what a source says now.
func (p *policies) take(source int, now *registry.Policies) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.said[source] = now
	all := registry.MergePolicies("", p.said)
	all = registry.WithFallback(all, all.Generated...)
	refused := all.Refused
	set, wrong := policy.Compile(all.List, p.set, p.env)
	for _, w := range wrong {
		r := registry.RefusedPolicy{Policy: w.Policy, Problem: all.Place(w.Policy, w.Field) + ": " + w.Message}
		r.Service, r.Access = meansAccess(all.List, w.Policy)
		refused = append(refused, r)
	}
	refused = append(refused, dividingNothing(set)...)
	p.log(refused)
	// Before the others, so that nobody slips in between.
	p.setBroken(append(p.brokenAccess(set, refused), p.unknown...))
	p.note(set, refused, time.Now())
	p.set, p.all, p.refused = set, all, refused
	for _, to := range p.targets {
		to(set)
	}
}

// obstacle says why a canary of a service would divide nothing; "": it would.
func (p *policies) obstacle(service string) string {
	set, _ := p.inForce()
	return set.Obstacle(service)
}

// dividingNothing returns the split policies (of canaries and experiments) that choose a
// part of a service, but for no RPC, because of its routes.
func dividingNothing(set *policy.Set) (list []registry.RefusedPolicy) {
	for one := range set.All() {
		places := slices.ContainsFunc(one.Source.GetSplit().GetSplit().GetDestinations(), func(d *configv1.WeightedDestination) bool {
			return d.GetSubset() != "" || d.GetService() != ""
		})
		if !places {
			continue
		}
		if why := set.Obstacle(one.Source.GetService()); why != "" {
			list = append(list, registry.RefusedPolicy{
				Policy: one.Source.GetName(), Service: one.Source.GetService(), Problem: "it divides nothing: " + why, Partial: true,
			})
		}
	}
	return list
}

// close ends the watching. It may be called on nil.
func (p *policies) close() {
	if p != nil && p.stop != nil {
		p.stop()
		p.ended.Wait()
	}
}

// log says what is refused, where that is news. p.mu is held.
func (p *policies) log(refused []registry.RefusedPolicy) {
	for _, r := range refused {
		switch {
		case slices.Contains(p.refused, r):
		case r.Partial:
			p.logger.Warn("policy is in force, but not all of it is obeyed", "policy", r.Policy, "problem", r.Problem)
		default:
			p.logger.Error("policy is refused, its last good version stays in force if there is one", "policy", r.Policy, "problem", r.Problem)
		}
	}
	for _, r := range p.refused {
		if !slices.ContainsFunc(refused, func(now registry.RefusedPolicy) bool { return now.Policy == r.Policy }) {
			p.logger.Info("policy is in order again", "policy", r.Policy)
		}
	}
}

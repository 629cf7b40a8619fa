package explain

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/pillion-proxy/pillion/proto/pillion/admin/v1"
	"github.com/pillion-proxy/pillion/proxy/breaker"
	"github.com/pillion-proxy/pillion/proxy/policy"
	"github.com/pillion-proxy/pillion/proxy/upstream"
	"github.com/pillion-proxy/pillion/proxy/wire"
)

// outcome says what becomes of the RPC by one decision.
func (a *asking) outcome(chance *policy.SplitChance) *adminv1.Outcome {
	d := chance.Decision
	out := &adminv1.Outcome{Share: chance.Share}
	if d.Rule != nil {
		out.Rule = d.Rule.Label
		if s := d.Rule.Status; s != nil {
			out.Status, out.Message = wire.StatusName(s.Code), s.Message
			return out
		}
	}
	out.Group = groupNames(chance)
	for i := range chance.Seen {
		out.Splits = append(out.Splits, splitSeen(&chance.Seen[i]))
	}
	out.Service, out.Subset = d.Service, d.Subset
	a.times(out, &d)
	a.again(out, &d)
	if a.method != nil {
		for _, limit := range a.method.RateLimit.Look(&a.rpc) {
			out.RateLimits = append(out.RateLimits, limitText(a.method.RateLimit.Policy, &limit))
		}
		out.Fault = a.method.Fault.Look(&a.rpc)
	}
	a.request(out, &d, chance.Groups)
	a.beside(out)
	a.destination(out)
	return out
}

// groupNames joins the names of the groups that the RPC is in.
func groupNames(chance *policy.SplitChance) string {
	var names []string
	if g := chance.Decision.Group; g != nil {
		names = append(names, g.Name)
	}
	for _, g := range chance.Groups {
		names = append(names, g.Name)
	}
	return strings.Join(names, ",")
}

// limitText writes "policy/number", with the bucket that the RPC counts in.
func limitText(name string, limit *policy.LimitLook) string {
	text := fmt.Sprintf("%s/%d", name, limit.Number)
	switch {
	case limit.By != "" && limit.Keyed:
		text += fmt.Sprintf(" by %s %q", limit.By, limit.Key)
	case limit.By != "":
		text += " with all that have no " + limit.By
	}
	if limit.Share < 1 {
		text += ", " + policy.Percent(limit.Share) + " of such RPCs"
	}
	return text
}

// times fills in how long the RPC may take.
func (a *asking) times(out *adminv1.Outcome, d *policy.Decision) {
	standard, most := a.method.Bounds(d.Rule, a.DefaultTimeout, a.MaxTimeout)
	timeout, _ := policy.Deadline(standard, most, a.asked)
	if timeout > 0 {
		out.Timeout = durationpb.New(timeout)
	}
	if t := a.method.Times(d.Rule); t.PerAttempt > 0 {
		out.PerAttemptTimeout = durationpb.New(t.PerAttempt)
	}
}

// again fills in whether the RPC is sent more than once.
func (a *asking) again(out *adminv1.Outcome, d *policy.Decision) {
	out.MaxAttempts = 1
	switch r, h := a.method.Again(d.Rule); {
	case r != nil:
		out.MaxAttempts, out.RetryOn = uint32(r.MaxAttempts), codeNames(r.Codes)
		if r.ConnectFailure {
			out.RetryOn = append(out.RetryOn, "connect-failure")
		}
		if r.ResetBeforeHeaders {
			out.RetryOn = append(out.RetryOn, "reset-before-headers")
		}
	case h != nil:
		out.MaxAttempts, out.RetryOn, out.HedgingDelay = uint32(h.MaxAttempts), codeNames(h.NonFatal), durationpb.New(h.Delay)
	}
}

func codeNames(set wire.CodeSet) []string {
	if set == 0 {
		return nil
	}
	return strings.Split(set.String(), ", ")
}

// request fills in what the app gets, and who gets a copy.
func (a *asking) request(out *adminv1.Outcome, d *policy.Decision, groups []policy.Chosen) {
	out.Authority = a.rpc.Authority
	rpc := policy.RPC{Fields: slices.Clone(a.rpc.Fields)}
	fields := d.Change(&rpc, groups)
	if d.Rule != nil {
		if d.Rule.Authority != "" {
			out.Authority = d.Rule.Authority
		}
		if m := d.Rule.Mirror; m != nil {
			to := m.Service
			if to == "" {
				to = a.service
			}
			out.Mirror = fmt.Sprintf("%s, %s of such RPCs, %d at a time", target(to, m.Subset), policy.Percent(m.Share()), m.MaxConcurrent)
		}
	}
	for _, f := range fields {
		if f.Name != wire.HeaderTimeout { // what remains of it is written anew
			out.Metadata = append(out.Metadata, &adminv1.Metadata{Key: f.Name, Value: f.Value})
		}
	}
}

func target(service, subset string) string {
	if subset == "" {
		return service
	}
	return service + "/" + subset
}

// destination fills in what holds where the RPC goes.
func (a *asking) destination(out *adminv1.Outcome) {
	view := a.Set.Service(out.GetService())
	for _, trace := range view.Explain(a.rpc.Path, false) {
		if !ofAddressed(trace.Kind) {
			out.Destination = append(out.Destination, a.inForce(trace, out.GetService()))
		}
	}
	if m := view.Outbound(a.rpc.Path); m != nil && m.Breaker != nil && a.Live {
		out.Circuit = circuit(m.Breaker.Look(out.GetService(), a.rpc.Path, a.Now))
	}
	for _, to := range view.Failover(out.GetSubset()) {
		service := to.Service
		if service == "" {
			service = out.GetService()
		}
		out.Failover = append(out.Failover, target(service, to.Subset))
	}
	c := a.cluster(out.GetService())
	if c == nil {
		return
	}
	choice := upstream.Choice{Subset: out.GetSubset(), Now: a.Now}
	if key := view.HashKey(); key != nil {
		choice.Hash, choice.Hashed = key.Hash(&a.rpc)
	}
	if _, known := c.Subset(choice.Subset); !known && choice.Subset != "" {
		a.notef("no policy says what the subset %q of %s is: no instance can be used", choice.Subset, out.GetService())
		return
	}
	candidates := c.Preview(&choice)
	if len(candidates) > maxCandidates {
		a.notef("%s has %d instances to choose from, of which %d are shown", out.GetService(), len(candidates), maxCandidates)
		slices.SortStableFunc(candidates, func(a, b upstream.Candidate) int { // the one that would be picked is shown
			return b2i(b.Would) - b2i(a.Would)
		})
		candidates = candidates[:maxCandidates]
	}
	verdicts := a.verdicts(c)
	for i := range candidates {
		shown := candidate(&candidates[i])
		if why := verdicts[candidates[i].Endpoint.ID]; why != "" && !shown.GetUsable() {
			shown.Why = why
		}
		out.Candidates = append(out.Candidates, shown)
	}
}

// verdicts says by instance's ID what policies have found out of those that they leave
// alone, with its numbers.
func (a *asking) verdicts(c *upstream.Cluster) map[string]string {
	if !a.Live {
		return nil
	}
	found := map[string]string{}
	for _, in := range c.Status().Instances {
		if text := in.Text(a.Now); text != "" {
			found[in.Endpoint.ID] = text
		}
	}
	return found
}

// maxCandidates bounds the instances that are shown.
const maxCandidates = 1000

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

func candidate(c *upstream.Candidate) *adminv1.Candidate {
	shown := &adminv1.Candidate{
		Address: c.Endpoint.Address, Subset: c.Subset, Far: c.Far, Weight: c.Endpoint.Weight, Share: c.Share,
		Usable: c.Usable, Why: c.Why, InFlight: uint32(max(c.InFlight, 0)), Would: c.Would, Meta: c.Endpoint.Meta,
	}
	if c.Latency > 0 {
		shown.Latency = durationpb.New(c.Latency)
	}
	return shown
}

// circuit shows a circuit, which begins closed where no RPC has come yet.
func circuit(st breaker.CircuitStatus) *adminv1.CircuitSeen {
	shown := &adminv1.CircuitSeen{
		State: st.Breaker.State.String(), Reason: st.Breaker.Reason,
		UnderWay: uint32(st.UnderWay), Waiting: uint32(st.Waiting), Refused: st.Refused + st.Overflowed,
	}
	if !st.Breaker.Since.IsZero() {
		shown.Since = timestamppb.New(st.Breaker.Since)
	}
	if !st.Breaker.Until.IsZero() {
		shown.Until = timestamppb.New(st.Breaker.Until)
	}
	return shown
}

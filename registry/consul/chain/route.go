package chain

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

// router translates the routes of a service-router, the first of which that matches
// decides.
func (t *translation) router(n *Node) {
	var rules []*configv1.RouteRule
	for i, r := range n.Routes {
		if i == len(n.Routes)-1 && t.isPlain(r) {
			break // they go where they were addressed to
		}
		name := fmt.Sprintf("route-%d", i)
		if i == len(n.Routes)-1 {
			name = "default"
		}
		rules = append(rules, t.route(name, fmt.Sprintf("service-router %q: routes[%d]", t.chain.ServiceName, i), r)...)
	}
	t.addRoute(rules)
}

// isPlain says whether a route, the last one, leads to the service itself, and changes
// nothing. Consul adds such a route, and where it ends is then the service's default
// subset.
func (t *translation) isPlain(r *Route) bool {
	n := t.chain.Nodes[r.NextNode]
	if n.Type != typeResolver || r.Definition != nil && r.Definition.Destination != nil && !r.Definition.Destination.isPlain() {
		return false
	}
	if m, _, _ := t.match(r); m != nil {
		return false
	}
	to, problem := t.destination(n.Resolver.Target)
	if problem != "" || to.GetService() != "" {
		return false
	}
	t.cluster(t.service).byDefault = to.GetSubset()
	return true
}

func (d *Destination) isPlain() bool {
	return d.PrefixRewrite == "" && d.RequestTimeout <= 0 && d.IdleTimeout <= 0 && d.NumRetries == 0 && !d.RetryOnConnectFailure &&
		len(d.RetryOn) == 0 && len(d.RetryOnStatusCodes) == 0 && d.RequestHeaders.isZero() && d.ResponseHeaders.isZero()
}

// route translates one route. Of where it is written, messages say where.
func (t *translation) route(name, where string, r *Route) []*configv1.RouteRule {
	match, never, problem := t.match(r)
	switch {
	case problem != "":
		t.refusef(t.service, kindRoute, "%s.match: %s: the route is left out", where, problem)
		return nil
	case never != "":
		t.notef("%s.match: %s, so the route is for no RPC", where, never)
		return nil
	}
	rule := &configv1.RouteRule{Name: name, Match: match}
	var d Destination
	if r.Definition != nil && r.Definition.Destination != nil {
		d = *r.Definition.Destination
	}
	if t.rewrites(r, d.PrefixRewrite) {
		t.refusef(t.service, kindRoute, "%s.destination: prefix_rewrite would have RPCs reach another method than they were made for, which a sidecar does not do: these RPCs end UNIMPLEMENTED", where)
		t.answer(rule, "UNIMPLEMENTED", where+".destination: prefix_rewrite would have the RPC reach another method than it was made for, which a sidecar does not do")
		return []*configv1.RouteRule{rule}
	}
	rule.Timeouts = t.timeouts(d.RequestTimeout, d.IdleTimeout)
	rule.Retry = t.retry(&d, where+".destination")
	rule.Request = t.changes(d.RequestHeaders, where+".destination.request_headers")
	rule.Response = t.changes(d.ResponseHeaders, where+".destination.response_headers")

	next := t.chain.Nodes[r.NextNode]
	if next.Type == typeSplitter {
		return t.splitRules(rule, next, where)
	}
	to, problem := t.destination(next.Resolver.Target)
	t.send(rule, to, problem, where+".destination")
	return []*configv1.RouteRule{rule}
}

// rewrites says whether a route rewrites paths.
func (t *translation) rewrites(r *Route, prefix string) bool {
	if prefix == "" {
		return false
	}
	h, _ := r.http()
	switch {
	case h == nil:
		return prefix != "/"
	case h.PathExact != "":
		return prefix != h.PathExact
	case h.PathPrefix != "":
		return prefix != h.PathPrefix
	case h.PathRegex != "":
		return true
	}
	return prefix != "/"
}

// splitRules translates a splitter: the rule becomes one that divides its RPCs, or
// several, each for a part of them, where the parts differ in more than a split can say.
func (t *translation) splitRules(rule *configv1.RouteRule, n *Node, where string) []*configv1.RouteRule {
	legs := t.legs(n, where)
	if len(legs) == 0 {
		t.refusef(t.service, kindRoute, "%s: it divides RPCs among nothing: these RPCs end UNAVAILABLE", where)
		t.answer(rule, "UNAVAILABLE", where+": it divides RPCs among nothing")
		return []*configv1.RouteRule{rule}
	}
	if fitsSplit(legs) {
		rule.Yields = slices.ContainsFunc(legs, func(l leg) bool { return l.to.GetSubset() != "" })
		rule.Action = &configv1.RouteRule_Split{Split: t.splitOf(legs, rule)}
		return []*configv1.RouteRule{rule}
	}
	rules := make([]*configv1.RouteRule, 0, len(legs))
	left := uint32(shares)
	for i, l := range legs {
		if l.weight == 0 {
			continue
		}
		one := proto.CloneOf(rule)
		one.Name = rule.GetName() + "-" + strconv.Itoa(i)
		one.Request, one.Response = then(l.request, rule.GetRequest()), then(l.response, rule.GetResponse())
		if left > l.weight { // of those that came so far
			if one.Match == nil {
				one.Match = &configv1.RouteMatch{}
			}
			one.Match.Fraction = new((l.weight*shares + left/2) / left)
		}
		left -= l.weight
		one.Yields = l.problem == "" && l.to.GetSubset() != ""
		t.send(one, l.to, l.problem, l.where)
		rules = append(rules, one)
	}
	return rules
}

func lower(s string) string { return strings.ToLower(s) }

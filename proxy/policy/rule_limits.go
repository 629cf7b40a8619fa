package policy

import (
	"strings"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	"github.com/pillion-proxy/pillion/proxy/retry"
)

// ruleBefore is a rule of a route as it was before: what was written, and what was made
// of it.
type ruleBefore struct {
	written  *configv1.RouteRule
	compiled *Rule
}

// rule returns a rule of what a policy said before, by its name; nil where there was
// none. It may be called on nil.
func (e *entry) rule(name string) *ruleBefore {
	if e == nil || e.route == nil {
		return nil
	}
	for i, m := range e.source.GetRoute().GetRules() {
		if i < len(e.route.rules) && ruleName(m, i) == name {
			return &ruleBefore{m, &e.route.rules[i]}
		}
	}
	return nil
}

// compileRuleTimes compiles the timeouts of a rule; nil: there are none.
func (p *problems) compileRuleTimes(field string, m *configv1.RouteRule) *Timeout {
	if m.GetTimeouts() == nil {
		return nil
	}
	sub := &problems{policy: p.policy, env: p.env}
	t := sub.compileTimeout(m.GetTimeouts())
	p.adopt(sub, "timeout", field+".timeouts")
	if m.GetTimeout() != nil && m.GetTimeouts().GetDefault() != nil {
		p.addf(field+".timeouts.default", "says what timeout says already: leave out one of them")
	}
	return t
}

// compileRuleRetry compiles when the RPCs of a rule are sent again; nil: the rule does not
// say.
func (p *problems) compileRuleRetry(field string, m *configv1.RouteRule, before *ruleBefore) *retry.Policy {
	if m.GetRetry() == nil {
		return nil
	}
	sub := &problems{policy: p.policy, env: p.env}
	r := sub.compileRetry(m.GetRetry(), nil)
	p.adopt(sub, "retry", field+".retry")
	if before != nil && before.compiled.Retry != nil && sameLimits(before.written.GetRetry(), m.GetRetry()) {
		r.Limits = before.compiled.Retry.Limits
	}
	return r
}

// adopt takes over what is wrong with a part, whose fields are called otherwise there.
func (p *problems) adopt(part *problems, from, to string) {
	for _, r := range part.list {
		r.Field = to + strings.TrimPrefix(r.Field, from)
		p.list = append(p.list, r)
	}
}

// Times are the timeouts of the RPCs to the method that a rule, which may be nil, decided
// on: the rule's, field by field, before the timeout policy's.
func (m *Method) Times(rule *Rule) Timeout {
	var t Timeout
	if m != nil && m.Timeout != nil {
		t = *m.Timeout
	}
	if rule == nil || rule.Timeouts == nil {
		return t
	}
	own := rule.Timeouts
	t.Policy = own.Policy
	if own.Default > 0 {
		t.Default = own.Default
	}
	if own.Max > 0 {
		t.Max = own.Max
	}
	if own.PerAttempt > 0 {
		t.PerAttempt = own.PerAttempt
	}
	if own.Idle > 0 {
		t.Idle = own.Idle
	}
	if own.MaxAge > 0 {
		t.MaxAge = own.MaxAge
	}
	return t
}

// Again says when the RPCs to the method are sent more than once that a rule, which may be
// nil, decided on. One of the results at most is not nil.
func (m *Method) Again(rule *Rule) (*retry.Policy, *retry.Hedging) {
	switch {
	case rule != nil && rule.Retry != nil:
		return rule.Retry, nil
	case m == nil:
		return nil, nil
	}
	return m.Retry, m.Hedging
}

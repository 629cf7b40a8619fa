package policy

import (
	"fmt"
	"strconv"

	"google.golang.org/grpc/codes"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	"github.com/pillion-proxy/pillion/proxy/wire"
)

// compileRoute compiles the rules of a route. before is what the policy said before, or
// nil: budgets go on where they are the same.
func (p *problems) compileRoute(m *configv1.RoutePolicy, before *entry) *Route {
	r := &Route{Policy: p.policy, rules: make([]Rule, 0, len(m.GetRules()))}
	names := map[string]int{}
	for i, rule := range m.GetRules() {
		field := at("route.rules", i)
		name := ruleName(rule, i)
		if first, taken := names[name]; taken {
			p.addf(field+".name", "%q is the name of rule %d already: choose another", name, first+1)
		}
		names[name] = i
		compiled := p.compileRule(field, name, rule)
		compiled.Timeouts, compiled.Retry = p.compileRuleTimes(field, rule), p.compileRuleRetry(field, rule, before.rule(name))
		r.rules = append(r.rules, compiled)
	}
	if len(p.list) == 0 {
		r.index = makeIndex(r.rules)
	}
	return r
}

// ruleName is what a rule is called: by its name, or its number from 1 on.
func ruleName(m *configv1.RouteRule, i int) string {
	if m.GetName() != "" {
		return m.GetName()
	}
	return strconv.Itoa(i + 1)
}

func (p *problems) compileRule(field, name string, m *configv1.RouteRule) Rule {
	rule := Rule{
		Policy:    p.policy,
		Name:      name,
		Label:     p.policy + "/" + name,
		match:     p.compileMatch(field+".match", m.GetMatch()),
		Timeout:   m.GetTimeout().AsDuration(),
		Request:   p.compileChange(field+".request", m.GetRequest(), "", ""),
		Response:  p.compileChange(field+".response", m.GetResponse(), "", ""),
		Authority: m.GetAuthority(),
		Mirror:    p.compileMirror(field+".mirror", m.GetMirror()),
		Yields:    m.GetYields(),
	}
	if m.GetAction() == nil && rule.Timeout == 0 && rule.Request == nil && rule.Response == nil && rule.Authority == "" && rule.Mirror == nil && m.GetTimeouts() == nil && m.GetRetry() == nil {
		p.addf(field, `does nothing: write to, split, status, timeout, request, response, authority, mirror, timeouts or retry ("to: {}" has RPCs go where they were addressed to)`)
	}
	if m.GetYields() && m.GetSplit() == nil && m.GetTo().GetSubset() == "" {
		p.addf(field+".yields", "means nothing where the rule chooses no subset: leave it out")
	}
	switch action := m.GetAction().(type) {
	case *configv1.RouteRule_To:
		rule.service, rule.subset = action.To.GetService(), action.To.GetSubset()
	case *configv1.RouteRule_Split:
		rule.split = p.compileSplit(field+".split", action.Split, name, rule.Request)
	case *configv1.RouteRule_Status:
		rule.Status = p.compileStatus(field+".status", action.Status, fmt.Sprintf("policy %q, rule %q: RPCs are answered so here", p.policy, name))
		if m.GetMirror() != nil {
			p.addf(field+".mirror", "copies nothing, because the rule answers RPCs here (status): leave out one of them")
		}
	}
	return rule
}

// compileStatus compiles an answer; message is what it says by default.
func (p *problems) compileStatus(field string, m *configv1.FixedStatus, message string) *FixedStatus {
	code, err := wire.ParseCode(m.GetCode())
	if err != nil {
		p.addf(field+".code", "%v", err)
		code = codes.Unknown
	}
	if m.GetMessage() != "" {
		message = m.GetMessage()
	}
	return &FixedStatus{Code: code, Message: message}
}

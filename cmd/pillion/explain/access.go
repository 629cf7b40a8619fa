package explain

import (
	"fmt"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	adminv1 "github.com/pillion-proxy/pillion/proto/pillion/admin/v1"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	"github.com/pillion-proxy/pillion/proxy/access"
	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
)

// accessKey is what an access policy depends on in one world.
type accessKey struct {
	service string
	own     spiffeid.ID // names of services stand for IDs that are made like it
}

// beside fills in whether the RPC is let through where it goes.
func (a *asking) beside(out *adminv1.Outcome) {
	p := a.policyBeside(out.GetService())
	if p == nil {
		return
	}
	var fields []hpack.Field
	for _, m := range out.GetMetadata() {
		fields = append(fields, hpack.Field{Name: m.GetKey(), Value: m.GetValue()})
	}
	caller := p.ForID(a.from)
	d, seen := caller.Explain(a.rpc.Path, fields)
	shown := &adminv1.AccessSeen{Allowed: d.Allowed, By: d.By, Audit: d.Audit}
	if !a.from.IsZero() {
		shown.From = a.from.String()
	}
	for _, s := range seen {
		action := "deny"
		if s.Allow {
			action = "allow"
		}
		shown.Rules = append(shown.Rules, &adminv1.AccessRuleSeen{
			Policy: s.Policy, Rule: s.Rule, Action: action, Mode: s.Mode.String(), Matched: s.Matched, Why: s.Why,
		})
	}
	out.Access = shown
}

// policyBeside returns what access policies say of a service; nil: nothing. A service
// that rules name is taken for one of the own trust domain, or, where that is not known,
// of the caller's.
func (a *asking) policyBeside(service string) *access.Policy {
	rules := a.Set.Service(service).Access()
	if rules == nil {
		return nil
	}
	own := a.From
	if own.IsZero() {
		own = a.from
	}
	key := accessKey{service, own}
	if p := a.World.access[key]; p != nil {
		return p
	}
	env := access.Env{TrustDomain: own.TrustDomain()}
	if !own.IsZero() {
		env.IDs = access.Names(a.ServiceID, own, own.TrustDomain())
	}
	p := access.New(rules, nil, env)
	if a.World.access == nil {
		a.World.access = map[accessKey]*access.Policy{}
	}
	a.World.access[key] = p
	return p
}

// Access writes what access policies decide on one line.
func Access(a *adminv1.AccessSeen) string {
	from := a.GetFrom()
	if from == "" {
		from = "callers who have proven no identity"
	}
	switch {
	case !a.GetAllowed():
		return fmt.Sprintf("%s refuses %s", a.GetBy(), from)
	case a.GetAudit() != "":
		return fmt.Sprintf("%s is let through; %s would refuse it if what is in audit were enforced", from, a.GetAudit())
	}
	return from + " is let through"
}

func (p *page) access(a *adminv1.AccessSeen) {
	if a == nil {
		return
	}
	p.title("ACCESS")
	p.linef("  %s", Access(a))
	var rows [][]string
	left := 0
	for i, r := range a.GetRules() {
		if i >= maxShown && !r.GetMatched() {
			left++
			continue
		}
		verdict := "no"
		if r.GetMatched() {
			verdict = "matches"
		}
		does := r.GetAction()
		if r.GetMode() != access.Enforce.String() {
			does += " (" + r.GetMode() + ")"
		}
		rows = append(rows, []string{r.GetPolicy() + "/" + r.GetRule(), does, verdict, r.GetWhy()})
	}
	p.table(rows)
	if left > 0 {
		p.linef("  and %d more that do not match", left)
	}
}

// access says in short what an access policy says.
func (s *sentence) access(a *configv1.AccessPolicy) {
	var allow, deny, audited, off int
	for _, r := range a.GetRules() {
		mode := r.GetMode()
		if mode == "" {
			mode = a.GetMode()
		}
		switch {
		case mode == access.Off.String():
			off++
			continue
		case mode == access.Audit.String():
			audited++
		}
		if r.GetAction() == "allow" {
			allow++
		} else {
			deny++
		}
	}
	for _, part := range []struct {
		n    int
		text string
	}{{allow, "to allow"}, {deny, "to deny"}, {audited, "in audit"}, {off, "off"}} {
		if part.n > 0 {
			s.addf("%s %s", plural(part.n, "rule"), part.text)
		}
	}
}

package access

import (
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
)

// Caller is what a policy says of one caller.
type Caller struct {
	policy    *Policy
	id        spiffeid.ID // zero: has proven none
	indexes   [numIndexes]*index
	intention *intention // nil: none has to be passed
}

// The rules that are for a caller are in several indexes, so that callers share what is
// for all of them.
const (
	forEveryone = iota
	forProven   // who has proven an identity
	forMembers  // of a trust domain
	forSome     // who is named, or matches a pattern

	numIndexes
)

// cells are what the indexes say of a method; nil: nothing.
type cells [numIndexes]*cell

// Policy returns the policy that says it.
func (c *Caller) Policy() *Policy { return c.policy }

// Name is the caller's SPIFFE ID, or says in words that there is none.
func (c *Caller) Name() string {
	if c.id.IsZero() {
		return "callers who have proven no identity"
	}
	return c.id.String()
}

// Message says who refuses whom, for the caller and for logs. The policy is named, not
// what it says.
func (c *Caller) Message(d *Decision) string { return d.By + " refuses " + c.Name() }

// Decision is whether an RPC is let through.
type Decision struct {
	// Allowed says that it is.
	Allowed bool
	// By is who refuses it: `access policy "orders"`, or `intention "web" to "orders"`.
	// "" where it is allowed.
	By string
	// Audit is who would refuse an RPC that is allowed, if what is in mode "audit" were
	// enforced; "": nobody would.
	Audit string

	refused, audited *refusal
}

// Decide says whether an RPC of the caller to the method at a path may be. The fields are
// the request's; nothing of either is kept.
func (c *Caller) Decide(path string, fields []hpack.Field) Decision {
	p, odd := c.policy, odd(path)
	if c.intention != nil {
		if refused := c.intention.refuses(path, odd, fields); refused != nil {
			return refuse(refused)
		}
	}
	if len(p.rules) == 0 {
		return Decision{Allowed: true}
	}
	var cells cells
	for i, x := range c.indexes {
		cells[i] = x.find(path, odd)
	}
	if refused := p.refusing(&cells, denyEnforced, allowEnforced, fields); refused != nil {
		return refuse(refused)
	}
	if audited := p.refusing(&cells, denyAudited, allowAudited, fields); audited != nil {
		return Decision{Allowed: true, Audit: audited.by, audited: audited}
	}
	return Decision{Allowed: true}
}

func refuse(r *refusal) Decision { return Decision{By: r.by, refused: r} }

// refusing returns who refuses an RPC by rules of one mode; nil: nobody. What is
// enforced comes first: once it has allowed something by a rule, that is allowed as well
// where rules in audit are added to it.
func (p *Policy) refusing(cells *cells, deny, allow kind, fields []hpack.Field) *refusal {
	if p.has[deny] {
		if i := p.first(cells, deny, fields); i != none {
			return p.rules[i].refused
		}
	}
	if allow == allowAudited && p.has[allowEnforced] {
		return nil
	}
	if byDefault := p.defaults[allow/2]; byDefault != nil && p.first(cells, allow, fields) == none {
		return byDefault
	}
	return nil
}

// first returns a rule of a kind that matches: the first of those without conditions on
// metadata, or else the first of those with; none where there is none.
func (p *Policy) first(cells *cells, k kind, fields []hpack.Field) int32 {
	best := int32(none)
	for _, c := range cells {
		if c != nil {
			best = earlier(best, c.first[k])
		}
	}
	if best != none {
		return best
	}
	for _, c := range cells {
		for ; c != nil && c.any[k]; c = c.parent {
			for _, i := range c.conditional[k] {
				if best != none && i >= best {
					break
				}
				if p.rules[i].Metadata.Holds(fields, k.denies()) {
					best = i
					break
				}
			}
		}
	}
	return best
}

// Count counts the decision. It is called once for each RPC that obeys it.
func (d *Decision) Count() {
	if d.refused != nil {
		d.refused.counts.Refused.Add(1)
	}
	if d.audited != nil {
		d.audited.counts.Audited.Add(1)
	}
}

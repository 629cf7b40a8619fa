package access

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/pillion-proxy/pillion/identity"
	"github.com/pillion-proxy/pillion/registry"
)

// Env is what access depends on beside rules and intentions.
type Env struct {
	// TrustDomain is the own one: that of callers in intentions which say none.
	TrustDomain spiffeid.TrustDomain
	// IDs returns what the instances of a service prove, for rules that name services.
	// nil, or an answer that is empty: what names the service is for nobody.
	IDs func(service string) []identity.Pattern
	// AwaitIntentions: callers who have proven an identity need intentions to pass, and
	// are refused for as long as there are none.
	AwaitIntentions bool
}

// Policy is who may call what: all access policies of a service, and the intentions for
// calls of it. It never changes, but for the callers that it remembers.
type Policy struct {
	rules []compiledRule // without those that are off

	exact    map[spiffeid.ID][]int32  // rules that name just that one
	domains  map[string][]patternRule // rules with patterns, by trust domain
	everyone *index                   // rules for all; nil: there are none
	proven   *index                   // rules for all who have proven an identity
	members  map[string]*index        // rules for all of a trust domain
	defaults [numKinds / 2]*refusal   // of what no rule allows, by mode; nil: it is let through
	has      [numKinds]bool           // whether there is any rule of that kind
	look     bool                     // whether any rule looks at metadata
	tallies  []*tally                 // what is counted, of each policy and of the intentions

	intentions *intentions // nil: no intention has to be passed
	env        Env
	own        *Policy // of the sidecar's own methods; nil: nothing is said of them

	plain *Caller
	mu    sync.Mutex
	known map[spiffeid.ID]*Caller
}

// maxKnown is how many callers a policy remembers.
const maxKnown = 1024

// compiledRule is a rule that is in force.
type compiledRule struct {
	*Rule
	policy  *Written
	kind    kind
	refused *refusal
}

// kind is what a rule does, and how it is taken.
type kind uint8

const (
	denyEnforced kind = iota
	allowEnforced
	denyAudited
	allowAudited

	numKinds
)

// denies says whether rules of the kind deny.
func (k kind) denies() bool { return k&1 == 0 }

func kindOf(r *Rule) kind {
	k := denyEnforced
	if r.Allow {
		k++
	}
	if r.Mode == Audit {
		k += denyAudited
	}
	return k
}

// patternRule is a rule that is for those who match a pattern.
type patternRule struct {
	pattern identity.Pattern
	rule    int32
}

// refusal is who refuses, and where that is counted.
type refusal struct {
	by string
	*tally
}

// tally is what is counted under one name. The counters are taken over from the policy
// that was in force before.
type tally struct {
	label  string
	counts *Counts
}

// New puts rules and intentions in force. Both may be nil: no rule holds, no intention
// has to be passed.
func New(rules *Rules, in *registry.Intentions, env Env) *Policy {
	app, own := rules.split()
	p := compile(app, in, env)
	if own != nil {
		env.AwaitIntentions = false // which are about the app
		p.own = compile(own, nil, env)
	}
	return p
}

func compile(rules *Rules, in *registry.Intentions, env Env) *Policy {
	p := &Policy{exact: map[spiffeid.ID][]int32{}, domains: map[string][]patternRule{}, members: map[string]*index{}, known: map[spiffeid.ID]*Caller{}, env: env}
	var allows [len(p.defaults)][]string
	var everyone, proven []int32
	members := map[string][]int32{}
	for _, policy := range rules.Policies() {
		refused := &refusal{policyText(policy.Name), p.tally(policy.Name)}
		for i := range policy.Rules {
			rule := &policy.Rules[i]
			if rule.Mode == Off {
				continue
			}
			c := compiledRule{Rule: rule, policy: policy, kind: kindOf(rule), refused: refused}
			number := int32(len(p.rules))
			p.rules = append(p.rules, c)
			p.has[c.kind] = true
			p.look = p.look || rule.Metadata != nil
			if rule.Allow {
				if by := &allows[c.kind/2]; len(*by) == 0 || (*by)[len(*by)-1] != policy.Name {
					*by = append(*by, policy.Name)
				}
			}
			if len(rule.From) == 0 {
				everyone = append(everyone, number)
				continue
			}
			for _, from := range rule.From {
				for _, pattern := range from.Patterns(p.env.IDs) {
					domain, path, _ := strings.Cut(strings.TrimPrefix(pattern.String(), scheme), "/")
					id, isOne := pattern.Exact()
					switch {
					case isOne:
						put(p.exact, id, number)
					case domain == "*":
						proven = append(proven, number)
					case path == "":
						put(members, domain, number)
					default:
						put(p.domains, domain, patternRule{pattern, number})
					}
				}
			}
		}
	}
	for i, names := range allows {
		p.defaults[i] = p.defaultOf(names)
	}
	p.everyone, p.proven = p.newIndex(everyone), p.newIndex(slices.Compact(proven))
	for domain, rules := range members {
		p.members[domain] = p.newIndex(slices.Compact(rules))
	}
	p.intentions = p.compileIntentions(in)
	p.plain = p.caller(spiffeid.ID{})
	return p
}

func (p *Policy) tally(label string) *tally {
	t := &tally{label, &Counts{}}
	p.tallies = append(p.tallies, t)
	return t
}

// defaultOf is who refuses what none of the policies allows; nil: there are none.
func (p *Policy) defaultOf(allowing []string) *refusal {
	if len(allowing) == 0 {
		return nil
	}
	i := slices.IndexFunc(p.tallies, func(t *tally) bool { return t.label == allowing[0] })
	by := policyText(allowing[0])
	switch others := len(allowing) - 1; others {
	case 0:
	case 1:
		by += " (and 1 other)"
	default:
		by += fmt.Sprintf(" (and %d others)", others)
	}
	return &refusal{by, p.tallies[i]}
}

func put[K comparable, V any](m map[K][]V, key K, value V) { m[key] = append(m[key], value) }

// For returns what the policy says of a caller; nil: of those who have proven no
// identity.
func (p *Policy) For(peer *identity.Peer) *Caller {
	if peer == nil {
		return p.plain
	}
	return p.ForID(peer.ID)
}

// ForID is [Policy.For] by the SPIFFE ID that the caller has proven; the zero one: none.
func (p *Policy) ForID(id spiffeid.ID) *Caller {
	if id.IsZero() {
		return p.plain
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.known[id]; c != nil {
		return c
	}
	if len(p.known) >= maxKnown {
		for other := range p.known { // any of them: who is still there keeps its own
			delete(p.known, other)
			break
		}
	}
	c := p.caller(id)
	p.known[id] = c
	return c
}

// caller finds what is for a caller.
func (p *Policy) caller(id spiffeid.ID) *Caller {
	c := &Caller{policy: p, id: id}
	c.indexes[forEveryone] = p.everyone
	if id.IsZero() {
		return c
	}
	domain := id.TrustDomain().Name()
	c.indexes[forProven], c.indexes[forMembers] = p.proven, p.members[domain]
	rules := slices.Clone(p.exact[id])
	for _, candidate := range p.domains[domain] {
		if candidate.pattern.Matches(id) {
			rules = append(rules, candidate.rule)
		}
	}
	slices.Sort(rules)
	c.indexes[forSome] = p.newIndex(slices.Compact(rules))
	c.intention = p.intentions.of(id)
	return c
}

package policy

import (
	"fmt"
	"log/slog"

	"google.golang.org/protobuf/proto"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
)

// Env is what policies need of the sidecar that they are compiled for.
type Env struct {
	// Logger is told of what policies do, such as breakers that open; nil: nobody is.
	Logger *slog.Logger
	// Group returns the counters of a split's group; nil: nobody wants to know.
	Group func(telemetry.GroupKey) *telemetry.Group
	// Observer returns who is told of what comes of a split policy's group; it, and what
	// it returns, may be nil: nobody is.
	Observer func(telemetry.GroupKey) telemetry.Observer
}

// Compile compiles policies which keep the schema's rules and whose defaults are
// filled in. A policy that is wrong is refused alone; where the previous set has one
// of its name, that stays in force. A policy that is the same as in the previous set,
// which may be nil, stays the same object, and so does what it remembers, as long as
// what it says of it is the same.
func Compile(policies []*configv1.Policy, previous *Set, env Env) (*Set, []Refusal) {
	c := &compilation{previous: previous, env: &env, set: &Set{byName: map[string]*entry{}}, taken: map[claim]*entry{}, kept: map[*entry]bool{}, splits: map[string]int{}}
	for i, m := range policies {
		c.compile(i, m)
	}
	c.keepRefused()
	c.checkSubsets()
	c.set.services = merge(c.set.entries, previous)
	c.keepSubsets()
	c.set.settle()
	c.set.version = version(c.set)
	return c.set, c.refusals
}

// compilation is the state of one Compile.
type compilation struct {
	previous *Set
	env      *Env
	set      *Set
	taken    map[claim]*entry
	refused  []string        // names of policies whose previous versions may stay
	kept     map[*entry]bool // previous versions that stay
	splits   map[string]int  // how many split policies there are, by service
	refusals []Refusal
}

// claim is what only one policy may say: something of one kind about equally exact
// methods of one service on one side.
type claim struct {
	service string
	inbound bool
	slot    Kind
	methods selector
}

// before returns what was in force under a name.
func (c *compilation) before(name string) *entry {
	if c.previous == nil {
		return nil
	}
	return c.previous.byName[name]
}

func (c *compilation) compile(i int, m *configv1.Policy) {
	name := m.GetName()
	if _, taken := c.set.byName[name]; taken {
		c.refuse(name, "name", "is the name of an earlier policy already: choose another")
		return
	}
	before := c.before(name)
	e := before
	if before == nil || !proto.Equal(before.source, m) {
		var refusals []Refusal
		if e, refusals = compileEntry(m, before, c.env); e == nil {
			c.refusals = append(c.refusals, refusals...)
			c.refused = append(c.refused, name)
			return
		}
	}
	if !c.claim(e) {
		c.refused = append(c.refused, name)
	}
}

// claim puts an entry in force, unless another says the same kind of thing about the
// same already, or there are too many.
func (c *compilation) claim(e *entry) bool {
	claims := e.claims()
	for i, claim := range claims {
		other := c.taken[claim]
		if other == nil {
			continue
		}
		field := "service"
		if e.kind.ofMethods() {
			field = "methods"
			if len(e.source.GetMethods()) > 0 {
				field = at(field, i)
			}
		}
		c.refuse(e.name(), field, conflict(e, other, claim))
		return false
	}
	if e.kind == KindSplit {
		if c.splits[e.service()] == maxSplits {
			c.refuse(e.name(), "split", fmt.Sprintf("is one more than the %d split policies that service %s may have: leave one out", maxSplits, quoted(e.service())))
			return false
		}
		c.splits[e.service()]++
	}
	for _, claim := range claims {
		c.taken[claim] = e
	}
	c.set.entries = append(c.set.entries, e)
	c.set.byName[e.name()] = e
	return true
}

func (e *entry) claims() []claim {
	if e.kind.together() {
		return nil
	}
	if !e.kind.ofMethods() {
		return []claim{{service: e.service(), slot: e.kind}}
	}
	claims := make([]claim, 0, len(e.selectors))
	for _, s := range e.selectors {
		claims = append(claims, claim{service: e.service(), inbound: e.inbound, slot: e.kind.slot(), methods: s})
	}
	return claims
}

// conflict says why two policies cannot both be in force.
func conflict(e, other *entry, at claim) string {
	service := "service " + quoted(e.service())
	if e.service() == AllServices {
		service = "all services"
	}
	switch {
	case !e.kind.ofMethods():
		return "policy " + quoted(other.name()) + " is the " + e.kind.String() + " of " + service + " already: leave out one of them"
	case e.kind != other.kind:
		return "policy " + quoted(other.name()) + " is the " + other.kind.String() + " of " + quoted(at.methods.String()) + " of " + service +
			", and a method is either retried or hedged: name other methods, or leave out one of them"
	}
	return "policy " + quoted(other.name()) + " is the " + e.kind.String() + " of " + quoted(at.methods.String()) + " of " + service +
		" already: name other methods, or leave out one of them"
}

func (c *compilation) refuse(policy, field, message string) {
	c.refusals = append(c.refusals, Refusal{Policy: policy, Field: field, Message: message})
}

// keepRefused has what refused policies said before stay in force, as far as that does
// not collide with those that were accepted.
func (c *compilation) keepRefused() {
	for _, name := range c.refused {
		before := c.before(name)
		if before == nil || c.set.byName[name] != nil {
			continue
		}
		known := len(c.refusals)
		kept := c.claim(before)
		c.refusals = c.refusals[:known]
		if kept {
			c.keep(before)
		}
	}
}

// keep notes that what a refused policy said before stays in force.
func (c *compilation) keep(before *entry) {
	c.kept[before] = true
	for i := range c.refusals {
		if c.refusals[i].Policy == before.name() {
			c.refusals[i].Kept = true
		}
	}
}

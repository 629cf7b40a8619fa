package access

import (
	"slices"
	"strconv"

	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
)

// Mode is how a rule is taken.
type Mode uint8

// The modes.
const (
	// Enforce: what the rule refuses is refused.
	Enforce Mode = iota
	// Audit: what the rule refuses is let through, and told of.
	Audit
	// Off: there is no such rule.
	Off
)

var modeNames = [...]string{Enforce: "enforce", Audit: "audit", Off: "off"}

// String returns the mode's name in the schema.
func (m Mode) String() string {
	if int(m) >= len(modeNames) {
		return "unknown"
	}
	return modeNames[m]
}

// ParseMode returns the mode of that name; "" is [Enforce].
func ParseMode(name string) (Mode, bool) {
	if name == "" {
		return Enforce, true
	}
	i := slices.Index(modeNames[:], name)
	return Mode(max(i, 0)), i >= 0
}

// Written is one access policy, as far as it can be understood without knowing whose
// names its rules name. It never changes.
type Written struct {
	// Name is the policy's.
	Name string
	// Rules are in the order in which they were written.
	Rules []Rule
}

// Rule allows or denies the RPCs that it matches: all that it says must hold.
type Rule struct {
	// Name is the rule's, or its number in the policy from 1 on.
	Name string
	// Allow: it allows; else it denies.
	Allow bool
	// Mode is how it is taken.
	Mode Mode
	// From are the callers, as [ParseFrom] reads them. None: all, those who have proven no
	// identity included.
	From []From
	// Methods are the methods. None: all.
	Methods []Selector
	// Metadata is what has to hold for the metadata. nil: nothing.
	Metadata Metadata
}

// Selector is a set of methods.
type Selector struct {
	// Path is a method's path, or how those of several begin; "": all methods.
	Path string
	// Exact: it is the one method at Path.
	Exact bool
}

// Metadata is what has to hold for an RPC's metadata.
type Metadata interface {
	// Holds says whether all of it holds for a request. Where that cannot be told, it is
	// unsure.
	Holds(fields []hpack.Field, unsure bool) bool
	// Why says what does not hold, for people.
	Why(fields []hpack.Field) string
}

// Rules are all access policies for a service. They hold together, whatever their order.
// A nil one has none.
type Rules struct{ policies []*Written }

// NewRules puts policies together; nil where there are none.
func NewRules(policies ...*Written) *Rules {
	if len(policies) == 0 {
		return nil
	}
	return &Rules{policies}
}

// Equal says whether both have the same policies in the same order.
func (r *Rules) Equal(other *Rules) bool { return slices.Equal(r.Policies(), other.Policies()) }

// Policies returns the policies. They must not be changed.
func (r *Rules) Policies() []*Written {
	if r == nil {
		return nil
	}
	return r.policies
}

// policyText names a policy in messages.
func policyText(name string) string { return "access policy " + strconv.Quote(name) }

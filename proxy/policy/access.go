package policy

import (
	"fmt"
	"strconv"
	"strings"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	"github.com/pillion-proxy/pillion/proxy/access"
	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
)

// Access returns all access policies for the service; nil: there are none. Each is the
// same object for as long as it says the same.
func (v *Service) Access() *access.Rules {
	if v == nil {
		return nil
	}
	var written []*access.Written
	for _, e := range v.entries {
		if e.access != nil {
			written = append(written, e.access)
		}
	}
	return access.NewRules(written...)
}

// compileAccess compiles an access policy.
func (p *problems) compileAccess(m *configv1.AccessPolicy) *access.Written {
	w := &access.Written{Name: p.policy, Rules: make([]access.Rule, 0, len(m.GetRules()))}
	names := map[string]int{}
	for i, rule := range m.GetRules() {
		field := at("access.rules", i)
		name := rule.GetName()
		if name == "" {
			name = strconv.Itoa(i + 1)
		}
		if first, taken := names[name]; taken {
			p.addf(field+".name", "%q is the name of rule %d already: choose another", name, first+1)
		}
		names[name] = i
		w.Rules = append(w.Rules, p.compileAccessRule(field, name, rule, m.GetMode()))
	}
	return w
}

func (p *problems) compileAccessRule(field, name string, m *configv1.AccessRule, mode string) access.Rule {
	r := access.Rule{Name: name, Allow: m.GetAction() == "allow"}
	if m.GetMode() != "" {
		mode = m.GetMode()
	}
	r.Mode, _ = access.ParseMode(mode) // the schema knows no others
	for i, text := range m.GetFrom() {
		from, err := access.ParseFrom(text)
		if err != nil {
			p.addf(at(field+".from", i), "%v", err)
			continue
		}
		r.From = append(r.From, from)
	}
	if len(m.GetMethods()) > 0 {
		for _, s := range p.compileSelectors(field+".methods", m.GetMethods()) {
			r.Methods = append(r.Methods, access.Selector{Path: s.path, Exact: s.exact})
		}
	}
	if len(m.GetMetadata()) > 0 {
		r.Metadata = &accessMetadata{Match{conditions: p.compileConditions(field+".metadata", m.GetMetadata(), false), fraction: shares}}
	}
	return r
}

// accessMetadata is what an access rule asks for in metadata.
type accessMetadata struct{ match Match }

// Holds implements [access.Metadata]. A key that stands there several times can be read
// in several ways, and regular expressions are not tried on values that are too long.
func (a *accessMetadata) Holds(fields []hpack.Field, unsure bool) bool {
	rpc := RPC{Fields: fields}
	for i := range a.match.conditions {
		c := &a.match.conditions[i]
		if c.untold(&rpc) {
			if !unsure {
				return false
			}
			continue
		}
		if !c.holds(&rpc, nil) {
			return false
		}
	}
	return true
}

// Why implements [access.Metadata].
func (a *accessMetadata) Why(fields []hpack.Field) string {
	rpc := RPC{Fields: fields}
	for i := range a.match.conditions {
		c := &a.match.conditions[i]
		if c.untold(&rpc) {
			if _, count := rpc.one(&c.key); count > 1 {
				return fmt.Sprintf("%s is wanted, but the RPC has %q several times", c.wanted(), c.key.text)
			}
			return c.why(fields)
		}
		if !c.holds(&rpc, nil) {
			return c.why(fields)
		}
	}
	return ""
}

// untold says whether it cannot be told for certain whether the condition holds.
func (c *condition) untold(rpc *RPC) bool {
	if c.test == testPresent {
		return false
	}
	value, count := rpc.one(&c.key)
	switch {
	case count == 0:
		return false
	case count > 1, c.binary && strings.Contains(value, ","):
		return true
	case c.test != testRegex:
		return false
	}
	if c.binary {
		return c.tooLong(value)
	}
	_, told := c.regex.Match(value)
	return !told
}

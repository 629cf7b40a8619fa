package policy

import (
	"maps"
	"slices"
	"strings"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
)

// Mentions are the metadata keys and cookies that policies look at. They never change; nil
// ones are none.
type Mentions struct {
	metadata, cookies map[string]bool
	// lengths has a bit for each length of a key: most fields need not be looked up.
	lengths uint64
	// withheld are credentials that policies look at nevertheless.
	withheld []string
}

// secretKeys are never among those that are mentioned: what is remembered of RPCs must not
// let anybody in.
var secretKeys = []string{"authorization", "cookie", "proxy-authorization"}

// Mentions returns what policies in force look at of RPCs' metadata. Credentials are left
// out, whatever policies say: the keys "authorization" and "proxy-authorization", and of
// "cookie" all but the cookies that are named.
func (s *Set) Mentions() *Mentions {
	m := &Mentions{metadata: map[string]bool{}, cookies: map[string]bool{}}
	if s != nil {
		for _, e := range s.entries {
			m.policy(e.source)
		}
	}
	for _, key := range secretKeys {
		if m.metadata[key] {
			delete(m.metadata, key)
			m.withheld = append(m.withheld, key)
		}
	}
	for key := range m.metadata {
		m.lengths |= lengthBit(key)
	}
	return m
}

// policy adds what a policy looks at.
func (m *Mentions) policy(p *configv1.Policy) {
	for _, rule := range p.GetRoute().GetRules() {
		m.match(rule.GetMatch())
		m.split(rule.GetSplit())
	}
	if s := p.GetSplit(); s != nil {
		m.match(s.GetMatch())
		m.split(s.GetSplit())
		for _, r := range s.GetRanges() {
			m.key(r.GetKey())
		}
	}
	for _, limit := range p.GetRateLimit().GetLimits() {
		m.match(limit.GetMatch())
		m.key(limit.GetKey())
	}
	m.match(p.GetFault().GetMatch())
	m.key(p.GetLoadBalancing().GetHash())
	for _, rule := range p.GetAccess().GetRules() {
		m.conditions(m.metadata, rule.GetMetadata())
	}
}

func (m *Mentions) match(r *configv1.RouteMatch) {
	m.conditions(m.metadata, r.GetMetadata())
	m.conditions(m.cookies, r.GetCookies())
}

func (m *Mentions) conditions(of map[string]bool, list []*configv1.MetadataMatch) {
	for _, c := range list {
		of[c.GetKey()] = true
	}
}

func (m *Mentions) split(s *configv1.Split) {
	m.key(s.GetSticky().GetKey())
	if s.GetAllowForce() {
		m.metadata[ForceKey] = true
	}
}

func (m *Mentions) key(k *configv1.HashKey) {
	switch from := k.GetFrom().(type) {
	case *configv1.HashKey_Metadata:
		m.metadata[from.Metadata] = true
	case *configv1.HashKey_Cookie:
		m.cookies[from.Cookie] = true
	}
}

// Metadata returns the metadata keys that are mentioned, in their order.
func (m *Mentions) Metadata() []string {
	if m == nil {
		return nil
	}
	return slices.Sorted(maps.Keys(m.metadata))
}

// Cookies returns the cookies that are mentioned, in their order.
func (m *Mentions) Cookies() []string {
	if m == nil {
		return nil
	}
	return slices.Sorted(maps.Keys(m.cookies))
}

// Withheld returns the metadata keys, in their order, that policies look at and that are not
// among those mentioned, as they are credentials.
func (m *Mentions) Withheld() []string {
	if m == nil {
		return nil
	}
	return slices.Clone(m.withheld)
}

// Has says whether a field that Fields made is still mentioned.
func (m *Mentions) Has(f hpack.Field) bool {
	switch {
	case m == nil:
		return false
	case f.Name != cookieKey.text:
		return m.metadata[f.Name]
	}
	name, _, _ := strings.Cut(f.Value, "=")
	return m.cookies[name]
}

// Fields calls yield with what is mentioned among a request's fields, in their order. Each
// cookie is a field "cookie: name=value" of its own. What the peer marks as not to be
// indexed (RFC 7541 section 7.1.3) is left out. The strings are the request's, but those
// of cookies.
func (m *Mentions) Fields(fields []hpack.Field, yield func(hpack.Field) bool) {
	if m == nil {
		return
	}
	for i := range fields {
		f := &fields[i]
		switch {
		case f.Sensitive:
		case f.Name == cookieKey.text:
			if len(m.cookies) > 0 && !m.cookiesOf(f.Value, yield) {
				return
			}
		case m.lengths&lengthBit(f.Name) != 0 && m.metadata[f.Name]:
			if !yield(hpack.Field{Name: f.Name, Value: f.Value}) {
				return
			}
		}
	}
}

func (m *Mentions) cookiesOf(header string, yield func(hpack.Field) bool) bool {
	for rest := header; rest != ""; {
		var pair cookiePair
		pair, rest = nextCookie(rest)
		if m.cookies[pair.name] && !yield(hpack.Field{Name: cookieKey.text, Value: pair.name + "=" + trimBlanks(pair.written)}) {
			return false
		}
	}
	return true
}

// Beyond returns what these look at and others do not, as people write it, in order.
func (m *Mentions) Beyond(others *Mentions) (keys []string) {
	for key := range m.metadata {
		if !others.metadata[key] {
			keys = append(keys, "metadata "+quoted(key))
		}
	}
	for name := range m.cookies {
		if !others.cookies[name] {
			keys = append(keys, "cookie "+quoted(name))
		}
	}
	slices.Sort(keys)
	return keys
}

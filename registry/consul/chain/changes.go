package chain

import (
	"iter"
	"maps"
	"slices"
	"strings"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

func (h *Headers) isZero() bool {
	return h == nil || len(h.Add) == 0 && len(h.Set) == 0 && len(h.Remove) == 0
}

// changes translates changes of headers; nil: there are none. Envoy removes, then adds,
// then sets, and what it sets takes the place of what it added.
func (t *translation) changes(h *Headers, where string) *configv1.MetadataChange {
	if h.isZero() {
		return nil
	}
	c := &configv1.MetadataChange{Set: map[string]string{}, Add: map[string]string{}}
	for _, name := range slices.Sorted(maps.Keys(h.Set)) {
		if value, ok := t.header(where+".set", name, h.Set[name]); ok {
			c.Set[lower(name)] = value
		}
	}
	for _, name := range slices.Sorted(maps.Keys(h.Add)) {
		if value, ok := t.header(where+".add", name, h.Add[name]); ok {
			if _, set := c.Set[lower(name)]; !set {
				c.Add[lower(name)] = value
			}
		}
	}
	for _, name := range h.Remove {
		if _, ok := t.header(where+".remove", name, ""); ok && !slices.Contains(c.Remove, lower(name)) {
			c.Remove = append(c.Remove, lower(name))
		}
	}
	if len(c.Set) == 0 && len(c.Add) == 0 && len(c.Remove) == 0 {
		return nil
	}
	return c
}

// header says what a header is changed to. It is false where that cannot be done.
func (t *translation) header(where, name, value string) (string, bool) {
	switch {
	case !usable(name):
		t.refusef(t.service, kindRoute, "%s: %q belongs to HTTP or gRPC itself, or is no metadata key: it is not changed", where, name)
		return "", false
	case strings.Contains(strings.ReplaceAll(value, "%%", ""), "%"):
		t.refusef(t.service, kindRoute, "%s: the value of %q, %q, has a variable of Envoy's, which a sidecar has not: it is not changed", where, name, value)
		return "", false
	}
	return strings.ReplaceAll(value, "%%", "%"), true
}

// usable says whether a header is one that policies may change.
func usable(name string) bool {
	name = lower(name)
	switch name {
	case "", "content-type", "te", "host", "connection", "transfer-encoding", "content-length", "upgrade", "keep-alive", "proxy-connection":
		return false
	}
	return !strings.HasPrefix(name, "grpc-") && !strings.HasPrefix(name, "pillion-") && isKey(name)
}

// isKey says whether a name in lower case is one of metadata.
func isKey(name string) bool {
	return name != "" && len(name) <= maxKey && strings.IndexFunc(name, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' && c != '-' && c != '.'
	}) < 0
}

// meet says whether two changes, either of which may be nil, are about the same keys.
func meet(a, b *configv1.MetadataChange) bool {
	about := func(c *configv1.MetadataChange, key string) bool {
		_, set := c.GetSet()[key]
		_, add := c.GetAdd()[key]
		return set || add || slices.Contains(c.GetRemove(), key)
	}
	for _, list := range []iter.Seq[string]{maps.Keys(a.GetSet()), maps.Keys(a.GetAdd()), slices.Values(a.GetRemove())} {
		for key := range list {
			if about(b, key) {
				return true
			}
		}
	}
	return false
}

// then is one change after another, as one. Either may be nil.
func then(first, next *configv1.MetadataChange) *configv1.MetadataChange {
	if first == nil {
		return next
	}
	if next == nil {
		return first
	}
	c := &configv1.MetadataChange{Set: maps.Clone(first.GetSet()), Add: maps.Clone(first.GetAdd()), Remove: slices.Clone(first.GetRemove())}
	if c.Set == nil {
		c.Set = map[string]string{}
	}
	if c.Add == nil {
		c.Add = map[string]string{}
	}
	for _, key := range next.GetRemove() {
		delete(c.Set, key)
		delete(c.Add, key)
		if !slices.Contains(c.Remove, key) {
			c.Remove = append(c.Remove, key)
		}
	}
	for key, value := range next.GetSet() {
		delete(c.Add, key)
		c.Set[key] = value
	}
	for key, value := range next.GetAdd() {
		if other, both := c.Add[key]; both {
			value = other + "," + value // which is how gRPC reads the two of them
		}
		c.Add[key] = value
	}
	return c
}

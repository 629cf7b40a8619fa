package policy

import (
	"slices"
	"strings"
)

// table maps selectors to values, and finds that of the most exact selector for a
// path in the time of one map access and a binary search.
type table[T any] struct {
	exact map[string]T
	// prefixes are in the order of their texts, so that those that a path begins with
	// are found by following parents from the last one that is not after the path.
	prefixes []prefix[T]
}

type prefix[T any] struct {
	text   string
	parent int // the longest other prefix that this one begins with; -1: none
	value  T
}

// newTable makes a table of distinct selectors.
func newTable[T any](values map[selector]T) *table[T] {
	t := &table[T]{}
	for s, v := range values {
		if s.exact {
			if t.exact == nil {
				t.exact = make(map[string]T)
			}
			t.exact[s.path] = v
			continue
		}
		t.prefixes = append(t.prefixes, prefix[T]{text: s.path, value: v})
	}
	slices.SortFunc(t.prefixes, func(a, b prefix[T]) int { return strings.Compare(a.text, b.text) })
	for i := range t.prefixes {
		parent := i - 1
		for parent >= 0 && !strings.HasPrefix(t.prefixes[i].text, t.prefixes[parent].text) {
			parent = t.prefixes[parent].parent
		}
		t.prefixes[i].parent = parent
	}
	return t
}

// find returns the value of the most exact selector for a path. A nil table has
// none.
func (t *table[T]) find(path string) (value T, found bool) {
	if t == nil {
		return value, false
	}
	if len(t.exact) > 0 {
		if value, found = t.exact[path]; found {
			return value, true
		}
	}
	low, high := 0, len(t.prefixes)
	for low < high {
		middle := int(uint(low+high) >> 1)
		if t.prefixes[middle].text <= path {
			low = middle + 1
		} else {
			high = middle
		}
	}
	for i := low - 1; i >= 0; i = t.prefixes[i].parent {
		if strings.HasPrefix(path, t.prefixes[i].text) {
			return t.prefixes[i].value, true
		}
	}
	return value, false
}

package access

import (
	"slices"
	"strings"
)

// none is the number of no rule.
const none = -1

// index finds what some rules say of a method.
type index struct {
	exact map[string]*cell
	// prefixes are in the order of their texts, so that those that a path begins with are
	// found by following parents from the last one that is not after the path.
	prefixes []prefixCell
	// services has those of the prefixes that end in a slash, and that no other begins
	// with: a path whose front is one of them begins with no longer one.
	services map[string]*cell
	all      *cell // what is said of all methods, and so of those that nothing else selects
	odd      *cell // of paths that a server might take for others
	// allows says whether any of the rules allows something, and is enforced.
	allows bool
}

type prefixCell struct {
	text   string
	parent int // the longest other prefix that this one begins with; none: there is none
	*cell
}

// cell is what rules say of the methods of one selector, with what those say that
// select all of them and more.
type cell struct {
	// first is, for each kind, the first rule without conditions on metadata.
	first [numKinds]int32
	// conditional are those with conditions that have just this selector, in their order;
	// the others are the parent's.
	conditional [numKinds][]int32
	// any says whether it, or a parent, has conditional ones.
	any    [numKinds]bool
	parent *cell
}

func newCell() *cell {
	c := &cell{}
	for k := range c.first {
		c.first[k] = none
	}
	return c
}

// put has a rule be part of the cell. Rules come in their order.
func (c *cell) put(number int32, r *compiledRule) {
	if r.Metadata != nil {
		if list := c.conditional[r.kind]; len(list) == 0 || list[len(list)-1] != number {
			c.conditional[r.kind] = append(list, number)
			c.any[r.kind] = true
		}
		return
	}
	if c.first[r.kind] == none {
		c.first[r.kind] = number
	}
}

// inherit adds what the parent says.
func (c *cell) inherit(parent *cell) {
	c.parent = parent
	for k := range numKinds {
		c.first[k] = earlier(c.first[k], parent.first[k])
		c.any[k] = c.any[k] || parent.any[k]
	}
}

// earlier returns the lower of two numbers of rules.
func earlier(a, b int32) int32 {
	if a == none || b != none && b < a {
		return b
	}
	return a
}

// newIndex makes the index of rules, whose numbers are in their order; nil where there
// are none.
func (p *Policy) newIndex(rules []int32) *index {
	if len(rules) == 0 {
		return nil
	}
	x := &index{exact: map[string]*cell{}, all: newCell(), odd: newCell()}
	prefixes := map[string]*cell{}
	for _, number := range rules {
		r := &p.rules[number]
		x.allows = x.allows || r.kind == allowEnforced
		x.putOdd(number, r)
		if len(r.Methods) == 0 {
			x.all.put(number, r)
		}
		for _, s := range r.Methods {
			cells := prefixes
			switch {
			case s.Exact:
				cells = x.exact
			case s.Path == "":
				x.all.put(number, r)
				continue
			}
			if cells[s.Path] == nil {
				cells[s.Path] = newCell()
			}
			cells[s.Path].put(number, r)
		}
	}
	x.nest(prefixes)
	for path, c := range x.exact {
		c.inherit(x.covering(path))
	}
	return x
}

// putOdd has a rule hold, or not, for paths of which cannot be told which methods they
// are. One that denies some methods denies them, whatever its conditions: nobody who is
// honest has such a path.
func (x *index) putOdd(number int32, r *compiledRule) {
	switch all := len(r.Methods) == 0 || slices.Contains(r.Methods, Selector{}); {
	case all:
		x.odd.put(number, r)
	case r.kind.denies():
		x.odd.first[r.kind] = earlier(x.odd.first[r.kind], number)
	}
}

// nest puts the prefixes in order, and has each inherit from those that it begins with.
func (x *index) nest(cells map[string]*cell) {
	for text, c := range cells {
		x.prefixes = append(x.prefixes, prefixCell{text: text, parent: none, cell: c})
	}
	slices.SortFunc(x.prefixes, func(a, b prefixCell) int { return strings.Compare(a.text, b.text) })
	for i := range x.prefixes {
		parent := i - 1
		for parent >= 0 && !strings.HasPrefix(x.prefixes[i].text, x.prefixes[parent].text) {
			parent = x.prefixes[parent].parent
		}
		x.prefixes[i].parent = parent
		if parent >= 0 {
			x.prefixes[i].inherit(x.prefixes[parent].cell)
		} else {
			x.prefixes[i].inherit(x.all)
		}
	}
	x.services = make(map[string]*cell)
	for i := range x.prefixes {
		text := x.prefixes[i].text
		if strings.HasSuffix(text, "/") && (i+1 == len(x.prefixes) || !strings.HasPrefix(x.prefixes[i+1].text, text)) {
			x.services[text] = x.prefixes[i].cell
		}
	}
}

// find returns what is said of the method at a path. A nil index says nothing.
func (x *index) find(path string, odd bool) *cell {
	if x == nil {
		return nil
	}
	if odd {
		return x.odd
	}
	if c := x.exact[path]; c != nil {
		return c
	}
	if c := x.services[path[:strings.LastIndexByte(path, '/')+1]]; c != nil {
		return c
	}
	return x.covering(path)
}

// covering returns what is said of the longest prefix that a path begins with.
func (x *index) covering(path string) *cell {
	low, high := 0, len(x.prefixes)
	for low < high {
		middle := int(uint(low+high) >> 1)
		if x.prefixes[middle].text <= path {
			low = middle + 1
		} else {
			high = middle
		}
	}
	for i := low - 1; i >= 0; i = x.prefixes[i].parent {
		if strings.HasPrefix(path, x.prefixes[i].text) {
			return x.prefixes[i].cell
		}
	}
	return x.all
}

// odd says whether a server might take a path for another one: some decode what is
// escaped, cut off a query, or take out what is redundant. No gRPC method has such a
// path.
func odd(path string) bool {
	previous := byte(0)
	for i := range len(path) {
		c := path[i]
		switch {
		case c <= ' ' || c >= 0x7f, c == '%', c == '?', c == '#', c == ';', c == '\\':
			return true
		case previous == '/' && (c == '/' || c == '.'): // "//", "/./" and "/../"
			return true
		}
		previous = c
	}
	return false
}

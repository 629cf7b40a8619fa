package documents

import (
	"fmt"
	"slices"
	"strings"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
	"github.com/pillion-proxy/pillion/proxy/policy"
)

// Refusal says why a document cannot be applied.
type Refusal struct {
	ID ID
	// Field is the path of the field below the document; empty for the whole.
	Field   string
	Message string
	// undefined says that nothing is known that it could be checked against: no policy
	// defines subsets of the service.
	undefined       bool
	service, subset string
}

// Error is the refusal on one line.
func (r Refusal) Error() string {
	if r.Field == "" {
		return fmt.Sprintf("%s: %s", r.ID, r.Message)
	}
	return fmt.Sprintf("%s: %s: %s", r.ID, r.Field, r.Message)
}

// RefusedError says that nothing was applied, since documents are wrong.
type RefusedError struct{ Refusals []Refusal }

// Error has a line for each refusal.
func (e *RefusedError) Error() string {
	lines := make([]string, 0, len(e.Refusals))
	for _, r := range e.Refusals {
		lines = append(lines, r.Error())
	}
	return strings.Join(lines, "\n")
}

// set are documents that are looked at together.
type set struct {
	// all have their defaults filled in. Of two that collide the later one is refused.
	all []*controlv1.Document
	// elsewhere says that subsets may be defined elsewhere than in documents.
	elsewhere bool
	made      func(*controlv1.Document) *configv1.Policy
}

// policies are those of the set, and those that its canaries and experiments come to.
func (s *set) policies() (list []*configv1.Policy) {
	for _, d := range s.all {
		if p := d.GetPolicy(); p != nil {
			list = append(list, p)
		} else if p := s.made(d); p != nil {
			list = append(list, p)
		}
	}
	return list
}

// refusals says what of the set cannot hold.
func (s *set) refusals() (found []Refusal) {
	found = s.collisions()
	subsets := subsetsBy{}
	for _, d := range s.all {
		if p := d.GetPolicy(); p.GetSubsets() != nil && subsets[p.GetService()] == nil {
			subsets[p.GetService()] = p
		}
	}
	missing := map[ID]bool{}
	for _, d := range s.all {
		for _, r := range subsets.missing(d, s.elsewhere) {
			missing[r.ID] = true
			found = append(found, r)
		}
	}
	said := map[Refusal]bool{} // a field of a document may be several of its policy's
	_, refused := policy.Compile(s.policies(), nil, policy.Env{})
	for _, r := range refused {
		id, made := generatedFor(r.Policy)
		field := r.Field
		if made {
			field = fieldOf(id.Kind, field)
			if missing[id] || s.elsewhere && namesSubset(r.Field) {
				continue // said in better words, or not to be said
			}
		}
		if r := (Refusal{ID: id, Field: field, Message: r.Message}); !said[r] {
			said[r] = true
			found = append(found, r)
		}
	}
	return found
}

// namesSubset says whether a field of a generated policy names a subset.
func namesSubset(field string) bool { return strings.HasSuffix(field, "].subset") }

// Check says what of documents, whose defaults are filled in, cannot hold together, and
// warns of what depends on others than these. made is as in [Options].
func Check(all []*controlv1.Document, made func(*controlv1.Document) *configv1.Policy) (refusals, warnings []Refusal) {
	for _, r := range (&set{all: all, made: made}).refusals() {
		if r.undefined {
			warnings = append(warnings, r)
		} else {
			refusals = append(refusals, r)
		}
	}
	return refusals, warnings
}

// collisions finds documents of different kinds that have one name. Those of one kind
// cannot: they would be the same document.
func (s *set) collisions() (found []Refusal) {
	taken := map[string]ID{}
	for _, d := range s.all {
		id, _ := IDOf(d)
		if other, is := taken[id.Name]; is && other != id {
			found = append(found, Refusal{ID: id, Field: "name", Message: fmt.Sprintf("%q is the name of a %s already: choose another", id.Name, other.Kind)})
			continue
		}
		taken[id.Name] = id
	}
	return found
}

// warnings says what of some documents of the set is hardly meant.
func (s *set) warnings(of map[ID]bool) (lines []string) {
	for _, w := range policy.Warnings(s.policies(), nil) {
		if id, made := generatedFor(w.Policy); of[id] && !made {
			lines = append(lines, Refusal{ID: id, Field: w.Field, Message: w.Message}.Error())
		}
	}
	return lines
}

// sets returns the documents as they are and as they are to be, with what changes last,
// so that of two that collide it is what changes that is refused.
func (d *Documents) sets(state *State, changes []*Change, elsewhere bool) (before, after *set) {
	before, after = &set{elsewhere: elsewhere, made: d.o.Made}, &set{elsewhere: elsewhere, made: d.o.Made}
	changed := map[ID]bool{}
	for _, c := range changes {
		changed[c.ID] = true
	}
	var last []*controlv1.Document
	for _, one := range state.All {
		if one.Problem != nil {
			continue // no sidecar obeys it
		}
		effective := Effective(one.Document)
		if changed[one.ID] {
			last = append(last, effective)
			continue
		}
		before.all = append(before.all, effective)
	}
	after.all = slices.Clone(before.all)
	before.all = append(before.all, last...)
	for _, c := range changes {
		if c.After != nil {
			after.all = append(after.all, Effective(c.After))
		}
	}
	return before, after
}

// verify refuses changes after which something cannot hold that could before. What was
// wrong already is not theirs.
func (d *Documents) verify(state *State, changes []*Change, elsewhere bool) (warnings []string, err error) {
	var found []Refusal
	for _, c := range changes {
		if c.After == nil {
			continue
		}
		if err := check(c.After); err != nil {
			found = append(found, Refusal{ID: c.ID, Message: oneLine(err)})
		}
	}
	if len(found) > 0 {
		return nil, &RefusedError{found}
	}
	before, after := d.sets(state, changes, elsewhere)
	known := map[Refusal]bool{}
	for _, r := range before.refusals() {
		known[r] = true
	}
	changed := map[ID]bool{}
	for _, c := range changes {
		changed[c.ID] = c.After != nil
	}
	deleting := onlyDeletes(changes)
	for _, r := range after.refusals() {
		switch {
		case known[r] && !changed[r.ID]:
			continue
		case deleting && r.undefined:
			r.Message = fmt.Sprintf("needs the subset %q of service %q, which would be gone: delete it as well, or force it (--force)", r.subset, r.service)
		}
		found = append(found, r)
	}
	if len(found) > 0 {
		return nil, &RefusedError{found}
	}
	return after.warnings(changed), nil
}

package consul

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/pillion-proxy/pillion/registry/consul/chain"
)

// subsetFilters are the subsets that configuration entries speak of, by the service's name
// in the mesh.
type subsetFilters struct {
	mu      sync.Mutex
	byOwner map[*entries]map[string]map[string]chain.Filter
	made    map[string]*subsetsOf
	version uint64
	// changed is told which services have others now. It is set once, and called with no
	// lock held.
	changed func(services []string)
}

// subsetsOf are the subsets of one service. It never changes. A nil one has none.
type subsetsOf struct {
	version uint64
	filters map[string]chain.Filter
	list    []namedSubset // in the order of their names
}

type namedSubset struct {
	name    string
	matcher *chain.Matcher
}

// inSubset is a subset that an instance belongs to.
type inSubset struct {
	name        string
	onlyPassing bool // and only while its checks pass
}

func newSubsetFilters(changed func([]string)) *subsetFilters {
	return &subsetFilters{byOwner: map[*entries]map[string]map[string]chain.Filter{}, made: map[string]*subsetsOf{}, changed: changed}
}

// set notes the subsets that one watch of entries speaks of, in the place of those that
// it spoke of before.
func (f *subsetFilters) set(owner *entries, said map[string]map[string]chain.Filter) {
	f.mu.Lock()
	concerned := map[string]bool{}
	for service := range f.byOwner[owner] {
		concerned[service] = true
	}
	for service := range said {
		concerned[service] = true
	}
	if len(said) == 0 {
		delete(f.byOwner, owner)
	} else {
		f.byOwner[owner] = said
	}
	var changed []string
	for service := range concerned {
		if f.make(service) {
			changed = append(changed, service)
		}
	}
	f.mu.Unlock()

	if len(changed) > 0 {
		f.changed(changed)
	}
}

// make gathers the subsets of a service anew, and says whether they are others than
// before. f.mu is held.
func (f *subsetFilters) make(service string) bool {
	all := map[string]chain.Filter{}
	for _, said := range f.byOwner {
		for name, filter := range said[service] {
			// Two differ only until Consul has told both watches of a change.
			if other, twice := all[name]; !twice || filter.Filter+boolText(filter.OnlyPassing) < other.Filter+boolText(other.OnlyPassing) {
				all[name] = filter
			}
		}
	}
	before := f.made[service]
	if before == nil && len(all) == 0 || before != nil && maps.Equal(before.filters, all) {
		return false
	}
	f.version++
	made := &subsetsOf{version: f.version, filters: all}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		matcher, err := all[name].Compile()
		if err != nil {
			continue // package chain tells of it
		}
		made.list = append(made.list, namedSubset{name, matcher})
	}
	f.made[service] = made

	return true
}

func boolText(b bool) string {
	if b {
		return "\x01"
	}

	return ""
}

// of returns the subsets of a service; nil: there are none.
func (f *subsetFilters) of(service string) *subsetsOf {
	f.mu.Lock()
	defer f.mu.Unlock()

	return f.made[service]
}

// is returns the subsets that an instance belongs to.
func (s *subsetsOf) is(entry *api.ServiceEntry) (in []inSubset) {
	if s == nil {
		return nil
	}
	for i := range s.list {
		if one := &s.list[i]; one.matcher.Matches(entry) {
			in = append(in, inSubset{one.name, one.matcher.OnlyPassing})
		}
	}

	return in
}

// at is the version of the subsets: 0 where there never were any.
func (s *subsetsOf) at() uint64 {
	if s == nil {
		return 0
	}

	return s.version
}

// marked returns an instance's meta with what tells its subsets. What a registration says
// of that itself does not hold.
func marked(meta map[string]string, in []inSubset, standing standing) map[string]string {
	front := chain.MetaOfSubset("")
	forged := false
	for key := range meta {
		forged = forged || strings.HasPrefix(key, front)
	}
	if len(in) == 0 && !forged {
		return meta
	}
	made := make(map[string]string, len(meta)+len(in))
	for key, value := range meta {
		if !strings.HasPrefix(key, front) {
			made[key] = value
		}
	}
	for _, subset := range in {
		if !subset.onlyPassing || standing == passing {
			made[chain.MetaOfSubset(subset.name)] = chain.InSubset
		}
	}

	return made
}

// remark has those who watch these services find out anew which instances are in which
// subset.
func (s *Source) remark(services []string) {
	s.mu.Lock()
	defer s.mu.Unlock()

	for _, name := range services {
		if w := s.watching[name]; w != nil {
			select {
			case w.remark <- struct{}{}:
			default:
			}
		}
	}
}

// marksPatience is how long policies wait for the instances of their subsets to be known
// as such.
const marksPatience = 2 * time.Second

// awaitMarks waits until the instances of these services that are watched are known by
// their subsets: else RPCs would be sent to subsets without any.
func (s *Source) awaitMarks(ctx context.Context, filters map[string]map[string]chain.Filter) {
	ctx, cancel := context.WithTimeout(ctx, marksPatience)
	defer cancel()

	for service := range filters {
		s.mu.Lock()
		w := s.watching[service]
		s.mu.Unlock()
		if w != nil {
			w.awaitMarks(ctx, s.filters.of(service).at())
		}
	}
}

// awaitMarks waits until the instances are known by the subsets of a version.
func (w *watched) awaitMarks(ctx context.Context, version uint64) {
	tell, cancel := w.subscribe()
	defer cancel()
	w.await(1)
	defer w.await(-1)
	for {
		if w.areMarked(version) {
			return
		}
		select {
		case <-tell:
		case <-w.done:
			return
		case <-ctx.Done():
			return
		}
	}
}

func (w *watched) await(more int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.awaiting += more
}

// areMarked says whether all who watch know the instances by the subsets of a version.
func (w *watched) areMarked(version uint64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.marks < version {
		return false
	}
	for _, told := range w.told {
		if told < w.version {
			return false
		}
	}

	return true
}

// markAnew reads the instances once more, for subsets that are others than before.
func (w *watched) markAnew(ctx context.Context) {
	if !w.answered() {
		return // what comes is looked at by them
	}
	answers, ok := w.read(ctx, &api.QueryOptions{Datacenter: w.dc})
	if ctx.Err() != nil {
		return
	}
	if !ok {
		w.remarkLater.Reset(failureMost)

		return
	}
	w.sides = answers
	w.judge(ctx)
}

// subsets returns the subsets that there are now.
func (w *watched) subsets() *subsetsOf { return w.source.filters.of(w.name) }

// outdated says whether the answers, of which there are all, were looked at by other
// subsets than there are now.
func (w *watched) outdated() bool {
	now := w.subsets().at()

	return w.answered() && (w.sides[appSide].marks != now || w.sides[sidecarSide].marks != now)
}

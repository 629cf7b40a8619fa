package chain

import (
	"fmt"
	"sync"

	"github.com/hashicorp/consul/api"
	"github.com/hashicorp/go-bexpr"
)

// Filter says which instances a subset has.
type Filter struct {
	// Filter is an expression over the instance as the health API shows it
	// (`Service.Meta.version == v1`): over its sidecar, where it has one, as with Envoy.
	// "": all.
	Filter string
	// OnlyPassing leaves out those whose checks warn.
	OnlyPassing bool
}

// Matcher is a compiled [Filter]. It may be used by several goroutines.
type Matcher struct {
	// OnlyPassing is the filter's.
	OnlyPassing bool

	mu        sync.Mutex // an evaluator remembers what it has seen
	evaluator *bexpr.Evaluator
}

// maxFilter bounds an expression, in bytes.
const maxFilter = 8192

// Compile compiles a filter.
func (f Filter) Compile() (*Matcher, error) {
	m := &Matcher{OnlyPassing: f.OnlyPassing}
	if f.Filter == "" {
		return m, nil
	}
	if len(f.Filter) > maxFilter {
		return nil, fmt.Errorf("is longer than %d bytes", maxFilter)
	}
	evaluator, err := bexpr.CreateEvaluatorForType(f.Filter, nil, (*api.ServiceEntry)(nil))
	if err != nil {
		return nil, err
	}
	m.evaluator = evaluator
	return m, nil
}

// Matches says whether an instance is in the subset, whatever its checks say. One that
// cannot be judged, because it lacks what the expression speaks of, is not.
func (m *Matcher) Matches(entry *api.ServiceEntry) (matches bool) {
	if m.evaluator == nil {
		return true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	// The library panics where it meets a nil pointer on the way to a field.
	defer func() {
		if recover() != nil {
			matches = false
		}
	}()
	matches, err := m.evaluator.Evaluate(entry)
	return err == nil && matches
}

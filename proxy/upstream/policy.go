package upstream

import (
	"slices"
	"time"

	"github.com/pillion-proxy/pillion/proxy/balance"
	"github.com/pillion-proxy/pillion/proxy/breaker"
	"github.com/pillion-proxy/pillion/proxy/health"
	"github.com/pillion-proxy/pillion/proxy/outlier"
	"github.com/pillion-proxy/pillion/proxy/wire"
	"github.com/pillion-proxy/pillion/registry"
)

// Policy is what the policies of a service say of how its instances are chosen. It
// is not to change once it was handed to Cluster.Configure. Its fields have no
// defaults of their own: those are the schema's (pillion.config.v1).
type Policy struct {
	// Balance is how one of the instances is picked. With balance.ByDefault, it is
	// the policy that the cluster was made with.
	Balance balance.Options
	// Reports is what load reports mean to balance.WeightedRoundRobin.
	Reports balance.ReportOptions
	// PanicPercent is the share of instances that are well below which all that can
	// be reached are used. 0: never.
	PanicPercent int
	// Locality prefers instances that are near; nil: all are alike.
	Locality *Locality
	// SubsetSize is how many instances of each kind (a subset's, near and far) this
	// sidecar uses; 0: all.
	SubsetSize int
	// ConnectTimeout bounds the opening of a connection; 0: what the options say.
	ConnectTimeout time.Duration
	// SlowStart gives instances that are new their share by and by; nil: at once.
	SlowStart *SlowStart
	// Subsets are parts of the instances, by name.
	Subsets map[string]Subset
	// DefaultSubset is the one of RPCs that name none; "": all instances.
	DefaultSubset string

	// Ejection leaves alone instances that fail more than others; nil: none.
	Ejection *outlier.Config
	// Health asks instances whether they are well; nil: not.
	Health *health.Config
	// Breaker is when an instance's own breaker opens; nil: never. BreakerFailures
	// are the statuses that count as failures to it, BreakerPolicy is what it is
	// called in messages.
	Breaker         *breaker.Trip
	BreakerFailures wire.CodeSet
	BreakerPolicy   string
}

// Locality prefers instances whose meta has the same value for Key as the local
// app's. Where the app's has none, all are alike.
type Locality struct {
	Key string
	// Overprovisioning is how many times as well as needed the near instances
	// count.
	Overprovisioning float64
	// MaxLoadRatio is how many times the load of a far instance a near one may have,
	// in RPCs under way, with the one to come, for its weight. 0: any.
	MaxLoadRatio float64
}

// SlowStart is how an instance's share of RPCs grows once it is new, or well again:
// at the time t it is (t/Window)^(1/Aggression) of its whole, and not less than
// MinPercent of it. RingHash, Maglev and PickFirst, which send RPCs where they
// belong, have none.
type SlowStart struct {
	Window     time.Duration
	Aggression float64
	MinPercent int
}

// What Subset.Fallback may be beside a subset's name.
const (
	FallbackNone = "none"
	FallbackAny  = "any"
)

// Subset is the instances of which all that is written here holds.
type Subset struct {
	Meta map[string]string
	Tags []string
	// Fallback is where RPCs go while none of these instances can be used:
	// FallbackNone (or ""), FallbackAny or the name of another subset.
	Fallback string
}

// has reports whether an instance belongs to the subset.
func (s *Subset) has(e *registry.Endpoint) bool {
	for key, value := range s.Meta {
		if got, ok := e.Meta[key]; !ok || got != value {
			return false
		}
	}
	for _, tag := range s.Tags {
		if !slices.Contains(e.Tags, tag) {
			return false
		}
	}
	return true
}

// fallbacks are the views that stand in for a subset's, in their order: a chain of
// names that leads nowhere, or to where it was, ends there. subsets has no view of
// all instances.
func fallbacks(name string, subsets map[string]Subset, views map[string]*view, all *view) []*view {
	var chain []*view
	for seen := map[string]bool{}; !seen[name]; {
		seen[name] = true
		next := subsets[name].Fallback
		switch {
		case next == FallbackAny:
			return append(chain, all)
		case views[next] == nil || seen[next]:
			return chain
		}
		chain = append(chain, views[next])
		name = next
	}
	return chain
}

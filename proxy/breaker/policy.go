package breaker

import (
	"cmp"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/pillion-proxy/pillion/proxy/wire"
)

// DefaultFailures is the statuses that count as failures where a policy does not say:
// those that tell that the destination is not well, and none that tells that the
// request was wrong.
var DefaultFailures = wire.CodesOf(codes.Unavailable, codes.Internal, codes.Unknown, codes.DeadlineExceeded, codes.DataLoss)

// MaxCircuits bounds a policy's circuits: callers choose methods' names. What comes
// beyond shares one.
const MaxCircuits = 1000

// Key says what a circuit is for.
type Key struct {
	// Service is the destination's name in the mesh, Path the method's.
	Service, Path string
}

// Other is the key of the circuit that those share for which there is no room.
var Other = Key{Service: "other"}

// String writes a key for people: "greeter helloworld.Greeter/SayHello".
func (k Key) String() string {
	if k.Path == "" {
		return k.Service
	}
	return k.Service + " " + strings.TrimPrefix(k.Path, "/")
}

// PolicyOptions are what a policy says.
type PolicyOptions struct {
	// Name is the policy's.
	Name string
	// Trip is when the breaker of a method opens; nil: never.
	Trip *Trip
	// Failures are the statuses that count as failures. Default: DefaultFailures.
	Failures wire.CodeSet
	// MaxConcurrent bounds the RPCs under way to a method. 0: no bound.
	MaxConcurrent int
	// MaxPending bounds those that wait for one of them to end.
	MaxPending int
	// Together has all methods of a destination share one circuit.
	Together bool
	// Changed is told of each transition of each breaker, as New says.
	Changed func(Key, Transition)
	// Before is what the policy was until now, nil for nothing. Where Trip is the
	// same, its breakers stay as they are, and go on telling whom they told.
	Before *Policy
}

// Policy makes circuits that all obey the same rules, one for each method of each
// destination, or with PolicyOptions.Together one for each destination. It is safe for
// concurrent use.
type Policy struct {
	// Name is the policy's.
	Name string

	o        PolicyOptions
	mu       sync.Mutex // guards changes of circuits
	circuits atomic.Pointer[map[Key]*Circuit]
	first    atomic.Pointer[Circuit] // that was made: most policies are for one method
	other    *Circuit
}

// NewPolicy returns a policy.
func NewPolicy(o PolicyOptions) *Policy {
	if o.Failures == 0 {
		o.Failures = DefaultFailures
	}
	before := o.Before
	o.Before = nil // or all that the policy ever was would be kept
	p := &Policy{Name: o.Name, o: o}
	circuits := map[Key]*Circuit{}
	p.other = p.newCircuit(Other)
	if before != nil && o.Together == before.o.Together && o.Trip != nil && before.o.Trip != nil && *o.Trip == *before.o.Trip {
		for key, c := range *before.circuits.Load() {
			circuits[key] = p.newCircuit(key)
			circuits[key].breaker = c.breaker
			p.first.CompareAndSwap(nil, circuits[key])
		}
		p.other.breaker = before.other.breaker
	}
	p.circuits.Store(&circuits)
	return p
}

// Judge says what a status means to the breakers. excused says that it was not the
// destination's: a sidecar's own limit made it, or the caller cancelled.
func (p *Policy) Judge(code codes.Code, excused bool) Outcome {
	return Judge(p.o.Failures, code, excused)
}

// Judge is Policy.Judge for a breaker without a policy of its own.
func Judge(failures wire.CodeSet, code codes.Code, excused bool) Outcome {
	switch {
	case excused:
		return Ignored
	case failures.Has(code):
		return Failure
	}
	return Success
}

// Restricts says that the policy may refuse an RPC, or have it wait. One that does not,
// such as one about instances alone, has no use for circuits. A nil one does not.
func (p *Policy) Restricts() bool {
	return p != nil && (p.o.Trip != nil || p.o.MaxConcurrent > 0)
}

// Circuit returns the circuit of a service's method, which it makes where there is
// none. The strings need be valid during the call alone.
func (p *Policy) Circuit(service, path string) *Circuit {
	if p.o.Together {
		path = ""
	}
	if c := p.first.Load(); c != nil && c.key.Path == path && c.key.Service == service {
		return c
	}
	m := *p.circuits.Load()
	if c := m[Key{service, path}]; c != nil {
		return c
	}
	if len(m) >= MaxCircuits {
		return p.other
	}
	return p.add(service, path)
}

// add makes a circuit. Those who look one up take no lock, so the map is replaced.
func (p *Policy) add(service, path string) *Circuit {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := *p.circuits.Load()
	if c := m[Key{service, path}]; c != nil {
		return c
	}
	if len(m) >= MaxCircuits {
		return p.other
	}
	key := Key{strings.Clone(service), strings.Clone(path)}
	c := p.newCircuit(key)
	larger := make(map[Key]*Circuit, len(m)+1)
	maps.Copy(larger, m)
	larger[key] = c
	p.circuits.Store(&larger)
	p.first.CompareAndSwap(nil, c)
	return c
}

func (p *Policy) newCircuit(key Key) *Circuit {
	c := &Circuit{key: key, max: uint32(p.o.MaxConcurrent), maxPending: uint32(p.o.MaxPending)}
	who := fmt.Sprintf("policy %q: circuit breaker of %v", p.Name, key)
	c.open = who + " is open: "
	c.full = fmt.Sprintf("%s: %d RPCs are under way (max_concurrent) and %d wait (max_pending), as many as may", who, c.max, c.maxPending)
	if p.o.Trip != nil {
		var changed func(Transition)
		if p.o.Changed != nil {
			changed = func(t Transition) { p.o.Changed(key, t) }
		}
		c.breaker = New(*p.o.Trip, changed)
	}
	return c
}

// CircuitStatus is a circuit as people see it.
type CircuitStatus struct {
	// Breaker is the breaker's status; one that is never open where there is none.
	Breaker Status
	// UnderWay and Waiting are RPCs, where there is a limit.
	UnderWay, Waiting int
	// Refused and Overflowed are the RPCs refused since the circuit was made: by
	// the breaker, and by the limit.
	Refused, Overflowed uint64
}

// State returns what there is to tell of the circuit.
func (c *Circuit) State(now time.Time) CircuitStatus {
	use := c.use.Load()
	s := CircuitStatus{
		UnderWay: int(use & inUse), Waiting: int(use >> waitShift),
		Refused: c.refused.Load(), Overflowed: c.overflowed.Load(),
	}
	if c.breaker != nil {
		s.Breaker = c.breaker.State(now)
	}
	return s
}

// Key says what the circuit is for.
func (c *Circuit) Key() Key { return c.key }

// Circuits returns all circuits, in the order of their keys, the shared one last and
// only once there is use for it.
func (p *Policy) Circuits(now time.Time) iter.Seq2[Key, CircuitStatus] {
	return func(yield func(Key, CircuitStatus) bool) {
		m := *p.circuits.Load()
		keys := slices.SortedFunc(maps.Keys(m), func(a, b Key) int {
			return cmp.Or(strings.Compare(a.Service, b.Service), strings.Compare(a.Path, b.Path))
		})
		for _, k := range keys {
			if !yield(k, m[k].State(now)) {
				return
			}
		}
		if len(m) >= MaxCircuits {
			yield(Other, p.other.State(now))
		}
	}
}

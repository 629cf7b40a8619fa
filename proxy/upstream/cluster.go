package upstream

import (
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/pillion-proxy/pillion/proxy/admission"
	"github.com/pillion-proxy/pillion/proxy/balance"
	"github.com/pillion-proxy/pillion/proxy/h2"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
	"github.com/pillion-proxy/pillion/registry"
)

// Cluster is the instances of one service.
type Cluster struct {
	name   string
	policy balance.Policy
	opts   *Options
	counts *telemetry.Service
	// Overload bounds how many of the RPCs that an overloaded instance refuses go
	// to another.
	Overload admission.Throttle

	// Kept is the bytes of requests that are kept for RPCs to this service, out of
	// a budget that is shared with others.
	Kept atomic.Int64

	table atomic.Pointer[table]
	grpc  atomic.Pointer[[]string] // as SetGRPC was told; nil: it was not

	mu     sync.Mutex
	byID   map[string]*Instance
	closed bool
}

// table is what RPCs see: it is replaced as a whole.
type table struct {
	picker    balance.Picker[*Instance]
	instances []*Instance
	stale     bool
	turn      atomic.Uint32 // of pickInTurn
}

// NewCluster returns a cluster without instances. opts must have been through
// WithDefaults; counts is where its connections are counted.
func NewCluster(name string, policy balance.Policy, opts *Options, counts *telemetry.Service) *Cluster {
	c := &Cluster{name: name, policy: policy, opts: opts, counts: counts, byID: make(map[string]*Instance)}
	c.table.Store(&table{picker: balance.New(policy, []*Instance(nil), nil, opts.Random)})
	return c
}

// Name returns the service's name.
func (c *Cluster) Name() string { return c.name }

// Counts returns the counters of the service.
func (c *Cluster) Counts() *telemetry.Service { return c.counts }

// Update takes over a new set of endpoints. Instances that stay keep their
// connections; those that are gone finish the streams they have.
func (c *Cluster) Update(endpoints []registry.Endpoint, stale bool) {
	c.update(endpoints, stale, false)
}

// SetGRPC notes which gRPC services the service says it answers, for Status
// alone. The names belong to the cluster from then on.
func (c *Cluster) SetGRPC(names []string) { c.grpc.Store(&names) }

// Close lets go of all instances; the streams they have go on.
func (c *Cluster) Close() { c.update(nil, false, true) }

func (c *Cluster) update(endpoints []registry.Endpoint, stale, last bool) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return
	}
	c.closed = last
	next := make(map[string]*Instance, len(endpoints))
	instances := make([]*Instance, 0, len(endpoints))
	weights := make([]uint32, 0, len(endpoints))
	for _, e := range endpoints {
		// An instance that moved is a new one: its connections lead elsewhere.
		key := e.ID + "\x00" + e.Address
		if next[key] != nil {
			continue
		}
		in := c.byID[key]
		if in == nil {
			var err error
			if in, err = newInstance(e, c.opts, c.counts); err != nil {
				slog.Warn("endpoint left out", "service", c.name, "endpoint", e.ID, "err", err)
				continue
			}
		}
		in.endpoint.Store(&e)
		next[key] = in
		instances = append(instances, in)
		weights = append(weights, max(e.Weight, 1))
	}
	var gone []*Instance
	for key, in := range c.byID {
		if next[key] == nil {
			gone = append(gone, in)
		}
	}
	c.byID = next
	c.table.Store(&table{
		picker:    balance.New(c.policy, instances, weights, c.opts.Random),
		instances: instances,
		stale:     stale,
	})
	c.mu.Unlock()

	var b h2.Batch
	for _, in := range gone {
		in.close(&b)
	}
	b.Done()
}

// Pick returns an instance that may take an RPC. skip, which may be nil, leaves
// out those that the RPC has tried.
func (c *Cluster) Pick(skip func(*Instance) bool) (*Instance, bool) {
	return c.table.Load().picker.Pick(skip)
}

// PickRefusing returns one of the instances whose sidecar could not reach its
// app when it was asked last. It is for when Pick finds none: better to ask again
// than to fail.
func (c *Cluster) PickRefusing(skip func(*Instance) bool) (*Instance, bool) {
	return c.pickInTurn(func(in *Instance) bool {
		return in.refusal.active.Load() && !in.avoided.Load() && (skip == nil || !skip(in))
	})
}

// PickConnecting returns one of the instances that take long to connect to. It is
// for when there is no other: better to wait than to fail.
func (c *Cluster) PickConnecting() (*Instance, bool) {
	return c.pickInTurn(func(in *Instance) bool { return in.slow.Load() && !in.avoided.Load() })
}

// pickInTurn returns one of the instances that will do, each in its turn.
func (c *Cluster) pickInTurn(willDo func(*Instance) bool) (*Instance, bool) {
	t := c.table.Load()
	n := uint32(len(t.instances))
	first := t.turn.Add(1)
	for i := range n {
		if in := t.instances[(first+i)%n]; willDo(in) {
			return in, true
		}
	}
	return nil, false
}

// Size returns how many instances there are, usable or not.
func (c *Cluster) Size() int { return len(c.table.Load().instances) }

// LastError returns why one of the instances is not usable, nil if none is.
func (c *Cluster) LastError() error {
	for _, in := range c.table.Load().instances {
		if err := in.LastError(); err != nil {
			return err
		}
	}
	return nil
}

// InFlight returns how many RPCs are under way.
func (c *Cluster) InFlight() (n int64) {
	for _, in := range c.table.Load().instances {
		n += in.InFlight()
	}
	return n
}

// Status describes a cluster to people.
type Status struct {
	Service   string
	GRPC      []string // see SetGRPC
	Stale     bool
	Policy    string
	Instances []InstanceStatus
}

// Status returns the cluster's present state.
func (c *Cluster) Status() Status {
	t := c.table.Load()
	st := Status{Service: c.name, Stale: t.stale, Policy: c.policy.String()}
	if names := c.grpc.Load(); names != nil {
		st.GRPC = slices.Clone(*names)
	}
	for _, in := range t.instances {
		st.Instances = append(st.Instances, in.status())
	}
	return st
}

package upstream

import (
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pillion-proxy/pillion/proxy/admission"
	"github.com/pillion-proxy/pillion/proxy/balance"
	"github.com/pillion-proxy/pillion/proxy/h2"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
	"github.com/pillion-proxy/pillion/registry"
)

// Cluster is the instances of one service.
type Cluster struct {
	name   string
	policy balance.Policy // where Configure says nothing else
	opts   *Options
	counts *telemetry.Service
	// Overload bounds how many of the RPCs that an overloaded instance refuses go
	// to another.
	Overload admission.Throttle

	// Kept is the bytes of requests that are kept for RPCs to this service, out of
	// a budget that is shared with others.
	Kept atomic.Int64

	table   atomic.Pointer[table]
	grpc    atomic.Pointer[[]string] // as SetGRPC was told; nil: it was not
	refresh refresher
	events  events

	mu         sync.Mutex
	byID       map[string]*Instance
	configured *Policy // as Configure was told
	known      bool    // there were endpoints
	loads      map[string]*balance.Load
	weighAt    time.Time // when weights are due to be taken over
	judges     *judges   // nil where no policy ever had instances judged
	closed     bool
}

// NewCluster returns a cluster without instances, of which one is picked by the
// policy as long as nothing else is configured. opts must have been through
// WithDefaults; counts is where its connections are counted.
func NewCluster(name string, policy balance.Policy, opts *Options, counts *telemetry.Service) *Cluster {
	c := &Cluster{name: name, policy: policy, opts: opts, counts: counts, byID: make(map[string]*Instance)}
	c.refresh.timer = time.AfterFunc(time.Hour, c.tick)
	c.refresh.timer.Stop()
	c.table.Store(c.newTable(c.effective(nil), nil, false, nil, time.Time{}))
	return c
}

// Configure has instances be chosen as a policy says; nil: as the cluster was made
// to. What the policy does not change goes on as it is. RPCs under way are not
// touched.
func (c *Cluster) Configure(p *Policy) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || p == c.configured {
		return
	}
	t := c.table.Load()
	effective := c.effective(p).withSubsetsOf(c.configured)
	c.configured = p
	for _, in := range t.instances {
		in.obey(effective)
	}
	now := time.Now()
	c.weighAt = now
	c.table.Store(c.newTable(effective, t.instances, t.stale, t, now))
	c.judge(t.instances, judgingOf(effective))
}

// effective is the policy that holds where p is configured.
func (c *Cluster) effective(p *Policy) *Policy {
	switch {
	case p == nil:
		return &Policy{Balance: balance.Options{Policy: c.policy}}
	case p.Balance.Policy == balance.ByDefault:
		q := *p
		q.Balance.Policy = c.policy
		return &q
	}
	return p
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
	before := c.table.Load()
	now := time.Now()
	next := make(map[string]*Instance, len(endpoints))
	instances := make([]*Instance, 0, len(endpoints))
	for _, e := range endpoints {
		security := c.secure(&e)
		key := keyOf(&e, security)
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
			in.secureWith(security)
			in.obey(before.policy)
			if c.known { // what was there when this sidecar came is not new
				in.warming.since = now
			}
		}
		in.endpoint.Store(&e)
		next[key] = in
		instances = append(instances, in)
	}
	c.known = c.known || len(instances) > 0
	var gone []*Instance
	for key, in := range c.byID {
		if next[key] == nil {
			gone = append(gone, in)
		}
	}
	c.byID = next
	c.table.Store(c.newTable(before.policy, instances, stale, before, now))
	c.judge(instances, judgingOf(before.policy))
	c.mu.Unlock()

	if last {
		c.refresh.timer.Stop()
	}
	var b h2.Batch
	for _, in := range gone {
		in.close(&b)
	}
	b.Done()
}

// Choice is what one RPC wants of an instance.
type Choice struct {
	// Subset is the part of the instances that it may go to; "": the default one.
	Subset string
	// Hash decides where policies go by one, if Hashed.
	Hash   uint64
	Hashed bool
	// Skip, unless it is nil, leaves out instances, such as those that the RPC has
	// tried.
	Skip func(*Instance) bool
	// Now is the present time. Where it is zero, it is asked for if it is needed.
	Now time.Time
}

var anything Choice

// Pick returns an instance that may take an RPC. ch may be nil.
func (c *Cluster) Pick(ch *Choice) (*Instance, bool) {
	if ch == nil {
		ch = &anything
	}
	t := c.table.Load()
	c.touch(t)
	in, _ := t.pick(ch, false)
	return in, in != nil
}

// PickRefusing returns one of the instances whose sidecar could not reach its
// app when it was asked last. It is for when Pick finds none: better to ask again
// than to fail.
func (c *Cluster) PickRefusing(ch *Choice) (*Instance, bool) {
	return c.pickInTurn(ch, func(in *Instance) bool {
		return in.refusal.active.Load() && !in.avoided.Load() && in.Blocked() == 0 &&
			(ch == nil || ch.Skip == nil || !ch.Skip(in))
	})
}

// PickConnecting returns one of the instances that take long to connect to. It is
// for when there is no other: better to wait than to fail. It may be one that
// ch.Skip leaves out.
func (c *Cluster) PickConnecting(ch *Choice) (*Instance, bool) {
	return c.pickInTurn(ch, func(in *Instance) bool {
		return in.slow.Load() && !in.avoided.Load() && in.Blocked() == 0
	})
}

// pickInTurn returns one of the instances that will do, each in its turn.
func (c *Cluster) pickInTurn(ch *Choice, willDo func(*Instance) bool) (*Instance, bool) {
	if ch == nil {
		ch = &anything
	}
	v := c.table.Load().view(ch.Subset)
	if v == nil {
		return nil, false
	}
	if in, ok := v.pickInTurn(willDo); ok {
		return in, true
	}
	for _, next := range v.fallback {
		if in, ok := next.pickInTurn(willDo); ok {
			return in, true
		}
	}
	return nil, false
}

// Subset returns how many instances a subset has that RPCs from here may go to, and
// whether there is such a subset. "" is the default one.
func (c *Cluster) Subset(name string) (size int, known bool) {
	v := c.table.Load().view(name)
	if v == nil {
		return 0, false
	}
	return v.size(), true
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
	st := Status{Service: c.name, Stale: t.stale, Policy: t.policy.Balance.Policy.String()}
	if names := c.grpc.Load(); names != nil {
		st.GRPC = slices.Clone(*names)
	}
	for _, in := range t.instances {
		st.Instances = append(st.Instances, in.status())
	}
	return st
}

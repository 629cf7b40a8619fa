package routing

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/pillion-proxy/pillion/proxy/policy"
	"github.com/pillion-proxy/pillion/proxy/relay"
	"github.com/pillion-proxy/pillion/proxy/upstream"
	"github.com/pillion-proxy/pillion/proxy/wire"
)

// Router finds destinations. It is a [relay.Router].
type Router struct {
	opts Options
	ctx  context.Context
	stop context.CancelFunc
	done sync.WaitGroup

	tables   atomic.Pointer[tables]
	policies atomic.Pointer[policy.Set]
	// configuring orders what clusters are told of policies.
	configuring sync.Mutex

	mu    sync.Mutex // guards what follows, and changes of tables
	known []string   // names of all services, as far as asked, for messages
	// leaving are services that the tables have no more. RPCs that looked just
	// before may still be on their way there.
	leaving []*service
}

// tables are what RPCs look at: they are replaced as a whole when something is
// looked up for the first time or forgotten.
type tables struct {
	services index[*service]
	names    index[*name]
}

var _ relay.Router = (*Router)(nil)

// New returns a router, which works until Close.
func New(o Options) *Router {
	r := &Router{opts: o.withDefaults()}
	r.ctx, r.stop = context.WithCancel(context.Background())
	r.tables.Store(new(tables))
	r.mu.Lock()
	defer r.mu.Unlock()
	declared := r.opts.Declared
	if d := r.opts.Default; d != "" && !slices.Contains(declared, d) {
		declared = append(slices.Clone(declared), d)
	}
	for _, s := range declared {
		r.watch(s, true)
	}
	r.done.Go(r.sweep)
	return r
}

// SetPolicies puts policies in force for the RPCs that come from now on.
func (r *Router) SetPolicies(set *policy.Set) {
	r.configuring.Lock()
	defer r.configuring.Unlock()
	// Clusters first: they have what RPCs may ask for, also those that came before.
	for name, s := range r.tables.Load().services.all() {
		if c := s.cluster.Load(); c != nil {
			c.Configure(set.Service(name).Cluster())
		}
	}
	r.policies.Store(set)
}

// configure tells a new cluster the policies in force.
func (r *Router) configure(s *service, c *upstream.Cluster) {
	r.configuring.Lock()
	defer r.configuring.Unlock()
	c.Configure(r.policies.Load().Service(s.name).Cluster())
	s.cluster.Store(c)
}

// Policies implements relay.Router.
func (r *Router) Policies() *policy.Set { return r.policies.Load() }

// Close stops all watches. RPCs under way go on; those that wait are told.
func (r *Router) Close() {
	r.mu.Lock() // nothing is begun after this
	r.stop()
	r.mu.Unlock()
	r.done.Wait()
	t := r.tables.Load()
	for _, s := range t.services.all() {
		s.giveUp()
	}
	for _, n := range t.names.all() {
		n.giveUp()
	}
}

// Find implements relay.Router. It looks at two maps at most, however many
// services there are.
func (r *Router) Find(set *policy.Set, authority, path string) relay.Found {
	st := r.find(r.tables.Load(), set, authority, path)
	return relay.Found{Cluster: st.dest, Service: st.service, Route: st.route, Wait: st.pending != nil || st.unknown}
}

// Service implements relay.Router.
func (r *Router) Service(name string) relay.Found {
	st := r.tables.Load().service(name, "")
	return relay.Found{Cluster: st.dest, Service: name, Wait: st.pending != nil || st.unknown}
}

// step is how far a search came.
type step struct {
	dest  *upstream.Cluster
	route string
	// service is what was found, or is looked for.
	service string
	// pending is what has to answer before the search can go on; unknown says
	// that nobody was asked yet, for the service, or else for the name.
	pending *entry
	unknown bool
	name    string
}

// done says that there is no need to look further.
func (s *step) done() bool { return s.dest != nil || s.pending != nil || s.unknown }

// find goes through the order of the package's comment.
func (r *Router) find(t *tables, set *policy.Set, authority, path string) step {
	if service := ServiceName(authority); service != "" {
		st := t.service(service, "authority")
		if st.done() {
			return st
		}
		if v := set.Service(service); v.Names(service) && (v.Outbound(path).Routes() || v.FailsOver()) {
			return step{service: service, route: "authority"}
		}
	}
	grpcService, telling := rpcService(path)
	if r.opts.Reflection != nil && isReflection(grpcService) {
		return step{dest: r.opts.Reflection, route: "mesh reflection"}
	}
	if telling {
		if st := r.findName(t, grpcService); st.done() {
			return st
		}
	}
	if r.opts.Default != "" {
		return t.service(r.opts.Default, "default")
	}
	return step{}
}

// service looks at one service.
func (t *tables) service(name, route string) step {
	s := t.services.get(name)
	if s == nil {
		return step{unknown: true, service: name}
	}
	s.touch()
	switch s.state.Load() {
	case statePending:
		return step{pending: &s.entry, service: name}
	case stateKnown:
		return step{dest: s.cluster.Load(), route: route, service: name}
	default:
		return step{}
	}
}

// findName looks at who answers a gRPC service name.
func (r *Router) findName(t *tables, grpcService string) step {
	n := t.names.get(grpcService)
	if n == nil {
		return step{unknown: true, name: grpcService}
	}
	n.touch()
	if n.state.Load() == statePending {
		return step{pending: &n.entry}
	}
	if n.stale.Load() {
		r.refreshStale(n)
	}
	if answering := n.services.Load(); answering != nil && len(*answering) == 1 {
		return t.service((*answering)[0], "grpc service")
	}
	return step{}
}

// Await implements relay.Router.
func (r *Router) Await(service, authority, path string, w relay.Waiter, life uint32) bool {
	t := r.tables.Load()
	var st step
	if service != "" {
		st = t.service(service, "")
	} else {
		st = r.find(t, r.Policies(), authority, path)
	}
	e := st.pending
	if st.unknown {
		r.mu.Lock()
		if st.service != "" {
			e = r.watch(st.service, false)
			if service == "" {
				r.askMeanwhile(e, path)
			}
		} else {
			e = r.ask(st.name, r.opts.ResolveTimeout)
		}
		r.mu.Unlock()
		if e == nil {
			return false
		}
	}
	if e == nil {
		e = new(entry) // it is settled by now
		e.state.Store(stateNone)
	}
	return e.await(w, life, r.opts.MaxWaiting)
}

// Explain implements relay.Router.
func (r *Router) Explain(service, authority, path string) (codes.Code, wire.Flag, string) {
	if service != "" {
		if s := r.tables.Load().services.get(service); s != nil && s.timedOut.Load() {
			return codes.Unavailable, wire.FlagNoHealthyUpstream,
				fmt.Sprintf("the registry has not said within %v where service %q is", r.opts.ResolveTimeout, service)
		}
		return codes.Unavailable, wire.FlagNoHealthyUpstream, fmt.Sprintf("service %q is not in the registry", service)
	}
	t := r.tables.Load()
	if s := t.services.get(ServiceName(authority)); s != nil && s.timedOut.Load() {
		return codes.Unavailable, wire.FlagNoHealthyUpstream,
			fmt.Sprintf("the registry has not said within %v where service %q is", r.opts.ResolveTimeout, s.name)
	}
	if s := t.services.get(r.opts.Default); s != nil && s.timedOut.Load() {
		return codes.Unavailable, wire.FlagNoHealthyUpstream,
			fmt.Sprintf("the registry has not said within %v where the default destination %q is", r.opts.ResolveTimeout, s.name)
	}
	grpcService, _ := rpcService(path)
	why := "no service says that it answers it"
	if n := t.names.get(grpcService); n != nil {
		if n.timedOut.Load() {
			message := fmt.Sprintf("the registry cannot say now who answers gRPC service %q, and authority %q names no service", grpcService, shorten(authority))
			if failure := n.failure.Load(); failure != nil {
				message += ": " + (*failure).Error()
			}
			return codes.Unavailable, wire.FlagNoHealthyUpstream, message
		}
		if answering := n.services.Load(); answering != nil && len(*answering) > 1 {
			why = "several services answer it (" + list(*answering) + "): name one in :authority"
		}
	}
	fallback := "no default destination"
	if d := r.opts.Default; d != "" {
		fallback = fmt.Sprintf("the default destination %q is not in the registry", d)
	}
	return codes.Unimplemented, wire.FlagNoRoute, fmt.Sprintf(
		"no destination: authority %q names no service; gRPC service %q: %s; %s; known services: %s",
		shorten(authority), shorten(grpcService), why, fallback, list(r.Known()))
}

// shorten cuts what a caller chose: enough to recognize it is enough.
func shorten(s string) string {
	if len(s) > maxName {
		return s[:maxName] + "..."
	}
	return s
}

// Known returns the names of the services that the router has heard of.
func (r *Router) Known() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := map[string]bool{}
	for _, name := range r.known {
		all[name] = true
	}
	for name, s := range r.tables.Load().services.all() {
		if s.state.Load() == stateKnown {
			all[name] = true
		}
	}
	return slices.Sorted(maps.Keys(all))
}

// list names at most ten.
func list(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	const most = 10
	if len(names) > most {
		return strings.Join(names[:most], ", ") + fmt.Sprintf(" and %d more", len(names)-most)
	}
	return strings.Join(names, ", ")
}

// Clusters returns the clusters of the services that are watched, by name.
func (r *Router) Clusters() []*upstream.Cluster {
	t := r.tables.Load()
	var out []*upstream.Cluster
	all := maps.Collect(t.services.all())
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if s := all[name]; s.state.Load() == stateKnown {
			out = append(out, s.cluster.Load())
		}
	}
	return out
}

// Cluster returns the cluster of a service that is watched; nil: it is not, or is not
// known. It is no use of the service: who asks does not keep it watched.
func (r *Router) Cluster(name string) *upstream.Cluster {
	s := r.tables.Load().services.get(name)
	if s == nil || s.state.Load() != stateKnown {
		return nil
	}
	return s.cluster.Load()
}

// sweepEvery is how often the sweep looks.
const sweepEvery = time.Second

// sweep forgets what no RPC asks for any more, and sees what is old.
func (r *Router) sweep() {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-r.ctx.Done():
			return
		case now := <-tick.C:
			r.forget(now)
		}
	}
}

func (r *Router) forget(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	left := r.leaving
	r.leaving = nil
	for _, s := range left {
		if s.inFlight() > 0 {
			r.leaving = append(r.leaving, s)
		} else {
			s.cancel()
		}
	}
	t := r.tables.Load()
	services, fewer := t.services.without(func(_ string, s *service) bool {
		if !s.outdated(now, &r.opts, 2*sweepEvery, true) || s.declared || s.inFlight() > 0 {
			return false
		}
		r.leaving = append(r.leaving, s)
		return true
	})
	// Where there is a default destination, RPCs have where to go while the registry is
	// asked again. Else they would fail, and so they wait for what it says. Names that
	// callers make up are not to fill the table.
	var keepNone time.Duration
	if r.opts.Default != "" && t.names.len() <= r.opts.MaxNames/2 {
		keepNone = unansweredTTL
	}
	names, forgotten := t.names.without(func(_ string, n *name) bool {
		n.age(now, &r.opts)
		return n.outdated(now, &r.opts, keepNone, false)
	})
	if fewer || forgotten {
		r.tables.Store(&tables{services: services, names: names})
	}
}

package follow

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/kv"
	"github.com/pillion-proxy/pillion/proto/configyaml"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
	"github.com/pillion-proxy/pillion/registry"
)

// AllServices is followed for the documents that are for every service.
const AllServices = "*"

const (
	// cachePatience is how long the store may take to answer before what the disk holds
	// is obeyed instead.
	cachePatience = 500 * time.Millisecond
	// defaultPatience is how long it may take where the disk holds nothing.
	defaultPatience = 2 * time.Second
)

// Agent turns the states of canaries, or of experiments, into policies.
type Agent interface {
	// States hands over all states of a service.
	States(service string, states []*controlv1.RunState)
	// Policies returns what they come to now.
	Policies(service string) []*configv1.Policy
}

// Options are what a Follower needs.
type Options struct {
	Store kv.Store
	// Own is the app's service, which is followed always; "": there is none.
	Own string
	// Cache keeps what was in force; nil: nothing is kept.
	Cache *Cache
	// Handed is what a process knew that this one replaces, until now: it is obeyed at
	// once, before the store has said anything. Nil: there is none. It is the Follower's
	// from then on.
	Handed *Handed
	// Entries hands over what others than the store say of a service, which holds where
	// nothing else is said; see registry.Policies.Generated. Nil: nobody says anything.
	Entries func(ctx context.Context, service string, update func(*registry.Policies))
	// Agents are asked for policies.
	Agents []Agent
	// Refused returns the policies that are not in force of those handed over last.
	Refused func() []registry.RefusedPolicy
	// Active is told of services of which a canary or an experiment runs, or is to; nil:
	// nobody is.
	Active func(service string, active bool)
	// Unknown is told which of the app's own policies are not known, so that nobody is let
	// in whom they might refuse; none: all are known. Nil: nobody is told.
	Unknown func(names []string)
	// Patience is how long the RPCs to a service wait for its documents where the store
	// does not answer and nothing was kept. Then they go without. Default: 2 s.
	Patience time.Duration
	Logger   *slog.Logger
}

// Follower follows services. It is made by New and works in WatchPolicies.
type Follower struct {
	o Options
	// wake has something to say to the goroutine that hands policies over.
	wake chan struct{}

	mu       sync.Mutex
	ctx      context.Context // of WatchPolicies; nil: it was not called yet
	watching sync.WaitGroup
	services map[string]*service
	released []string // services that were not told yet not to be active any more
	unknown  []string
	changed  []func() // are told that Documents has changed
}

var _ registry.PolicySource = (*Follower)(nil)

// New returns a Follower of the app's own service, and of the documents for all.
func New(o Options) *Follower {
	o.Patience = cmp.Or(o.Patience, defaultPatience)
	f := &Follower{o: o, wake: make(chan struct{}, 1), services: map[string]*service{}}
	f.Follow(AllServices)
	if o.Own != "" {
		f.Follow(o.Own)
	}
	return f
}

// Follow follows a service until release is called as often as Follow was.
func (f *Follower) Follow(name string) (release func()) { return f.follow(name, false) }

// follow is Follow of a service to which RPCs go, or not.
func (f *Follower) follow(name string, called bool) (release func()) {
	f.mu.Lock()
	s := f.services[name]
	if s == nil {
		s = newService(f, name)
		f.services[name] = s
	}
	s.followers++
	s.wantsEntries = s.wantsEntries || called && f.o.Entries != nil
	f.begin(s)
	ctx := s.ctx
	f.mu.Unlock()
	if ctx != nil {
		s.watchEntries(ctx)
	}
	return sync.OnceFunc(func() { f.release(s) })
}

// begin watches a service, once WatchPolicies has begun. f.mu is held.
func (f *Follower) begin(s *service) {
	if f.ctx == nil || s.stop != nil {
		return
	}
	ctx, cancel := context.WithCancel(f.ctx)
	s.ctx, s.stop = ctx, cancel
	f.watching.Go(func() { s.watch(ctx) })
}

func (f *Follower) release(s *service) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s.followers--; s.followers > 0 {
		return
	}
	delete(f.services, s.name)
	f.released = append(f.released, s.name)
	s.isOver = true
	if s.stop != nil {
		s.stop()
	}
	f.signal()
}

// Await returns once what is known of a service that is followed is in force, or when it
// is clear that nothing will be known soon.
func (f *Follower) Await(ctx context.Context, name string) {
	f.mu.Lock()
	s := f.services[name]
	f.mu.Unlock()
	if s == nil {
		return
	}
	select {
	case <-s.settled:
	case <-ctx.Done():
	}
}

// Changed says that the policies of an agent have changed.
func (f *Follower) Changed(string) { f.signal() }

// signal wakes the goroutine that hands policies over.
func (f *Follower) signal() {
	select {
	case f.wake <- struct{}{}:
	default: // it is awake already, or about to be
	}
}

// OnChange has f called, from any goroutine, whenever Documents may have changed.
func (f *Follower) OnChange(call func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.changed = append(f.changed, call)
}

// WatchPolicies implements registry.PolicySource. It is to be called once.
func (f *Follower) WatchPolicies(ctx context.Context, update func(*registry.Policies)) {
	defer configyaml.HoldRules()()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f.mu.Lock()
	f.ctx = ctx
	first := make([]*service, 0, len(f.services))
	for _, s := range f.services {
		f.begin(s)
		first = append(first, s)
	}
	f.mu.Unlock()
	defer f.watching.Wait()
	for _, s := range first {
		select {
		case <-s.answered:
		case <-ctx.Done():
			return
		}
	}
	for {
		f.handOver(update)
		select {
		case <-f.wake:
		case <-ctx.Done():
			return
		}
	}
}

// handOver hands over what holds now, and notes what came of it.
func (f *Follower) handOver(update func(*registry.Policies)) {
	f.mu.Lock()
	seed := f.seed()
	f.mu.Unlock()
	if seed != nil {
		// What was good before a restart is what stays of documents that are wrong now.
		update(seed)
	}
	f.mu.Lock()
	services := f.sorted()
	for _, s := range services {
		s.take()
	}
	now := f.gather(services)
	unknown := f.unknowns()
	tell := f.o.Unknown != nil && !slices.Equal(unknown, f.unknown)
	f.unknown = unknown
	f.mu.Unlock()
	// Everybody is refused before it could be thought that there is nothing, and until all
	// that was found is in force.
	if tell && len(unknown) > 0 {
		f.o.Unknown(unknown)
	}
	update(now)
	if tell && len(unknown) == 0 {
		f.o.Unknown(nil)
	}
	refused := map[string]string{}
	for _, r := range f.o.Refused() {
		if refused[r.Policy] == "" {
			refused[r.Policy] = r.Problem
		}
	}
	f.mu.Lock()
	for _, s := range services {
		s.note(refused)
	}
	changed, released := f.changed, f.released
	f.released = nil
	f.mu.Unlock()
	if f.o.Active != nil {
		for _, name := range released {
			f.o.Active(name, false) // those that are followed again are told below
		}
	}
	for _, s := range services {
		if s.isTaken && !s.isSettled {
			s.isSettled = true
			close(s.settled)
		}
		f.o.Cache.keep(s.name, s.kept())
		if f.o.Active != nil {
			f.o.Active(s.name, s.active())
		}
	}
	for _, call := range changed {
		call()
	}
}

// sorted returns the services in the order of their names. f.mu is held.
func (f *Follower) sorted() []*service {
	list := make([]*service, 0, len(f.services))
	for _, s := range f.services {
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b *service) int { return cmp.Compare(a.name, b.name) })
	return list
}

// seed returns what the disk holds of services that are about to hold for the first time,
// together with what holds already; nil: there is nothing of that kind. f.mu is held.
func (f *Follower) seed() *registry.Policies {
	begins := func(s *service) bool { return !s.isTaken && len(s.cached) > 0 }
	if !slices.ContainsFunc(slices.Collect(maps.Values(f.services)), begins) {
		return nil
	}
	p := f.newPolicies()
	for _, s := range f.sorted() {
		if !begins(s) {
			p.add(s, s.docs)
			continue
		}
		p.add(s, s.cached)
		for key, doc := range s.cached {
			s.stand[key] = standing{inForce: doc}
		}
	}
	return p.Policies
}

// gather returns all that is to hold. f.mu is held.
func (f *Follower) gather(services []*service) *registry.Policies {
	p := f.newPolicies()
	for _, s := range services {
		p.add(s, s.docs)
		p.Refused = append(p.Refused, s.refused()...)
		if s.entries != nil {
			p.Generated = append(p.Generated, s.entries)
		}
		for _, a := range f.o.Agents {
			for _, one := range a.Policies(s.name) {
				p.List = append(p.List, one)
				p.Places[one.GetName()] = f.o.Store.Describe() + ": " + control.StatePrefix(s.name)
			}
		}
	}
	return p.Policies
}

// unknowns returns what to call the app's own policies that are not known. f.mu is held.
func (f *Follower) unknowns() (names []string) {
	for _, name := range []string{f.o.Own, AllServices} {
		if s := f.services[name]; s != nil && f.o.Own != "" && s.assumed {
			names = append(names, "those of "+f.o.Store.Describe()+", which does not answer")
		}
	}
	return slices.Compact(names)
}

// Documents returns how the documents of the services followed stand, and which those
// services are.
func (f *Follower) Documents() (list []*controlv1.DocumentStatus, services []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.sorted() {
		services = append(services, s.name)
		list = append(list, s.status()...)
	}
	return list, services
}

// Err says why what is followed may be out of date; nil: it is not.
func (f *Follower) Err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.sorted() {
		if s.err != nil {
			return s.err
		}
	}
	return nil
}

package routing

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pillion-proxy/pillion/proxy/relay"
	"github.com/pillion-proxy/pillion/proxy/upstream"
	"github.com/pillion-proxy/pillion/registry"
)

// The states of what is looked up.
const (
	statePending int32 = iota // the registry has not answered yet
	stateKnown
	stateNone // there is no such service
)

// entry is something that was looked up because an RPC asked for it.
type entry struct {
	state    atomic.Int32
	timedOut atomic.Bool // the state is none because the registry did not answer
	used     atomic.Bool // since the last sweep

	mu       sync.Mutex
	waiting  []waiter
	lastUsed time.Time
	noneAt   time.Time
	bound    *time.Timer
}

type waiter struct {
	w    relay.Waiter
	life uint32
}

// touch notes that an RPC asked.
func (e *entry) touch() {
	if !e.used.Load() {
		e.used.Store(true)
	}
}

// await queues an RPC until the entry is settled. It is false where as many wait
// as may.
func (e *entry) await(w relay.Waiter, life uint32, most int) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.state.Load() != statePending {
		// It was settled between the RPC's look and this one. The RPC cannot be
		// told here: it holds its lock.
		go w.OnRoute(life)
		return true
	}
	if len(e.waiting) >= most {
		return false
	}
	e.waiting = append(e.waiting, waiter{w, life})
	return true
}

// giveUp settles an entry of which the registry has said nothing in time.
func (e *entry) giveUp() {
	e.mu.Lock()
	if e.state.Load() != statePending {
		e.mu.Unlock()
		return
	}
	e.set(stateNone, true)
}

// settle sets the state and tells who waits.
func (e *entry) settle(state int32, timedOut bool) {
	e.mu.Lock()
	e.set(state, timedOut)
}

// set does what settle does. It unlocks e.mu, which is held.
func (e *entry) set(state int32, timedOut bool) {
	if state == stateNone && e.state.Load() != stateNone {
		e.noneAt = time.Now()
	}
	e.timedOut.Store(timedOut)
	e.state.Store(state)
	if e.bound != nil {
		e.bound.Stop()
	}
	waiting := e.waiting
	e.waiting = nil
	e.mu.Unlock()
	for _, w := range waiting {
		w.w.OnRoute(w.life)
	}
}

// giveUpAfter settles an entry that the registry says nothing about.
func (e *entry) giveUpAfter(d time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.lastUsed = time.Now()
	e.bound = time.AfterFunc(d, e.giveUp)
}

// outdated says that the entry is to be forgotten: nobody asked for a while, or
// "there is none" was believed long enough. keepNone is how long an entry is kept for
// which there is none, and nobody asks: what is told, or asked in the background, then
// holds nobody up. 0: nothing of that kind is. watched says that the registry will
// still tell what it has not told in time.
func (e *entry) outdated(now time.Time, o *Options, keepNone time.Duration, watched bool) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.used.Swap(false) {
		e.lastUsed = now
	}
	switch e.state.Load() {
	case statePending:
		return false
	case stateNone:
		if watched && e.timedOut.Load() {
			return now.Sub(e.lastUsed) >= unansweredTTL
		}
		return now.Sub(e.noneAt) >= o.NotFoundTTL && (keepNone == 0 || now.Sub(e.lastUsed) >= keepNone)
	default:
		return now.Sub(e.lastUsed) >= o.IdleTimeout
	}
}

// service is a service that is watched.
type service struct {
	entry
	name     string
	declared bool
	cancel   context.CancelFunc
	// cluster is nil until the registry knows the service: callers choose the
	// names that are looked up, and what a cluster brings with it, metrics above
	// all, is for names that exist.
	cluster atomic.Pointer[upstream.Cluster]
	router  *Router
}

func (s *service) inFlight() int64 {
	if c := s.cluster.Load(); c != nil {
		return c.InFlight()
	}
	return 0
}

// watch begins to watch a service. It returns nil where too many are watched.
// r.mu is held.
func (r *Router) watch(name string, declared bool) *entry {
	t := r.tables.Load()
	if s := t.services.get(name); s != nil {
		return &s.entry
	}
	if t.services.len() >= r.opts.MaxNames || r.ctx.Err() != nil {
		return nil
	}
	s := &service{name: name, declared: declared, router: r}
	ctx, cancel := context.WithCancel(r.ctx)
	s.cancel = cancel
	r.tables.Store(&tables{services: t.services.with(name, s), names: t.names})
	s.giveUpAfter(r.opts.ResolveTimeout)
	r.done.Go(func() {
		defer cancel()
		r.opts.Source.Watch(ctx, name, s.update)
		if c := s.cluster.Load(); c != nil {
			c.Close()
		}
	})
	return &s.entry
}

// update takes a state of the service from the registry.
func (s *service) update(now *registry.Service) {
	c := s.cluster.Load()
	if now == nil {
		if c != nil {
			c.SetGRPC(nil)
			c.Update(nil, false)
		}
		s.settle(stateNone, false)
		return
	}
	if c == nil {
		c = s.router.opts.NewCluster(s.name)
		s.router.configure(s, c)
	}
	c.SetGRPC(now.GRPC)
	c.Update(now.Endpoints, now.Stale)
	s.settle(stateKnown, false)
}

// name is who answers a gRPC service name.
type name struct {
	entry
	grpcService string
	services    atomic.Pointer[[]string]
	failure     atomic.Pointer[error] // the last one; nil: there was none
	askedAt     atomic.Int64          // Unix time in nanoseconds
	asking      atomic.Bool
	stale       atomic.Bool // it was asked too long ago; the sweep sees that
}

func (n *name) age(now time.Time, o *Options) {
	ttl := answeringTTL
	if n.state.Load() == stateNone {
		ttl = o.NotFoundTTL
	}
	if !n.stale.Load() && now.UnixNano()-n.askedAt.Load() > int64(ttl) {
		n.stale.Store(true)
	}
}

// askMeanwhile has it found out who answers the gRPC service of a path, should the
// registry be slow to say whether there is the service e: an RPC that has waited
// for that in vain shall not wait as long again. r.mu is held.
func (r *Router) askMeanwhile(e *entry, path string) {
	grpcService, telling := rpcService(path)
	if e == nil || !telling {
		return
	}
	slow := r.opts.ResolveTimeout / 4
	time.AfterFunc(slow, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if e.state.Load() == statePending {
			r.ask(grpcService, r.opts.ResolveTimeout-slow)
		}
	})
}

// ask begins to find out who answers a gRPC service name, which RPCs wait for no
// longer than within. It returns nil where too many are remembered. r.mu is held.
func (r *Router) ask(grpcService string, within time.Duration) *entry {
	t := r.tables.Load()
	if n := t.names.get(grpcService); n != nil {
		return &n.entry
	}
	if t.names.len() >= r.opts.MaxNames || r.ctx.Err() != nil {
		return nil
	}
	n := &name{grpcService: grpcService}
	r.tables.Store(&tables{services: t.services, names: t.names.with(grpcService, n)})
	n.giveUpAfter(within)
	n.asking.Store(true)
	r.refresh(n)
	return &n.entry
}

// refreshStale has the registry asked again, unless that is under way.
func (r *Router) refreshStale(n *name) {
	if !n.asking.CompareAndSwap(false, true) {
		return
	}
	r.mu.Lock() // for Close, which waits for what was begun before it
	defer r.mu.Unlock()
	if r.ctx.Err() == nil {
		r.refresh(n)
	}
}

// refresh asks the registry who answers a gRPC service name, in the background.
// n.asking is set, and r.mu is held.
func (r *Router) refresh(n *name) {
	r.done.Go(func() {
		defer n.asking.Store(false)
		ctx, cancel := context.WithTimeout(r.ctx, r.opts.ResolveTimeout)
		defer cancel()
		answering, err := r.answering(ctx, n.grpcService)
		n.askedAt.Store(time.Now().UnixNano())
		n.stale.Store(false)
		if err != nil {
			// The source says so itself, once; here it would be said every few seconds.
			r.opts.Logger.Debug("cannot find out who answers a gRPC service",
				"grpc_service", n.grpcService, "err", err)
			n.failure.Store(&err)
			if n.services.Load() != nil {
				return // what was known stays
			}
		}
		n.services.Store(&answering)
		if len(answering) == 0 {
			n.settle(stateNone, err != nil)
			return
		}
		n.settle(stateKnown, false)
	})
}

// answering asks the registry, and then the services that say nothing there.
func (r *Router) answering(ctx context.Context, grpcService string) ([]string, error) {
	answering, err := r.opts.Source.Answering(ctx, grpcService)
	if err != nil || len(answering) > 0 {
		return answering, err
	}
	all, err := r.opts.Source.Services(ctx)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	r.known = all
	r.mu.Unlock()
	if r.opts.Learn == nil || len(all) == 1 && all[0] == r.opts.Default {
		return nil, nil // whatever the only service says, it gets the RPC
	}
	return r.learn(ctx, all, grpcService), nil
}

// maxLearning bounds the services asked at a time.
const maxLearning = 8

// learn asks services themselves what they answer. One that cannot be asked does
// not answer.
func (r *Router) learn(ctx context.Context, services []string, grpcService string) (answering []string) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	places := make(chan struct{}, maxLearning)
	for _, service := range services {
		places <- struct{}{}
		wg.Go(func() {
			defer func() { <-places }()
			if answers, err := r.opts.Learn(ctx, service); err == nil && slices.Contains(answers, grpcService) {
				mu.Lock()
				answering = append(answering, service)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	slices.Sort(answering)
	return answering
}

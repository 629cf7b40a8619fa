package consul

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/pillion-proxy/pillion/registry"
)

// lookups is how many Answering and Services calls may be at the agent at once:
// the names come from clients, and each costs a walk through the catalogue.
const lookups = 2

// Source finds services in Consul, through one agent. It has no goroutines and
// asks nothing while nobody calls it.
type Source struct {
	agent   *agent
	cache   *cache
	reach   reach
	lookups chan struct{}
	filters *subsetFilters
	own     *ownDefaults

	mu       sync.Mutex
	watching map[string]*watched
	// names are the services that the last Services call found.
	names []string
	// inherited are the services of Deps.Older and Deps.LastKnown that were not watched
	// yet; untilNow says which are of the latter.
	inherited map[string]*registry.Service
	untilNow  map[string]bool
}

var _ registry.Source = (*Source)(nil)

// New returns a Source. It does not ask the agent anything: an error is about
// cfg or about Consul's variables. A token file that is missing is no error, but
// logged and looked for again.
func New(cfg Config, deps Deps) (*Source, error) {
	agent, err := newAgent(cfg, deps.withDefaults())
	if err != nil {
		return nil, err
	}

	source := &Source{
		agent:     agent,
		reach:     reach{requireSidecar: cfg.RequireSidecar, connect: cfg.Connect},
		lookups:   make(chan struct{}, lookups),
		watching:  map[string]*watched{},
		inherited: map[string]*registry.Service{},
		untilNow:  map[string]bool{},
	}
	source.filters = newSubsetFilters(source.remark)
	source.own = newOwnDefaults(source, "")
	for _, service := range deps.Older {
		source.inherited[service.Name] = service
	}
	for _, service := range deps.LastKnown {
		source.inherited[service.Name], source.untilNow[service.Name] = service, true
	}
	if cfg.CacheDir != "" {
		source.cache = &cache{dir: cfg.CacheDir, scope: agent.scope, limits: agent.limits}
	}

	return source, nil
}

// Watch hands over the states of a service; see registry.Source and ParseName.
// Several watches of one service share its queries.
func (s *Source) Watch(ctx context.Context, service string, update func(*registry.Service)) {
	if _, _, ok := ParseName(service, func(string) bool { return false }); !ok {
		update(nil)
		<-ctx.Done()

		return
	}

	w := s.join(service) //nolint:contextcheck // the queries outlive this watch where others share them
	defer s.leave(w)
	tell, cancel := w.subscribe()
	defer cancel()

	seen := 0
	w.tellOf(tell, seen)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tell:
		}
		if state, version := w.state(); version != seen {
			seen = version
			update(state)
			w.tellOf(tell, version)
		}
	}
}

// join begins to watch a service, or joins those who watch it already.
func (s *Source) join(service string) *watched {
	s.mu.Lock()
	defer s.mu.Unlock()

	w := s.watching[service]
	if w == nil {
		w = newWatched(s, service)
		w.cached = s.inherited[service]
		if s.untilNow[service] {
			w.set(w.cached)
		}
		// It is older than all that is learned from now on.
		delete(s.inherited, service)
		delete(s.untilNow, service)
		s.watching[service] = w

		var ctx context.Context
		ctx, w.stop = context.WithCancel(context.Background())
		go w.run(ctx)
	}
	w.watchers++

	return w
}

// leave ends a watch, and waits for its goroutines if it was the last.
func (s *Source) leave(w *watched) {
	s.mu.Lock()
	w.watchers--
	last := w.watchers == 0
	if last {
		delete(s.watching, w.name)
	}
	s.mu.Unlock()

	if last {
		w.stop()
		<-w.done
	}
}

// watches returns the services that are watched now, in alphabetical order.
func (s *Source) watches() []*watched {
	s.mu.Lock()
	defer s.mu.Unlock()

	return slices.SortedFunc(maps.Values(s.watching), func(a, b *watched) int { return strings.Compare(a.name, b.name) })
}

// Answering asks Consul's catalogue which services say in their meta
// "grpc-services" (and "grpc-services-2" to "-12") that they answer a gRPC
// service. While Consul is away, or does not answer within half a second, those
// must do that said so when they were seen last; it is an error then if there are
// none.
func (s *Source) Answering(ctx context.Context, grpcService string) ([]string, error) {
	if !isGRPCName(grpcService) {
		return nil, nil
	}

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type answer struct {
		names []string
		err   error
	}
	answered := make(chan answer, 1)
	go func() {
		names, err := s.list(ctx, "find out who answers "+grpcService, answeringFilter(grpcService))
		answered <- answer{names, err}
	}()
	patience := time.NewTimer(cachePatience)
	defer patience.Stop()

	select {
	case now := <-answered:
		if now.err == nil {
			if len(now.names) == 0 {
				// A service whose loss is not believed yet answers still.
				return s.watchedAnswering(grpcService), nil
			}

			return now.names, nil
		}
		if names := s.lastKnownAnswering(grpcService); len(names) > 0 {
			return names, nil
		}

		return nil, now.err
	case <-patience.C:
		if names := s.lastKnownAnswering(grpcService); len(names) > 0 {
			cancel()
			<-answered

			return names, nil
		}
		late := <-answered

		return late.names, late.err
	}
}

// Services asks Consul's catalogue for all names but those of Consul itself, of
// sidecars and of gateways. While Consul is away it returns what was seen last; it
// is an error then if that is nothing.
func (s *Source) Services(ctx context.Context) ([]string, error) {
	names, err := s.list(ctx, "list the services", `ServiceKind == ""`)
	if err == nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.names = names

		return slices.Clone(names), nil
	}

	if names = s.lastKnown(); len(names) == 0 {
		return nil, err
	}

	return names, nil
}

// list returns the names of the services that a filter selects.
func (s *Source) list(ctx context.Context, what, filter string) ([]string, error) {
	select {
	case s.lookups <- struct{}{}:
		defer func() { <-s.lookups }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, s.agent.limits.CallTimeout)
	defer cancel()

	options := &api.QueryOptions{AllowStale: true, Filter: filter}
	found, meta, err := s.agent.api.Catalog().Services(options.WithContext(ctx))
	if err != nil {
		failure := s.agent.explain(err, what, rule("service", "", "read"), rule("node", "", "read"))
		if !errors.Is(ctx.Err(), context.Canceled) {
			s.agent.note(scopeCatalogue, failure)
		}

		return nil, failure
	}
	if meta.ResultsFilteredByACLs {
		s.agent.note(scopeCatalogue, s.agent.explain(errHidden, "see all services", rule("service", "", "read"), rule("node", "", "read")))
	} else {
		s.agent.noteSuccess(scopeCatalogue)
	}

	names := make([]string, 0, len(found))
	for name := range found {
		if name != "consul" && !strings.HasSuffix(name, sidecarSuffix) {
			names = append(names, name)
		}
	}
	slices.Sort(names)

	return names, nil
}

// CloseIdleConnections closes the connections to the agent that are not in use.
func (s *Source) CloseIdleConnections() { s.agent.closeIdle() }

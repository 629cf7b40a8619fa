package consul

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/pillion-proxy/pillion/registry"
	"github.com/pillion-proxy/pillion/registry/consul/chain"
)

// WatchEntries hands over the policies that Consul's configuration entries (service-router,
// service-splitter, service-resolver) come to for a service, now and whenever they change,
// until ctx ends, and then returns. They are for the service itself, and for those where it
// leads; their names begin with [chain.PolicyPrefix]. Calls to update of one watch never
// overlap. Where there are no such entries there are no policies.
//
// The first call comes as soon as Consul has answered; where it does not within half a
// second, with what Config.CacheDir holds of the last time, or with nothing. What is known
// stays while Consul is away. The token needs service:read for the services concerned.
//
// After [Source.CallAs], the policies say too what that service's service-defaults says of
// those that it calls (limits, passive health checks, connect timeouts).
//
// The subsets that the policies speak of are known by the instances' meta; those who watch
// the instances are told of the subsets before the policies are handed over.
func (s *Source) WatchEntries(ctx context.Context, service string, update func(*registry.Policies)) {
	if _, _, ok := ParseName(service, func(string) bool { return false }); !ok {
		update(&registry.Policies{})
		<-ctx.Done()

		return
	}
	e := &entries{source: s, name: service, update: update, noted: map[string]bool{}, linger: stopped()}
	e.run(ctx)
}

// entries is one watch of a service's configuration entries.
type entries struct {
	source *Source
	name   string
	update func(*registry.Policies)

	told  []byte // the answer that was handed over last
	known bool   // something was handed over
	// of is the version of the app's own service-defaults that went into that, and waiting
	// the answer that waits for one; nil: none does.
	of      uint64
	waiting json.RawMessage
	noted   map[string]bool
	// filters are the subsets of what was handed over last; those of before stay known
	// beside them until linger fires.
	filters map[string]map[string]chain.Filter
	marked  map[string]map[string]chain.Filter
	linger  *time.Timer
}

// lingerFor is how long instances are still known by subsets that entries speak of no more:
// the policies of before are in force for a moment yet, and so are RPCs that began by them.
const lingerFor = 10 * time.Second

func scopeEntries(service string) string { return "configuration entries of service " + service }

func (e *entries) run(ctx context.Context) {
	var polling sync.WaitGroup
	defer polling.Wait()
	defer e.source.filters.set(e, nil)
	agent := e.source.agent
	defer agent.troubles.forget(scopeEntries(e.name))
	own, leave := e.source.own.join() //nolint:contextcheck // what others share outlives this watch
	defer leave()

	patience := time.NewTimer(cachePatience)
	defer patience.Stop()
	defer e.linger.Stop()
	answers := make(chan answer[json.RawMessage])
	polling.Go(func() {
		service, dc, ok := e.locate(ctx)
		if !ok {
			return
		}
		poller := &poller[json.RawMessage]{agent: agent, out: answers, ask: func(ctx context.Context, options *api.QueryOptions) asked[json.RawMessage] {
			options.Datacenter = dc

			return agent.askChain(ctx, service, scopeEntries(e.name), options)
		}}
		poller.run(ctx)
	})

	rotation := agent.tokens.ticker()
	defer rotation.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case a := <-answers:
			if a.err == nil {
				e.take(ctx, a.value)
			} else {
				e.resort(ctx)
			}
		case <-own:
			if e.waiting != nil {
				e.take(ctx, e.waiting)
			} else if e.told != nil {
				e.take(ctx, e.told)
			}
		case <-patience.C:
			if e.waiting == nil {
				e.resort(ctx)
			}
		case <-e.linger.C:
			e.mark(e.filters)
		case <-rotation.C:
			// A query that waits does so with the token that it began with.
			agent.tokens.current()
		}
	}
}

// locate finds out where the service is. Only a name with a dot takes a question.
func (e *entries) locate(ctx context.Context) (service, dc string, ok bool) {
	pause := backoff{base: failureBase, most: failureMost, random: e.source.agent.random}
	for {
		var failed error
		service, dc, ok = ParseName(e.name, func(suffix string) bool {
			is, err := e.source.agent.isDatacenter(ctx, suffix)
			failed = err

			return is
		})
		if failed == nil {
			return service, dc, ok
		}
		if !sleep(ctx, pause.next()) {
			return "", "", false
		}
	}
}

// askChain asks for the compiled chain of a service once.
func (a *agent) askChain(ctx context.Context, service, scope string, options *api.QueryOptions) asked[json.RawMessage] {
	var found json.RawMessage
	meta, err := a.api.Raw().Query("/v1/discovery-chain/"+url.PathEscape(service), &found, options.WithContext(ctx))
	if err == nil {
		if _, wrong := chain.Parse(found); wrong != nil {
			err = unusable{wrong}
		}
	}
	if err != nil {
		failure := a.explain(err, "read the configuration entries (discovery chain) of service "+strconv.Quote(service), rule("service", service, "read"))
		if !errors.Is(ctx.Err(), context.Canceled) {
			a.note(scope, failure)
		}

		return asked[json.RawMessage]{err: failure}
	}
	a.noteSuccess(scope)

	return asked[json.RawMessage]{value: found, index: meta.LastIndex, lagging: lags(meta)}
}

// take hands over what an answer comes to, where it is another one.
func (e *entries) take(ctx context.Context, found json.RawMessage) {
	e.waiting = nil
	_, version := e.source.own.said()
	if version == 0 {
		e.waiting = found // it is known, or clear, in a moment

		return
	}
	if e.known && bytes.Equal(found, e.told) && e.of == version || !e.hand(ctx, found) {
		return
	}
	if err := e.source.cache.saveAnswer(e.name, chainSuffix, found); err != nil {
		e.source.agent.troubles.report(scopeCache, fmt.Errorf("consul: keeping the configuration entries of service %q on disk: %w; a restart while Consul is away will not know them", e.name, oneLine(err)))
	}
}

// resort hands over what the disk holds, or nothing, where nothing else is known.
func (e *entries) resort(ctx context.Context) {
	if e.known {
		return
	}
	found, err := e.source.cache.loadAnswer(e.name, chainSuffix)
	if err != nil {
		e.source.agent.troubles.report(scopeCache, fmt.Errorf("consul: last known configuration entries on disk: %w; going on without them", oneLine(err)))
	}
	if found != nil && e.hand(ctx, found) {
		return
	}
	e.known = true
	e.update(&registry.Policies{Where: entriesWhere, Of: e.name})
}

// entriesWhere is what the policies' source calls itself.
const entriesWhere = "Consul's configuration entries"

// hand hands over what a chain comes to. It is false where that is no chain.
func (e *entries) hand(ctx context.Context, found json.RawMessage) bool {
	compiled, err := chain.Parse(found)
	if err != nil {
		return false
	}
	local := ""
	if e.name != compiled.ServiceName && e.name == compiled.ServiceName+"."+compiled.Datacenter {
		local = "." // no datacentre's name: all are named
	}
	defaults, version := e.source.own.said()
	result := compiled.Policies(e.name, local, defaults)
	for _, note := range result.Notes {
		if !e.noted[note] && len(e.noted) < maxNoted {
			e.noted[note] = true
			e.source.agent.log.Info("consul: " + note)
		}
	}
	e.filters = result.Filters
	e.mark(alsoKnown(result.Filters, e.marked))
	e.linger.Reset(lingerFor)
	e.source.awaitMarks(ctx, result.Filters)
	if ctx.Err() != nil {
		return true
	}
	e.told, e.known, e.of = found, true, version
	e.update(&registry.Policies{
		List: result.Policies, Refused: result.Refused, Where: entriesWhere, Of: e.name,
		Locate: func(policy, field string) string { return entriesWhere + ": policy " + policy + ": " + field },
	})

	return true
}

// mark has the instances known by these subsets.
func (e *entries) mark(filters map[string]map[string]chain.Filter) {
	e.marked = filters
	e.source.filters.set(e, filters)
}

// alsoKnown returns the filters of now, and of before those of other subsets.
func alsoKnown(now, before map[string]map[string]chain.Filter) map[string]map[string]chain.Filter {
	all := maps.Clone(now)
	for service, subsets := range before {
		both := maps.Clone(subsets)
		maps.Copy(both, now[service])
		all[service] = both
	}

	return all
}

// maxNoted bounds how many notes are remembered, and logged, for one watch.
const maxNoted = 100

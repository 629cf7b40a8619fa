package consul

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/pillion-proxy/pillion/registry/consul/chain"
)

// ownDefaults is what the service-defaults of the app's own service says of the services
// that the app calls. It is watched for as long as somebody watches configuration entries.
type ownDefaults struct {
	source  *Source
	service string          // "": there is none
	noted   map[string]bool // by run alone

	mu       sync.Mutex
	watchers map[chan struct{}]struct{}
	stop     context.CancelFunc // of watching, which is over when done is closed
	done     chan struct{}
	upstream *chain.Upstreams
	// version is that of upstream; 0: it is not known yet, nor that it will not be soon.
	version uint64
	answer  json.RawMessage // that it was made of; nil: none
}

func newOwnDefaults(source *Source, service string) *ownDefaults {
	d := &ownDefaults{source: source, service: service, watchers: map[chan struct{}]struct{}{}, noted: map[string]bool{}}
	if service == "" {
		d.version = 1
	}

	return d
}

// CallAs says which service in Consul the app is, whose service-defaults [Source.WatchEntries]
// looks at. It is called before that, if at all.
func (s *Source) CallAs(service string) { s.own = newOwnDefaults(s, service) }

func scopeOwn(service string) string { return "service-defaults of service " + service }

// said returns what is known now, and its version.
func (d *ownDefaults) said() (*chain.Upstreams, uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()

	return d.upstream, d.version
}

// join begins to watch, or joins those who do. tell gets a token when there is another
// version. leave waits for the watch to end if it was the last.
func (d *ownDefaults) join() (tell <-chan struct{}, leave func()) {
	if d.service == "" {
		return nil, func() {}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	token := make(chan struct{}, 1)
	if len(d.watchers) == 0 {
		var ctx context.Context
		ctx, d.stop = context.WithCancel(context.Background())
		before, done := d.done, make(chan struct{})
		d.done = done
		go func() {
			defer close(done)
			if before != nil {
				<-before
			}
			d.run(ctx)
		}()
	}
	d.watchers[token] = struct{}{}

	return token, func() { d.leave(token) }
}

func (d *ownDefaults) leave(token chan struct{}) {
	d.mu.Lock()
	delete(d.watchers, token)
	last, done := len(d.watchers) == 0, d.done
	if last {
		d.stop()
	}
	d.mu.Unlock()

	if last {
		<-done
	}
}

func (d *ownDefaults) run(ctx context.Context) {
	agent := d.source.agent
	var polling sync.WaitGroup
	defer polling.Wait()
	defer agent.troubles.forget(scopeOwn(d.service))

	answers := make(chan answer[json.RawMessage])
	polling.Go(func() {
		poller := &poller[json.RawMessage]{agent: agent, out: answers, ask: func(ctx context.Context, options *api.QueryOptions) asked[json.RawMessage] {
			return agent.askDefaults(ctx, d.service, options)
		}}
		poller.run(ctx)
	})
	patience := time.NewTimer(cachePatience)
	defer patience.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case a := <-answers:
			if a.err == nil {
				d.take(a.value, true)
			} else {
				d.resort()
			}
		case <-patience.C:
			d.resort()
		}
	}
}

// askDefaults asks for a service's service-defaults once; "null" stands for none.
func (a *agent) askDefaults(ctx context.Context, service string, options *api.QueryOptions) asked[json.RawMessage] {
	var found json.RawMessage
	asking := here(ctx, alteration{absent: true}) // the app is registered at the agent itself
	meta, err := a.api.Raw().Query("/v1/config/service-defaults/"+url.PathEscape(service), &found, options.WithContext(asking))
	if err == nil {
		if _, wrong := chain.ParseUpstreams(found); wrong != nil {
			err = unusable{wrong}
		}
	}
	if err != nil {
		what := "read what the service-defaults of service " + strconv.Quote(service) + " says of the services that it calls (limits, passive health checks, connect timeouts), which is not obeyed so far"
		failure := a.explain(err, what, rule("service", service, "read"))
		if !errors.Is(ctx.Err(), context.Canceled) {
			a.note(scopeOwn(service), failure)
		}

		return asked[json.RawMessage]{err: failure}
	}
	a.noteSuccess(scopeOwn(service))

	return asked[json.RawMessage]{value: found, index: meta.LastIndex, lagging: lags(meta)}
}

// take takes an answer over, and keeps it on disk where it is fresh.
func (d *ownDefaults) take(found json.RawMessage, fresh bool) {
	upstream, err := chain.ParseUpstreams(found)
	if err != nil {
		return
	}
	d.mu.Lock()
	if d.version > 0 && bytes.Equal(found, d.answer) {
		d.mu.Unlock()

		return
	}
	d.upstream, d.answer = upstream, found
	d.news()
	d.mu.Unlock()
	if upstream != nil {
		for _, note := range upstream.Notes {
			if !d.noted[note] && len(d.noted) < maxNoted {
				d.noted[note] = true
				d.source.agent.log.Info("consul: " + note)
			}
		}
	}
	if !fresh {
		return
	}
	if err := d.source.cache.saveAnswer(d.service, ownSuffix, found); err != nil {
		d.source.agent.troubles.report(scopeCache, fmt.Errorf("consul: keeping the service-defaults of service %q on disk: %w; a restart while Consul is away will not know it", d.service, oneLine(err)))
	}
}

// news says that there is another version. d.mu is held.
func (d *ownDefaults) news() {
	d.version++
	for token := range d.watchers {
		select {
		case token <- struct{}{}:
		default:
		}
	}
}

// resort does with what the disk holds, or with nothing, where nothing else is known.
func (d *ownDefaults) resort() {
	if _, version := d.said(); version > 0 {
		return
	}
	found, err := d.source.cache.loadAnswer(d.service, ownSuffix)
	if err != nil {
		d.source.agent.troubles.report(scopeCache, fmt.Errorf("consul: last known service-defaults on disk: %w; going on without it", oneLine(err)))
	}
	if found != nil {
		d.take(found, false)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.version == 0 {
		d.news()
	}
}

package consul

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/pillion-proxy/pillion/registry"
)

const (
	// cachePatience is how long the first answer may take before what the disk
	// holds is handed over instead.
	cachePatience = 500 * time.Millisecond
	// uncheckedFor is how long an instance keeps its place whose checks have not
	// run since its agent restarted.
	uncheckedFor = time.Minute
	// saveEvery is how often a service that keeps changing is written to disk,
	// saveSoon how soon one that does not.
	saveEvery = time.Second
	saveSoon  = 10 * time.Millisecond
	// toleratedFailures in a row do not make a service stale: a restarted agent
	// cuts every connection once.
	toleratedFailures = 1
)

// watched is one service that is watched, by one or many: two pollers, and a
// goroutine that judges what they bring and publishes the state.
//
// A service is in one of these states:
//
//	unknown     nothing was handed over yet
//	fresh       what Consul says
//	stale       what Consul said last, or the disk; at least one query fails
//	confirming  fresh or stale, while a later answer is empty and not believed yet
type watched struct {
	source *Source
	name   string
	stop   context.CancelFunc
	done   chan struct{} // closed when all its goroutines have ended

	mu       sync.Mutex
	watchers int                        // under Source.mu
	tell     map[chan struct{}]struct{} // one channel for each watcher
	known    bool                       // something was handed over
	current  *registry.Service          // nil: there is no such service
	version  int                        // counts what was handed over
	told     map[chan struct{}]int      // the version that each watcher was told of
	awaiting int                        // how many wait for all to be told
	marks    uint64                     // by which version of its subsets the instances are known
	failing  error                      // why it is stale, nil where it is not
	since    time.Time                  // when that began

	// What follows belongs to the goroutine.

	service, dc string
	cached      *registry.Service // what was inherited, or the disk held at the start
	sides       [sides]sideState
	before      merged // what was published last
	confirm     *time.Timer
	doubting    bool                 // confirm runs
	gone        time.Time            // when it is believed that there is no instance any more; zero: it was not said
	unchecked   map[string]time.Time // instances that keep their place, until when
	relearning  time.Time            // until when missing instances keep their place
	recheck     *time.Timer
	save        *time.Timer
	saved       time.Time
	dirty       bool
	remarkLater *time.Timer

	// remark tells it that the service's subsets are others now.
	remark chan struct{}
}

// sideState is what one of the two queries said last.
type sideState struct {
	answered  bool
	instances []instance
	marks     uint64 // by which version of the subsets they were looked at
	lagging   bool
	err       *failure // set while it fails
}

func newWatched(source *Source, name string) *watched {
	return &watched{
		source: source, name: name, done: make(chan struct{}),
		tell: map[chan struct{}]struct{}{}, told: map[chan struct{}]int{}, unchecked: map[string]time.Time{},
		confirm: stopped(), recheck: stopped(), save: stopped(),
		remark: make(chan struct{}, 1), remarkLater: stopped(),
	}
}

// stopped is a timer that does not run yet.
func stopped() *time.Timer {
	timer := time.NewTimer(time.Hour)
	timer.Stop()

	return timer
}

func (w *watched) scope(side side) string {
	if side == sidecarSide {
		return "sidecars of " + w.name
	}

	return "service " + w.name
}

// run watches until ctx ends.
func (w *watched) run(ctx context.Context) {
	var pollers sync.WaitGroup
	defer close(w.done)
	defer w.end()
	defer pollers.Wait()

	if w.cached == nil {
		cached, _, err := w.source.cache.load(w.name)
		if err != nil {
			w.source.agent.troubles.report(scopeCache, fmt.Errorf("consul: last known endpoints on disk: %w; going on without them", oneLine(err)))
		}
		w.cached = cached
	}

	if !w.locate(ctx) {
		return
	}

	var answers [sides]chan answer[listing]
	for side := range sides {
		answers[side] = make(chan answer[listing])
		poller := &poller[listing]{
			agent: w.source.agent, out: answers[side],
			ask: func(ctx context.Context, options *api.QueryOptions) asked[listing] {
				options.Datacenter = w.dc

				return w.source.agent.health(ctx, side, w.service, w.scope(side), w.subsets, options)
			},
		}
		pollers.Go(func() { poller.run(ctx) })
	}

	patience := time.NewTimer(cachePatience)
	defer patience.Stop()
	rotation := w.source.agent.tokens.ticker()
	defer rotation.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case a := <-answers[appSide]:
			w.take(ctx, appSide, a)
		case a := <-answers[sidecarSide]:
			w.take(ctx, sidecarSide, a)
		case <-patience.C:
			w.resort()
		case <-w.confirm.C:
			w.confirmEmpty(ctx)
		case <-w.recheck.C:
			w.judge(ctx)
		case <-w.remark:
			w.markAnew(ctx)
		case <-w.remarkLater.C:
			w.markAnew(ctx)
		case <-w.save.C:
			w.keep()
		case <-rotation.C:
			// A query that waits does so with the token that it began with.
			w.source.agent.tokens.current()
		}
	}
}

// end lets go of what outlives the goroutine.
func (w *watched) end() {
	for _, timer := range []*time.Timer{w.confirm, w.recheck, w.save, w.remarkLater} {
		timer.Stop()
	}
	if w.dirty {
		w.keep()
	}
	for side := range sides {
		w.source.agent.troubles.forget(w.scope(side))
	}
}

// locate finds out where to look for the service. Only a name with a dot takes
// a question to the agent.
func (w *watched) locate(ctx context.Context) bool {
	pause := backoff{base: failureBase, most: failureMost, random: w.source.agent.random}
	for {
		var failed error
		service, dc, ok := ParseName(w.name, func(suffix string) bool {
			is, err := w.source.agent.isDatacenter(ctx, suffix)
			failed = err

			return is
		})
		if failed == nil {
			if !ok { // Source.Watch lets no such name through
				return false
			}
			w.service, w.dc = service, dc

			return true
		}

		w.fail(failed)
		if !sleep(ctx, pause.next()) {
			return false
		}
	}
}

// take notes an answer and judges what is known now.
func (w *watched) take(ctx context.Context, side side, a answer[listing]) {
	state := &w.sides[side]
	if a.err != nil {
		if a.failures > toleratedFailures {
			state.err = a.err
			w.fail(a.err)
		}

		return
	}
	*state = sideState{answered: true, instances: a.value.instances, marks: a.value.marks, lagging: a.lagging}
	if a.lost {
		w.relearning = time.Now().Add(relearnFor)
	}
	w.judge(ctx)
	if w.outdated() {
		w.source.remark([]string{w.name})
	}
}

// judge makes a service of what both queries said and publishes it, unless it
// is one that is not believed yet.
func (w *watched) judge(ctx context.Context) {
	if !w.answered() {
		return
	}
	next := w.merge()
	if w.takesNewDirect(next) {
		next = w.look(ctx, next)
	}
	if w.isLoss(next) {
		w.doubt(next)

		return
	}
	if w.returns() {
		next = w.merge()
	}
	w.confirm.Stop()
	w.doubting = false
	w.publish(next)
}

func (w *watched) answered() bool {
	for side := range w.sides {
		if !w.sides[side].answered {
			return false
		}
	}

	return true
}

// last is the state that the next one is measured by.
func (w *watched) last() *registry.Service {
	w.mu.Lock()
	defer w.mu.Unlock()

	if w.known {
		return w.current
	}

	return w.cached
}

// merge makes a service of both sides, and sets the timer that ends the grace
// of those whose checks have not run.
func (w *watched) merge() merged {
	var (
		now  = time.Now()
		last = map[string]bool{}
		next time.Time
	)
	if service := w.last(); service != nil {
		for _, endpoint := range service.Endpoints {
			last[endpoint.ID] = true
		}
	}
	made := merge(w.name, w.sides[appSide].instances, w.sides[sidecarSide].instances, w.source.reach,
		func(id string) bool {
			until, waits := w.unchecked[id]
			if !waits {
				until = now.Add(uncheckedFor)
			}

			return last[id] && now.Before(until)
		})

	for id := range w.unchecked {
		if !made.waiting[id] {
			delete(w.unchecked, id)
		}
	}
	for id := range made.waiting {
		until, waits := w.unchecked[id]
		if !waits {
			until = now.Add(uncheckedFor)
			w.unchecked[id] = until
		}
		if next.IsZero() || until.Before(next) {
			next = until
		}
	}
	if made.missing = w.keepMissing(&made, now); made.missing && (next.IsZero() || w.relearning.Before(next)) {
		next = w.relearning
	}
	if next.IsZero() {
		w.recheck.Stop()
	} else {
		w.recheck.Reset(time.Until(next))
	}

	return made
}

// takesNewDirect says whether an app would be dialled itself that was not
// before. The two queries are answered at different moments, so it may have a
// sidecar that is not seen yet, or have had one until both went away.
func (w *watched) takesNewDirect(next merged) bool {
	for id := range next.direct {
		if !w.before.direct[id] {
			return true
		}
	}

	return false
}

// look asks both sides again, apps first: a sidecar is registered before its app
// and deregistered after it, so in this order neither is seen without the other.
// Where that fails, what is known must do.
func (w *watched) look(ctx context.Context, known merged) merged {
	answers, ok := w.read(ctx, &api.QueryOptions{Datacenter: w.dc})
	if !ok {
		return known
	}
	w.sides = answers

	return w.merge()
}

func (w *watched) read(ctx context.Context, options *api.QueryOptions) (answers [sides]sideState, ok bool) {
	ctx, cancel := context.WithTimeout(ctx, w.source.agent.limits.CallTimeout)
	defer cancel()

	select {
	case w.source.agent.reads <- struct{}{}:
		defer func() { <-w.source.agent.reads }()
	case <-ctx.Done():
		return answers, false
	}
	for _, side := range []side{appSide, sidecarSide} {
		asked := w.source.agent.health(ctx, side, w.service, w.scope(side), w.subsets, options)
		if asked.err != nil {
			return answers, false
		}
		answers[side] = sideState{answered: true, instances: asked.value.instances, marks: asked.value.marks, lagging: asked.lagging}
	}

	return answers, true
}

// fail says that Consul cannot be asked: what is known is stale.
func (w *watched) fail(err error) {
	w.mu.Lock()
	if w.failing == nil {
		w.since = time.Now()
	}
	w.failing = err
	known, current := w.known, w.current
	w.mu.Unlock()

	if !known {
		w.resort()

		return
	}
	if current != nil && !current.Stale {
		stale := *current
		stale.Stale = true
		w.set(&stale)
	}
}

// resort hands over what the disk holds where nothing else is known.
func (w *watched) resort() {
	w.mu.Lock()
	known := w.known
	w.mu.Unlock()

	if !known && w.cached != nil {
		stale := *w.cached
		stale.Stale = true
		w.set(&stale)
	}
}

// publish hands a state over that Consul said. It is stale where one of the
// servers that said so has lost its leader, or Consul what it knew.
func (w *watched) publish(next merged) {
	var why error
	if next.missing {
		why = errRelearning
	}
	for side := range w.sides {
		if w.sides[side].lagging || w.sides[side].err != nil {
			why = errLagging
		}
	}
	if next.service != nil {
		next.service.Stale = why != nil
	}
	w.before = next

	w.mu.Lock()
	w.marks = min(w.sides[appSide].marks, w.sides[sidecarSide].marks)
	switch {
	case why == nil:
		w.failing = nil
	case w.failing == nil:
		w.failing, w.since = why, time.Now()
	}
	unchanged := w.known && same(w.current, next.service)
	if unchanged {
		w.notify() // of marks
	}
	w.mu.Unlock()
	if unchanged {
		return
	}
	w.set(next.service)

	w.dirty = true
	w.save.Reset(max(saveSoon, saveEvery-time.Since(w.saved)))
}

// errLagging is why a service is stale whose queries do not fail.
var errLagging = errors.New("consul: the server that answers has no leader, or has not heard from it for a while")

// keep writes the state to disk.
func (w *watched) keep() {
	w.dirty, w.saved = false, time.Now()

	w.mu.Lock()
	current := w.current
	w.mu.Unlock()

	if err := w.source.cache.save(w.name, current); err != nil {
		w.source.agent.troubles.report(scopeCache, fmt.Errorf("consul: keeping the endpoints of service %q on disk: %w; a restart while Consul is away will not know them", w.name, oneLine(err)))

		return
	}
	w.source.agent.troubles.clear(scopeCache)
}

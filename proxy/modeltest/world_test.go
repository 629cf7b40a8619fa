package modeltest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/proxy/h2"
	"github.com/pillion-proxy/pillion/proxy/inbound"
	"github.com/pillion-proxy/pillion/proxy/outbound"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
	"github.com/pillion-proxy/pillion/registry"
	"github.com/pillion-proxy/pillion/registry/memory"
)

const (
	service         = "model"
	outboundAddress = "outbound:1"
)

// world is everything of one seed.
type world struct {
	t         *testing.T
	plan      *plan
	began     time.Time
	net       *network
	clients   []*client
	instances []*instance
	source    *memory.Source
	outbound  *outbound.Proxy
	budget    *h2.Budget
	counters  telemetry.Counters
	metrics   [2]*telemetry.Metrics
	accessLog *telemetry.AccessLog
	log       logLines

	running sync.WaitGroup // what endpoints do
	serving sync.WaitGroup // what proxies do

	mu           sync.Mutex
	registered   []bool
	disturbances []disturbance
	events       []note
	violations   []violation
	down         bool // everything is being ended
}

// violation is something that the model does not allow.
type violation struct {
	at   time.Duration
	rpc  *rpc // nil: it is about no RPC in particular
	text string
}

func (w *world) rng(what string, n int) *rand.Rand { return rng(w.plan.seed, what, n) }

// event notes something that concerns more than one RPC.
func (w *world) event(text string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, note{time.Since(w.began), text, args})
}

func (w *world) violate(r *rpc, format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.violations = append(w.violations, violation{time.Since(w.began), r, fmt.Sprintf(format, args...)})
}

func (w *world) tearingDown() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.down
}

func newWorld(t *testing.T, p *plan) *world {
	w := &world{t: t, plan: p, began: time.Now()}
	w.net = newNetwork(w)
	w.budget = h2.NewCountedBudget(p.budget, &w.counters.BufferedBytes)
	w.metrics[telemetry.Outbound] = telemetry.NewMetrics(telemetry.Outbound)
	w.metrics[telemetry.Inbound] = telemetry.NewMetrics(telemetry.Inbound)
	quiet := slog.New(slog.DiscardHandler)
	w.accessLog = telemetry.NewAccessLog(&w.log, telemetry.AccessLogOptions{
		Sample: 1, Queue: 1 << 20, Dropped: &w.counters.AccessLogDropped, Logger: quiet,
	})
	w.source = memory.New()
	w.registered = make([]bool, p.instances)
	for i := range p.instances {
		in := &instance{w: w, index: i, name: fmt.Sprintf("instance%d", i)}
		w.instances = append(w.instances, in)
		w.net.listen(in.appAddress(), in.accept)
		if p.sidecars {
			in.startSidecar()
		}
	}
	w.register(func(there []bool) {
		for i := range there {
			there[i] = true
		}
	})
	for i := range p.clients {
		w.clients = append(w.clients, newClient(w, i))
	}
	cfg := w.http2()
	up := p.upstream
	up.HTTP2, up.Dial = cfg, w.net.dialler("out")
	jitter := newLocked(w.rng("jitter", 0))
	up.Jitter, up.Random = jitter.Float64, jitter.Uint64
	w.outbound = outbound.New(outbound.Options{
		Source: w.source, Policy: p.policy, ResolveTimeout: 5 * time.Second, IdleTimeout: time.Minute,
		HTTP2: cfg, Upstream: up, Retry: p.retry, Metrics: w.metrics[telemetry.Outbound],
		Counters: &w.counters, AccessLog: w.accessLog, Logger: quiet,
	})
	l := newListener()
	w.net.listen(outboundAddress, l.take)
	w.serving.Go(func() { _ = w.outbound.Serve(l) })
	return w
}

func (w *world) http2() *h2.Config {
	cfg := w.plan.http2
	cfg.Budget = w.budget
	return &cfg
}

// startSidecar puts an inbound proxy beside the app.
func (in *instance) startSidecar() {
	w := in.w
	cfg := w.http2()
	up := w.plan.upstream
	up.BackoffBase, up.BackoffMax = 20*time.Millisecond, 20*time.Millisecond
	up.HTTP2, up.Dial = cfg, w.net.dialler(fmt.Sprintf("side%d", in.index))
	proxy := inbound.New(inbound.Options{
		Service: service, Address: in.appAddress(), HTTP2: cfg, Upstream: up, Retry: w.plan.retry,
		Metrics: w.metrics[telemetry.Inbound], Counters: &w.counters, AccessLog: w.accessLog,
		Logger: slog.New(slog.DiscardHandler),
	})
	l := newListener()
	in.mu.Lock()
	in.sidecar = proxy
	in.mu.Unlock()
	w.net.listen(in.reachedAt(), l.take)
	w.serving.Go(func() { _ = proxy.Serve(l) })
}

// hasSidecar says whether there is one beside the app.
func (in *instance) hasSidecar() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.sidecar != nil
}

// stopSidecar drains it.
func (in *instance) stopSidecar() {
	in.mu.Lock()
	proxy := in.sidecar
	in.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	if err := proxy.Shutdown(ctx); err != nil {
		in.w.violate(nil, "the sidecar of %s does not end: %v", in.name, err)
	}
}

// restart drains the sidecar and starts another one, as an upgrade does.
func (in *instance) restart(pause time.Duration) {
	w := in.w
	if !in.restarts.TryLock() {
		return
	}
	defer in.restarts.Unlock()
	w.event("the sidecar of %s restarts", in.name)
	w.register(func(there []bool) { there[in.index] = false })
	in.stopSidecar()
	time.Sleep(pause)
	in.startSidecar()
	w.register(func(there []bool) { there[in.index] = true })
	w.event("the sidecar of %s is back", in.name)
}

// register changes which instances the registry knows.
func (w *world) register(change func(there []bool)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change(w.registered)
	s := &registry.Service{Name: service}
	for i, in := range w.instances {
		if w.registered[i] {
			s.Endpoints = append(s.Endpoints, registry.Endpoint{ID: in.name, Address: in.reachedAt(), Weight: uint32(1 + i%2)})
		}
	}
	w.source.Replace(s)
}

// play runs clients and faults to their end.
func (w *world) play() {
	var calls, faults sync.WaitGroup
	for _, r := range w.plan.rpcs {
		calls.Go(func() { w.clients[r.client].run(r) })
	}
	for _, f := range w.plan.faults {
		faults.Go(func() { f.run(w) })
	}
	if w.plan.shutdown > 0 {
		faults.Go(func() {
			time.Sleep(w.plan.shutdown)
			w.event("the outbound side is shut down")
			w.stopOutbound()
		})
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		calls.Wait()
		faults.Wait()
	}()
	select {
	case <-over:
	case <-time.After(30 * time.Minute):
		w.reportStuck()
		w.tearDown()
		<-over
	}
}

// reportStuck says which RPCs have not ended.
func (w *world) reportStuck() {
	for _, r := range w.plan.rpcs {
		r.mu.Lock()
		stuck := r.outcome.conn != nil && r.outcome.at.IsZero()
		r.mu.Unlock()
		if stuck {
			w.violate(r, "it does not end")
		}
	}
}

// tearDown breaks everything off.
func (w *world) tearDown() {
	w.mu.Lock()
	w.down = true
	w.mu.Unlock()
	for _, c := range w.net.live(func(*conn) bool { return true }) {
		c.reset()
	}
}

func (w *world) stopOutbound() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	if err := w.outbound.Shutdown(ctx); err != nil {
		w.violate(nil, "the outbound side does not end: %v", err)
	}
}

// settle checks, once nothing moves any more, that no stream and no byte of window
// is left behind.
func (w *world) settle() {
	time.Sleep(45 * time.Second) // connections that vanished are reset by then
	for _, e := range w.endpoints() {
		if e.isDead() {
			continue
		}
		if n := e.active(); n > 0 {
			w.violate(nil, "%s has %d streams open, and all RPCs have ended", e.name, n)
		}
		if e.nc.c.wasHarmed() == "" {
			e.checkWindows()
		}
	}
	w.probe()
	for _, c := range w.outbound.Clusters() {
		for _, in := range c.Status().Instances {
			if in.InFlight != 0 || in.Waiting != 0 {
				w.violate(nil, "%s counts %d RPCs in flight and %d that wait", in.Endpoint.ID, in.InFlight, in.Waiting)
			}
		}
	}
	if n := w.budget.Used(); n != 0 {
		w.violate(nil, "%d bytes of the budget are still taken", n)
	}
}

// stop ends everything in order, and checks that it ends.
func (w *world) stop() {
	if w.plan.shutdown == 0 {
		w.stopOutbound()
	}
	for _, in := range w.instances {
		if in.sidecar != nil {
			in.stopSidecar()
		}
	}
	time.Sleep(45 * time.Second)
	for _, e := range w.endpoints() {
		if !e.isDead() && e.nc.c.wasHarmed() == "" {
			w.violate(nil, "%s is still open, and the proxies have ended", e.name)
		}
	}
	w.tearDown()
	w.serving.Wait()
	w.running.Wait()
	_ = w.accessLog.Close(context.Background())
	w.checkCounters()
}

func (w *world) endpoints() (all []*endpoint) {
	for _, c := range w.clients {
		all = append(all, c.connections()...)
	}
	for _, in := range w.instances {
		all = append(all, in.connections()...)
	}
	return all
}

// locked is a source of randomness for many.
type locked struct {
	mu sync.Mutex
	r  *rand.Rand
}

func newLocked(r *rand.Rand) *locked { return &locked{r: r} }

func (l *locked) Float64() float64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.r.Float64()
}

func (l *locked) Uint64() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.r.Uint64()
}

// logLines is what the access log writes to.
type logLines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// record is a line of the access log.
type record struct {
	Side       string
	Path       string
	Instance   string
	Attempts   int
	Status     string
	Message    string
	Flag       string
	DurationMS float64 `json:"duration_ms"`
}

// records returns the access log's, by the RPC's path.
func (l *logLines) records() (map[string][]record, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := map[string][]record{}
	for line := range bytes.Lines(l.buf.Bytes()) {
		var r record
		if err := json.Unmarshal(line, &r); err != nil {
			return nil, fmt.Errorf("%s: %w", line, err)
		}
		all[r.Path] = append(all[r.Path], r)
	}
	return all, nil
}

// shown are the last of some notes, one a line.
func shown(notes []note, prefix string) (lines []string) {
	slices.SortStableFunc(notes, func(a, b note) int { return int(a.at - b.at) })
	for _, n := range notes {
		lines = append(lines, fmt.Sprintf("%s%12v  %s", prefix, n.at, fmt.Sprintf(n.text, n.args...)))
	}
	return lines
}

package upstream

import (
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/pillion-proxy/pillion/proxy/h2"
	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
	"github.com/pillion-proxy/pillion/proxy/health"
	"github.com/pillion-proxy/pillion/proxy/wire"
)

// askStage is how far an asker is.
type askStage uint8

const (
	askResting askStage = iota // until due
	askWaiting                 // for a connection
	askAsking                  // a stream is open
	askStopped
)

// asker asks one instance whether it is well, on the connections that RPCs use. It is
// the [h2.Owner] of its streams, of which there is one at a time. That there is no
// connection to ask on says nothing: the instance is left alone for that already.
type asker struct {
	of *judges
	in *Instance

	mu      sync.Mutex
	cfg     *health.Config
	fields  []hpack.Field
	request []byte
	tally   health.Tally
	stage   askStage
	// due is when the timer has something to do: it may have fired before it was set
	// anew, and come late.
	due   time.Time
	timer *time.Timer

	life     uint32 // of wait
	wait     Wait
	stream   h2.Stream
	gen      uint32
	live     bool // the engine knows stream
	exchange health.Exchange
	failures int // of Watch, since the instance said anything
}

// newAsker begins to ask an instance.
func newAsker(j *judges, in *Instance, cfg *health.Config) *asker {
	a := &asker{of: j, in: in}
	a.stream.Init(a)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.set(cfg)
	wait := cfg.First(j.cluster.opts.Jitter())
	a.due = time.Now().Add(wait)
	a.timer = time.AfterFunc(wait, a.onTimer)
	return a
}

// set takes over a configuration. a.mu is held.
func (a *asker) set(cfg *health.Config) {
	a.cfg = cfg
	path := health.PathCheck
	if cfg.Watch {
		path = health.PathWatch
	}
	a.fields = []hpack.Field{
		{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "http"}, {Name: ":path", Value: path},
		{Name: ":authority", Value: a.of.cluster.name},
		{Name: wire.HeaderContentType, Value: wire.ContentType}, {Name: wire.HeaderTE, Value: wire.TETrailers},
		{Name: wire.HeaderUserAgent, Value: "pillion-health"},
	}
	if !cfg.Watch {
		a.fields = append(a.fields, hpack.Field{Name: wire.HeaderTimeout, Value: string(wire.AppendTimeout(nil, cfg.Timeout))})
	}
	a.request = health.AppendRequest(nil, cfg.Service)
}

// asksAs says whether the asker can go on with a configuration, which it takes over
// then: what is known of the instance stays.
func (a *asker) asksAs(cfg *health.Config) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.cfg.Service != cfg.Service || a.cfg.Watch != cfg.Watch {
		return false
	}
	if *a.cfg != *cfg {
		a.set(cfg)
		if next := time.Now().Add(cfg.Next(a.jitter())); a.stage == askResting && next.Before(a.due) {
			a.rest(time.Until(next))
		}
	}
	return true
}

// stop ends it all, and what it has found out with it. A nil asker has stopped.
func (a *asker) stop() {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	was := a.stage
	a.stage = askStopped
	a.timer.Stop()
	a.in.Block(Unhealthy, false)
	if was == askWaiting || was == askAsking {
		// A batch is done with no lock held, and here a cluster's is.
		a.of.later.Do(func() {
			var b h2.Batch
			a.mu.Lock()
			a.abandon(&b, was)
			a.mu.Unlock()
			b.Done()
		})
	}
}

// abandon ends what is under way. a.mu is held.
func (a *asker) abandon(b *h2.Batch, stage askStage) {
	switch stage {
	case askWaiting:
		a.in.Leave(&a.wait)
	case askAsking:
		if a.live {
			a.stream.Reset(b, h2.Cancel)
		}
	}
}

func (a *asker) jitter() float64 { return a.of.cluster.opts.Jitter() }

// rest has the timer fire after d. a.mu is held.
func (a *asker) rest(d time.Duration) {
	a.stage = askResting
	a.setTimer(d)
}

func (a *asker) setTimer(d time.Duration) {
	a.due = time.Now().Add(d)
	a.timer.Reset(d)
}

// onTimer asks when it is time, or ends what takes too long.
func (a *asker) onTimer() {
	var b h2.Batch
	a.mu.Lock()
	if !time.Now().Before(a.due) {
		switch a.stage {
		case askResting:
			a.ask(&b)
		case askWaiting:
			a.abandon(&b, askWaiting)
			a.rest(a.cfg.Next(a.jitter()))
		case askAsking:
			a.conclude(&b, health.Failed(fmt.Sprintf("no answer within %v", a.cfg.Timeout)))
		}
	}
	a.mu.Unlock()
	b.Done()
}

// ask begins to ask the instance. a.mu is held.
func (a *asker) ask(b *h2.Batch) {
	if a.live { // the engine has not let go of the last stream
		a.rest(a.cfg.Next(a.jitter()))
		return
	}
	a.life++
	a.wait.Prepare(a, a.life)
	a.setTimer(a.cfg.Timeout)
	a.open(b)
}

// open opens the stream, or waits until it can be opened. a.mu is held.
func (a *asker) open(b *h2.Batch) {
	gen, queued, err := a.in.Open(b, &a.stream, a.fields, false, &a.wait)
	switch {
	case err != nil:
		a.rest(a.cfg.Next(a.jitter()))
	case queued:
		a.stage = askWaiting
	default:
		a.gen, a.live, a.stage = gen, true, askAsking
		a.exchange = health.Exchange{}
		a.stream.SendData(b, a.request, true)
	}
}

// OnConn implements Caller.
func (a *asker) OnConn(b *h2.Batch, _ *Wait, life uint32, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if life != a.life || a.stage != askWaiting {
		return
	}
	if err != nil {
		a.rest(a.cfg.Next(a.jitter()))
		return
	}
	a.open(b)
}

// conclude takes what a stream that is over came to. a.mu is held.
func (a *asker) conclude(b *h2.Batch, answer health.Answer) {
	a.abandon(b, a.stage)
	a.take(answer)
	switch {
	case !a.cfg.Watch:
		a.rest(a.cfg.Next(a.jitter()))
	case answer.Unsupported:
		a.failures = 0
		a.rest(a.cfg.Unsupported(a.jitter()))
	case a.exchange.Heard():
		a.failures = 0
		a.rest(a.cfg.Again(0, a.jitter()))
	default:
		a.rest(a.cfg.Again(a.failures, a.jitter()))
		a.failures++
	}
}

// take takes an answer. a.mu is held.
func (a *asker) take(answer health.Answer) {
	now := time.Now()
	before := a.tally.Report(a.cfg)
	result := 0
	if !answer.Good {
		result = 1
	}
	a.of.cluster.counts.Judgement.HealthChecks[result].Add(1)
	changed := a.tally.Add(now, a.cfg, answer)
	if answer.Unsupported && !before.Last.Unsupported {
		a.of.log(slog.LevelWarn, "instance knows no health checks (grpc.health.v1): it counts as healthy", a.in, a.cfg.Policy)
	}
	if !changed {
		return
	}
	a.in.Block(Unhealthy, a.tally.Unhealthy())
	if a.tally.Unhealthy() {
		a.of.log(slog.LevelWarn, "instance is unhealthy: its health checks fail", a.in, a.cfg.Policy,
			"answer", answer.Text, "in_a_row", before.Against+1)
		return
	}
	a.of.log(slog.LevelInfo, "instance is healthy again", a.in, a.cfg.Policy,
		"answer", answer.Text, "in_a_row", before.Against+1, "after", now.Sub(before.Since))
}

// current says whether an event is about the stream that is open. a.mu is held.
func (a *asker) current(gen uint32) bool { return gen == a.gen && a.stage == askAsking }

// OnHeaders implements h2.Owner.
func (a *asker) OnHeaders(b *h2.Batch, _ *h2.Stream, gen uint32, h *h2.Head, end bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.current(gen) || h.Kind == h2.HeadInformational {
		return
	}
	if h.Kind == h2.HeadResponse {
		a.exchange.Head(h.Status)
	}
	if end {
		a.conclude(b, a.exchange.End(h.Regular, a.cfg.Watch))
	}
}

// OnData implements h2.Owner.
func (a *asker) OnData(b *h2.Batch, _ *h2.Stream, gen uint32, p []byte, end bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.current(gen) {
		return
	}
	var last health.Answer
	err := a.exchange.Data(p, func(answer health.Answer) { last = answer })
	if last.Told && a.cfg.Watch {
		a.told(last) // what was said before that, and at once, is out of date
	}
	switch {
	case err != nil:
		a.conclude(b, health.Failed(err.Error()))
	case end:
		a.conclude(b, a.exchange.End(nil, a.cfg.Watch))
	default:
		a.stream.Consume(b, len(p))
	}
}

// told takes what an instance says that is watched. a.mu is held.
func (a *asker) told(answer health.Answer) {
	a.timer.Stop() // it says something when there is something to say
	a.due = time.Now().Add(1 << 62)
	a.failures = 0
	a.take(answer)
}

// OnReset implements h2.Owner.
func (a *asker) OnReset(b *h2.Batch, _ *h2.Stream, gen uint32, reset h2.Reset) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case !a.current(gen):
	case reset.Unprocessed:
		a.rest(a.cfg.Next(a.jitter()))
	default:
		a.conclude(b, health.Failed(explain(reset)))
	}
}

func explain(reset h2.Reset) string {
	switch {
	case reset.Err != nil && reset.Cause == h2.CauseConn:
		return "the connection ended: " + reset.Err.Error()
	case reset.Err != nil:
		return "it broke the protocol: " + reset.Err.Error()
	default:
		return "it reset the stream with " + reset.Code.String()
	}
}

// OnTaken implements h2.Owner.
func (a *asker) OnTaken(*h2.Batch, *h2.Stream, uint32, int) {}

// OnClosed implements h2.Owner.
func (a *asker) OnClosed(_ *h2.Batch, _ *h2.Stream, gen uint32) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if gen == a.gen {
		a.live = false
	}
}

// leaves says that a connection takes no new streams: an instance is not watched on
// it any longer, or it would never end.
func (a *asker) leaves(b *h2.Batch, c *h2.Conn) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.cfg.Watch && a.stage == askAsking && a.live && a.stream.Conn() == c {
		a.abandon(b, askAsking)
		a.rest(a.cfg.Next(a.jitter()))
	}
}

// unwatch has the instance not watched any longer on a connection that takes no new
// streams. No lock is held.
func (in *Instance) unwatch(b *h2.Batch, c *conn) {
	if j := in.judge.Load(); j != nil && j.asker != nil {
		j.asker.leaves(b, c.Conn)
	}
}

// report says what is known, for people.
func (a *asker) report() health.Report {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.tally.Report(a.cfg)
}

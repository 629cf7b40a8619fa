package admission

import (
	"container/heap"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/proxy/telemetry"
)

// app is a simulated app of so many workers, in front of which there is a queue,
// behind a gate with a limit. It runs on a clock of its own, which jumps from
// event to event.
type app struct {
	t       testing.TB
	gate    *Gate
	counts  *telemetry.Admission
	random  *rand.Rand
	epoch   time.Time
	now     time.Duration
	events  events
	serial  int
	queue   []*call
	busy    int
	workers int
	service func() time.Duration // how long an RPC takes a worker
	rate    float64              // RPCs asked for per second
	timeout time.Duration        // callers give up after this; 0: never

	seen
}

// seen is what became of the RPCs since it was last looked at.
type seen struct {
	asked, shed, served, lost int
	took                      []time.Duration
	since                     time.Duration
}

type call struct {
	pass   Pass
	began  time.Duration
	served bool // by a worker, now or before
	over   bool
}

type event struct {
	at     time.Duration
	serial int
	do     func()
}

type events []event

func (e *events) Len() int { return len(*e) }
func (e *events) Less(i, j int) bool {
	a, b := (*e)[i], (*e)[j]
	return a.at < b.at || a.at == b.at && a.serial < b.serial
}
func (e *events) Swap(i, j int) { (*e)[i], (*e)[j] = (*e)[j], (*e)[i] }
func (e *events) Push(x any)    { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

// newApp starts an app. Without a concurrency limit it is c == nil.
func newApp(t testing.TB, c *Concurrency, workers int, service time.Duration, seed uint64) *app {
	a := &app{
		t: t, counts: new(telemetry.Admission), epoch: time.Now(), workers: workers,
		random: rand.New(rand.NewPCG(seed, 1)),
	}
	if c != nil && c.Random == nil {
		c.Random = a.random.Float64
	}
	a.fixed(service)
	a.gate = NewGate(Options{Concurrency: c, Counts: a.counts})
	if a.gate.limiter != nil {
		a.gate.limiter.made = a.epoch
	}
	return a
}

// fixed has every RPC take the same time, give or take 10 %.
func (a *app) fixed(service time.Duration) {
	a.service = func() time.Duration {
		return time.Duration(float64(service) * (0.9 + 0.2*a.random.Float64()))
	}
}

// exponential has RPCs take very different times.
func (a *app) exponential(mean time.Duration) {
	a.service = func() time.Duration { return time.Duration(a.random.ExpFloat64() * float64(mean)) }
}

func (a *app) after(d time.Duration, do func()) {
	a.serial++
	heap.Push(&a.events, event{a.now + d, a.serial, do})
}

// run lets time pass.
func (a *app) run(d time.Duration) *app {
	end := a.now + d
	for len(a.events) > 0 && a.events[0].at <= end {
		e := heap.Pop(&a.events).(event)
		a.now = e.at
		e.do()
	}
	a.now = end
	return a
}

// arrivals asks for a rate of RPCs from now on, at random moments.
func (a *app) arrivals(rate float64) *app {
	first := a.rate == 0
	a.rate = rate
	if first && rate > 0 {
		a.after(0, a.arrive)
	}
	return a
}

func (a *app) arrive() {
	if a.rate == 0 {
		return
	}
	a.call()
	a.after(time.Duration(a.random.ExpFloat64()/a.rate*1e9), a.arrive)
}

// call makes one RPC. It is nil where that was refused.
func (a *app) call() *call {
	a.asked++
	c := &call{began: a.now}
	at := a.epoch.Add(a.now)
	v := a.gate.Enter(&c.pass, at, "/a.B/C", Begun)
	if v == Admitted || v == Early { // the message comes right behind the headers
		v = c.pass.More(at, Whole)
	}
	if v != Admitted {
		a.shed++
		c.pass.Exit()
		return nil
	}
	if a.timeout > 0 {
		a.after(a.timeout, func() { a.giveUp(c) })
	}
	a.queue = append(a.queue, c)
	a.work()
	return c
}

// work gives what is queued to workers that are free.
func (a *app) work() {
	for a.busy < a.workers && len(a.queue) > 0 {
		c := a.queue[0]
		a.queue = a.queue[1:]
		if c.over {
			continue
		}
		c.served = true
		a.busy++
		a.after(a.service(), func() {
			a.busy--
			a.answer(c)
			a.work()
		})
	}
}

func (a *app) answer(c *call) {
	if c.over {
		return
	}
	c.over = true
	at := a.epoch.Add(a.now)
	c.pass.Answered(at, a.epoch.Add(c.began))
	c.pass.End(at, a.epoch.Add(c.began), true)
	c.pass.Exit()
	a.served++
	a.took = append(a.took, a.now-c.began)
}

func (a *app) giveUp(c *call) {
	if c.over {
		return
	}
	c.over = true
	a.lost++
	c.pass.End(a.epoch.Add(a.now), a.epoch.Add(c.began), false)
	c.pass.Exit()
}

// look returns what was seen since the last look.
func (a *app) look() seen {
	s := a.seen
	a.seen = seen{since: a.now}
	slices.Sort(s.took)
	return s
}

// quantile returns how long the RPCs that were served took.
func (s *seen) quantile(q float64) time.Duration {
	if len(s.took) == 0 {
		return 0
	}
	return s.took[min(int(q*float64(len(s.took))), len(s.took)-1)]
}

// throughput returns how many RPCs were served a second.
func (a *app) throughput(s seen) float64 { return float64(s.served) / (a.now - s.since).Seconds() }

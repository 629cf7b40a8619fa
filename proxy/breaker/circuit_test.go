package breaker

import (
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// rpc is one that asks for a place.
type rpc struct {
	place   Place
	verdict Verdict // the last it was given
	told    int
	order   *[]*rpc // where those told are noted
	life    uint32
}

func (r *rpc) OnPlace(life uint32, v Verdict) {
	if life != r.life {
		return
	}
	r.verdict = v
	r.told++
	if r.order != nil {
		*r.order = append(*r.order, r)
	}
}

func enter(c *Circuit, now time.Time) *rpc {
	r := new(rpc)
	r.verdict = c.Enter(now, &r.place, r, r.life)
	return r
}

func verdicts(rpcs ...*rpc) (out []Verdict) {
	for _, r := range rpcs {
		out = append(out, r.verdict)
	}
	return out
}

func newCircuit(o PolicyOptions) *Circuit {
	o.Name = "calm"
	return NewPolicy(o).Circuit("greeter", "/helloworld.Greeter/SayHello")
}

func TestPlacesGoToWhoWaitsLongest(t *testing.T) {
	t.Parallel()
	c := newCircuit(PolicyOptions{MaxConcurrent: 2, MaxPending: 3})
	var all []*rpc
	for range 6 {
		all = append(all, enter(c, start))
	}
	if got := verdicts(all...); !slices.Equal(got, []Verdict{Admitted, Admitted, Pending, Pending, Pending, Full}) {
		t.Fatalf("%v", got)
	}
	if s := c.State(start); s.UnderWay != 2 || s.Waiting != 3 || s.Overflowed != 1 {
		t.Errorf("%+v", s)
	}
	want := `policy "calm": circuit breaker of greeter helloworld.Greeter/SayHello: 2 RPCs are under way (max_concurrent) and 3 wait (max_pending), as many as may`
	if got := c.Refusal(Full); got != want {
		t.Errorf("%s", got)
	}
	all[3].place.Leave(start, Ignored, 0).Tell()
	all[1].place.Leave(start, Success, 0).Tell()
	if got := verdicts(all[2:5]...); !slices.Equal(got, []Verdict{Admitted, Pending, Pending}) {
		t.Fatalf("%v", got)
	}
	woken := all[0].place.Leave(start, Success, 0)
	if all[4].verdict != Pending {
		t.Fatal("told before Tell")
	}
	// The place is that RPC's already, though it does not know yet.
	if late := enter(c, start); late.verdict != Pending {
		t.Fatalf("%v got in between", late.verdict)
	} else {
		late.place.Leave(start, Ignored, 0).Tell()
	}
	woken.Tell()
	if all[4].verdict != Admitted || all[3].told != 0 {
		t.Fatalf("%v, told %d", all[4].verdict, all[3].told)
	}
	for _, r := range all { // whoever has none, or left, may leave again
		r.place.Leave(start, Success, 0).Tell()
		r.place.Leave(start, Success, 0).Tell()
	}
	if s := c.State(start); s.UnderWay != 0 || s.Waiting != 0 {
		t.Errorf("%+v", s)
	}
}

func TestAPlaceGivenToWhoLeavesGoesOn(t *testing.T) {
	t.Parallel()
	c := newCircuit(PolicyOptions{MaxConcurrent: 1, MaxPending: 2})
	a, b, d := enter(c, start), enter(c, start), enter(c, start)
	woken := a.place.Leave(start, Success, 0) // it is b's, who does not know
	b.life++                                  // and has ended by its deadline
	b.place.Leave(start, Ignored, 0).Tell()
	woken.Tell()
	if b.told != 0 || d.verdict != Admitted {
		t.Errorf("told %d; the next has %v", b.told, d.verdict)
	}
	d.place.Leave(start, Success, 0).Tell()
	if s := c.State(start); s.UnderWay != 0 {
		t.Errorf("%+v", s)
	}
}

func TestWhoWaitsIsRefusedWhenItOpens(t *testing.T) {
	t.Parallel()
	c := newCircuit(PolicyOptions{MaxConcurrent: 2, MaxPending: 9, Trip: &Trip{ConsecutiveFailures: 1, OpenFor: time.Second, Probes: 1}})
	a, b := enter(c, start), enter(c, start)
	waiting := []*rpc{enter(c, start), enter(c, start), enter(c, start)}
	a.place.Leave(start, Failure, 0).Tell()
	if got := verdicts(waiting...); !slices.Equal(got, []Verdict{Refused, Refused, Refused}) {
		t.Fatalf("%v", got)
	}
	if s := c.State(start); s.UnderWay != 1 || s.Waiting != 0 || s.Refused != 3 || s.Breaker.State != Open {
		t.Errorf("%+v", s)
	}
	if got := c.Refusal(Refused); !strings.HasSuffix(got, "SayHello is open: 1 failures in a row") {
		t.Errorf("%s", got)
	}
	b.place.Leave(start, Success, 0).Tell()
	if r := enter(c, start); r.verdict != Refused {
		t.Errorf("%v while it is open", r.verdict)
	}
	probe := enter(c, start.Add(time.Second))
	if other := enter(c, start.Add(time.Second)); probe.verdict != Admitted || other.verdict != Refused {
		t.Errorf("%v, %v", probe.verdict, other.verdict)
	}
	probe.place.Leave(start.Add(time.Second), Success, 0).Tell()
	if s := c.State(start); s.Breaker.State != Closed || s.UnderWay != 0 {
		t.Errorf("%+v", s)
	}
}

func TestWhoWaitsDoesNotProbe(t *testing.T) {
	t.Parallel()
	c := newCircuit(PolicyOptions{MaxConcurrent: 1, MaxPending: 9, Trip: &Trip{ConsecutiveFailures: 1, OpenFor: time.Second, Probes: 1}})
	old := enter(c, start)
	c.breaker.Done(start, old.place.ticket, Failure, 0) // another attempt of the same RPC
	now := start.Add(time.Second)
	waits := enter(c, now)
	if s := c.State(now); waits.verdict != Pending || s.Breaker.State != HalfOpen || s.Breaker.Probes != 0 {
		t.Fatalf("%v, %+v", waits.verdict, s)
	}
	old.place.Leave(now, Success, 0).Tell()
	if s := c.State(now); waits.verdict != Admitted || s.Breaker.Probes != 1 {
		t.Fatalf("%v, %+v", waits.verdict, s)
	}
	waits.place.Leave(now, Success, 0).Tell()
	if s := c.State(now); s.Breaker.State != Closed || s.UnderWay != 0 {
		t.Errorf("%+v", s)
	}
}

func TestWhoFindsItFullDoesNotProbe(t *testing.T) {
	t.Parallel()
	c := newCircuit(PolicyOptions{MaxConcurrent: 1, Trip: &Trip{ConsecutiveFailures: 1, OpenFor: time.Second, Probes: 1}})
	old := enter(c, start)
	c.breaker.Done(start, old.place.ticket, Failure, 0) // another attempt of the same RPC
	now := start.Add(time.Second)
	if r := enter(c, now); r.verdict != Full {
		t.Fatalf("%v", r.verdict)
	}
	old.place.Leave(now, Success, 0).Tell()
	if r := enter(c, now); r.verdict != Admitted {
		t.Errorf("%v: the probe's place is lost", r.verdict)
	}
}

func TestNoCircuitLetsEverythingPass(t *testing.T) {
	t.Parallel()
	var c *Circuit
	r := enter(c, start)
	if r.verdict != Admitted || r.place.Leave(start, Failure, 0).Any() {
		t.Errorf("%v", r.verdict)
	}
}

// TestPlacesAreAsTheirModel plays a circuit against a list of who is under way and one
// of who waits.
func TestPlacesAreAsTheirModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		limit, line := rapid.IntRange(1, 4).Draw(rt, "max"), rapid.IntRange(0, 5).Draw(rt, "pending")
		c := newCircuit(PolicyOptions{MaxConcurrent: limit, MaxPending: line})
		var order, want []*rpc // who was told
		var under, waiting []*rpc
		var untold []Woken
		leave := func(rt *rapid.T, from *[]*rpc, free bool) {
			if len(*from) == 0 {
				rt.Skip("there is none")
			}
			i := rapid.IntRange(0, len(*from)-1).Draw(rt, "which")
			r := (*from)[i]
			*from = slices.Delete(*from, i, i+1)
			r.life++ // its memory serves another from now on
			w := r.place.Leave(start, Success, 0)
			if rapid.Bool().Draw(rt, "tell at once") {
				w.Tell()
			} else {
				untold = append(untold, w)
			}
			if free && len(waiting) > 0 {
				under, want = append(under, waiting[0]), append(want, waiting[0])
				waiting = waiting[1:]
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"enter": func(rt *rapid.T) {
				r := &rpc{order: &order}
				switch r.verdict = c.Enter(start, &r.place, r, 0); {
				case len(under) < limit && r.verdict == Admitted:
					under = append(under, r)
				case len(under) == limit && len(waiting) < line && r.verdict == Pending:
					waiting = append(waiting, r)
				case len(under) == limit && len(waiting) == line && r.verdict == Full:
				default:
					rt.Fatalf("%v with %d under way and %d waiting", r.verdict, len(under), len(waiting))
				}
			},
			"leave":    func(rt *rapid.T) { leave(rt, &under, true) },
			"withdraw": func(rt *rapid.T) { leave(rt, &waiting, false) },
			"tell": func(rt *rapid.T) {
				for _, w := range untold {
					w.Tell()
				}
				untold = nil
			},
			"": func(rt *rapid.T) {
				if s := c.State(start); s.UnderWay != len(under) || s.Waiting != len(waiting) {
					rt.Fatalf("%+v; want %d, %d", s, len(under), len(waiting))
				}
			},
		})
		for _, w := range untold {
			w.Tell()
		}
		for _, r := range want {
			if r.life == 0 && (r.told != 1 || r.verdict != Admitted) {
				rt.Fatalf("told %d times, the last time %v", r.told, r.verdict)
			}
		}
	})
}

// TestPlacesUnderFire has goroutines take, give back and give up places as fast as they
// can: never more than allowed are under way, and none is lost.
func TestPlacesUnderFire(t *testing.T) {
	t.Parallel()
	const limit, workers, rounds = 2, 8, 2000
	c := newCircuit(PolicyOptions{MaxConcurrent: limit, MaxPending: 4})
	var under atomic.Int32
	var waited, withdrawn atomic.Int32
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			w := signal{make(chan wakeUp, rounds)}
			var p Place
			for i := range uint32(rounds) {
				v := c.Enter(start, &p, w, i)
				if v == Pending {
					waited.Add(1)
					if i%3 == 0 { // gives up at once
						withdrawn.Add(1)
						p.Leave(start, Ignored, 0).Tell()
						continue
					}
					got := <-w.told
					for got.life != i { // one that it gave up
						got = <-w.told
					}
					v = got.verdict
				}
				if v == Admitted {
					if n := under.Add(1); n > limit {
						t.Errorf("%d under way", n)
					}
					runtime.Gosched()
					under.Add(-1)
				}
				p.Leave(start, Success, 0).Tell()
			}
		})
	}
	wg.Wait()
	if s := c.State(start); s.UnderWay != 0 || s.Waiting != 0 {
		t.Errorf("%+v", s)
	}
	if waited.Load() == 0 || withdrawn.Load() == 0 {
		t.Errorf("%d waited, %d gave up: nothing was tested", waited.Load(), withdrawn.Load())
	}
}

// signal is a waiter that a channel tells.
type signal struct{ told chan wakeUp }

type wakeUp struct {
	life    uint32
	verdict Verdict
}

func (s signal) OnPlace(life uint32, v Verdict) { s.told <- wakeUp{life, v} }

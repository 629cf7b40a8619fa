package breaker

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// script plays a breaker, with time as it says.
type script struct {
	t   *testing.T
	b   *Breaker
	now time.Time
	log []string // transitions: "closed -> open: reason"
}

func newScript(t *testing.T, trip Trip) *script {
	s := &script{t: t, now: start}
	s.b = New(trip, func(tr Transition) {
		s.log = append(s.log, tr.From.String()+" -> "+tr.To.String()+": "+tr.Reason)
	})
	return s
}

func (s *script) pass(d time.Duration) { s.now = s.now.Add(d) }

func (s *script) allow() Ticket {
	s.t.Helper()
	if !s.b.Ready(s.now) {
		s.t.Fatalf("not ready while %v", s.b.State(s.now).State)
	}
	t, ok := s.b.Allow(s.now)
	if !ok {
		s.t.Fatalf("refused while %v", s.b.State(s.now).State)
	}
	return t
}

func (s *script) refused() {
	s.t.Helper()
	if s.b.Ready(s.now) {
		s.t.Fatalf("ready while %v", s.b.State(s.now).State)
	}
	if _, ok := s.b.Allow(s.now); ok {
		s.t.Fatalf("allowed; now %v", s.b.State(s.now).State)
	}
}

func (s *script) done(t Ticket, o Outcome) { s.b.Done(s.now, t, o, 0) }

func (s *script) rpcs(outcomes ...Outcome) {
	s.t.Helper()
	for _, o := range outcomes {
		s.done(s.allow(), o)
	}
}

func (s *script) is(want State) {
	s.t.Helper()
	if got := s.b.State(s.now).State; got != want {
		s.t.Fatalf("%v, want %v; so far %v", got, want, s.log)
	}
}

func (s *script) last(want string) {
	s.t.Helper()
	if len(s.log) == 0 || s.log[len(s.log)-1] != want {
		s.t.Fatalf("transitions %q, want %q last", s.log, want)
	}
}

// open is a breaker that has just opened, with a back-off of one second.
func opened(t *testing.T, trip Trip) *script {
	trip.ConsecutiveFailures = 1
	trip.OpenFor = time.Second
	s := newScript(t, trip)
	s.rpcs(Failure)
	s.is(Open)
	return s
}

func TestOpensForFailuresInARow(t *testing.T) {
	t.Parallel()
	s := newScript(t, Trip{ConsecutiveFailures: 3})
	s.rpcs(Failure, Failure, Success, Failure, Ignored, Failure)
	s.is(Closed)
	s.rpcs(Failure)
	s.is(Open)
	s.last("closed -> open: 3 failures in a row")
	s.refused()
	if got := s.b.State(s.now); got.Until != start.Add(5*time.Second) || got.Since != start || got.Reason != "3 failures in a row" {
		t.Errorf("%+v", got)
	}
}

func TestOpensForTheShareOfFailures(t *testing.T) {
	t.Parallel()
	s := newScript(t, Trip{FailureRatio: 0.5, MinVolume: 10})
	s.rpcs(slices.Repeat([]Outcome{Failure}, 9)...)
	s.rpcs(slices.Repeat([]Outcome{Ignored}, 9)...)
	s.is(Closed) // too few to tell
	s.rpcs(Success)
	s.is(Open) // the tenth makes them enough, though it succeeds
	s.last("closed -> open: 9 of 10 RPCs in 10s failed, at least a share of 0.5")
}

func TestForgetsWhatIsOlderThanTheWindow(t *testing.T) {
	t.Parallel()
	s := newScript(t, Trip{FailureRatio: 0.5, MinVolume: 10})
	s.rpcs(slices.Repeat([]Outcome{Failure}, 9)...)
	s.pass(9999 * time.Millisecond)
	if got := s.b.State(s.now); got.Total != 9 || got.Failures != 9 {
		t.Fatalf("%+v", got)
	}
	s.pass(time.Millisecond)
	s.rpcs(slices.Repeat([]Outcome{Success, Success, Failure}, 5)...)
	s.is(Closed)
	if got := s.b.State(s.now); got.Total != 15 || got.Failures != 5 {
		t.Errorf("%+v", got)
	}
	s.pass(time.Hour)
	if got := s.b.State(s.now); got.Total != 0 {
		t.Errorf("%+v", got)
	}
}

func TestOpensForTheShareOfSlowCalls(t *testing.T) {
	t.Parallel()
	s := newScript(t, Trip{SlowCallRatio: 0.5, SlowCall: time.Second, MinVolume: 4, Probes: 1})
	call := func(took time.Duration) { s.b.Done(s.now, s.allow(), Success, took) }
	call(time.Second) // not longer than that
	call(time.Second)
	call(2 * time.Second)
	s.is(Closed)
	call(2 * time.Second)
	s.is(Open)
	s.last("closed -> open: 2 of 4 RPCs in 10s took longer than 1s, at least a share of 0.5")

	s.pass(5 * time.Second)
	call(2 * time.Second)
	s.is(Open)
	s.last("half-open -> open: a probe took longer than 1s")
}

func TestStaysClosedWhereNothingMatters(t *testing.T) {
	t.Parallel()
	s := newScript(t, Trip{})
	s.rpcs(slices.Repeat([]Outcome{Failure}, 1000)...)
	s.is(Closed)
}

func TestProbesCloseIt(t *testing.T) {
	t.Parallel()
	s := opened(t, Trip{Probes: 2})
	s.pass(time.Second - 1)
	s.refused()
	s.pass(1)
	a, b := s.allow(), s.allow()
	s.last("open -> half-open: it was open for 1s")
	s.refused() // both are under way
	s.done(a, Success)
	s.is(HalfOpen)
	if got := s.b.State(s.now); got.Probes != 1 || got.Succeeded != 1 {
		t.Errorf("%+v", got)
	}
	s.done(b, Ignored) // says nothing, but makes room
	c, d := s.allow(), s.allow()
	s.refused()
	s.done(c, Success)
	s.is(Closed)
	s.last("half-open -> closed: 2 probes in a row succeeded")
	s.done(d, Failure) // its state is over
	s.is(Closed)
	if got := s.b.State(s.now); got.InARow != 0 {
		t.Errorf("a probe's result counts in the state after: %+v", got)
	}
}

func TestEachFailedProbeDoublesTheWait(t *testing.T) {
	t.Parallel()
	s := opened(t, Trip{MaxOpenFor: 5 * time.Second, Probes: 3})
	for _, seconds := range []int{1, 2, 4, 5, 5} {
		wait := time.Duration(seconds) * time.Second
		s.pass(wait - 1)
		s.refused()
		s.pass(1)
		s.rpcs(Success, Success, Failure)
		s.is(Open)
		s.last("half-open -> open: a probe failed")
	}
}

func TestOpeningSoonAgainDoublesTheWaitToo(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ closed, want time.Duration }{
		"at once":                {0, 2 * time.Second},
		"sooner than open":       {time.Second - 1, 2 * time.Second},
		"as late as it was open": {time.Second, time.Second},
		"much later":             {time.Hour, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := opened(t, Trip{Probes: 1})
			s.pass(time.Second)
			s.rpcs(Success)
			s.is(Closed)
			s.pass(test.closed)
			s.rpcs(Failure)
			s.is(Open)
			if got := s.b.State(s.now).Until.Sub(s.now); got != test.want {
				t.Errorf("open for %v, want %v", got, test.want)
			}
		})
	}
}

func TestResultsFromBeforeDoNotCount(t *testing.T) {
	t.Parallel()
	s := newScript(t, Trip{ConsecutiveFailures: 1, OpenFor: time.Second, Probes: 2})
	well, ill := s.allow(), s.allow()
	s.rpcs(Failure)
	s.pass(time.Second)
	probe := s.allow()
	s.is(HalfOpen)
	s.done(well, Success)
	s.done(ill, Failure)
	s.is(HalfOpen)
	if got := s.b.State(s.now); got.Succeeded != 0 || got.Probes != 1 {
		t.Errorf("%+v", got)
	}
	s.done(probe, Success)
	s.rpcs(Success)
	s.is(Closed)
}

func TestAProbeThatIsLostMakesRoom(t *testing.T) {
	t.Parallel()
	s := opened(t, Trip{Probes: 1})
	s.pass(time.Second)
	lost := s.allow()
	s.pass(time.Second - 1)
	s.refused()
	s.pass(1)
	other := s.allow()
	s.refused()
	s.done(lost, Ignored) // it had no place any more that it could give back
	s.refused()
	s.done(lost, Ignored)
	s.done(other, Success)
	s.is(Closed)
}

func TestTheZeroTicketIsNobodys(t *testing.T) {
	t.Parallel()
	s := newScript(t, Trip{ConsecutiveFailures: 1})
	s.done(Ticket{}, Failure)
	s.is(Closed)
}

func TestWhoeverIsToldMayAskTheBreaker(t *testing.T) {
	t.Parallel()
	var b *Breaker
	var told []State
	b = New(Trip{ConsecutiveFailures: 1, Probes: 1, OpenFor: time.Second}, func(tr Transition) {
		defer func() { told = append(told, tr.To) }() // one after the other, not one in the other
		if tr.To == Open {
			probe, ok := b.Allow(tr.At.Add(time.Second)) // makes a transition itself
			if !ok || !strings.Contains(b.Cause(), "in a row") {
				t.Error("no probe, or no cause")
			}
			b.Done(tr.At, probe, Success, 0)
		}
	})
	ticket, _ := b.Allow(start)
	b.Done(start, ticket, Failure, 0)
	if !slices.Equal(told, []State{Open, HalfOpen, Closed}) {
		t.Errorf("told %v", told)
	}
}

// TestManyAtOnce has goroutines use a breaker that changes its state all the time: what
// it tells must be a story, and the probes bounded.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	const probes, workers, rounds = 3, 8, 3000
	var mu sync.Mutex
	state, told := Closed, 0
	b := New(Trip{
		ConsecutiveFailures: 3, FailureRatio: 0.3, MinVolume: 20, SlowCallRatio: 0.9,
		SlowCall: time.Second, Window: 10 * time.Millisecond,
		OpenFor: time.Millisecond, MaxOpenFor: 4 * time.Millisecond, Probes: probes,
	}, func(tr Transition) {
		mu.Lock()
		defer mu.Unlock()
		told++
		if tr.From != state || tr.From == tr.To || tr.Reason == "" {
			t.Errorf("told %v -> %v (%s) while %v", tr.From, tr.To, tr.Reason, state)
		}
		state = tr.To
	})
	var wg sync.WaitGroup
	for worker := range workers {
		wg.Go(func() {
			for i := range rounds {
				now := start.Add(time.Duration(i) * 10 * time.Microsecond) // all walk through the same time
				ticket, ok := b.Allow(now)
				if s := b.State(now); s.Probes > probes {
					t.Errorf("%d probes", s.Probes)
				}
				if !ok {
					continue
				}
				b.Done(now, ticket, Outcome((i/64+i*worker)%3), time.Duration(i%2)*2*time.Second)
			}
		})
	}
	wg.Wait()
	if told < 10 {
		t.Errorf("only %d transitions: nothing was tested", told)
	}
	if got := b.State(start.Add(time.Hour)).State; got != state {
		t.Errorf("it is %v, and was said to be %v", got, state)
	}
}

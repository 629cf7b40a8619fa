package retry

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// Never more attempts than the budget allows, however RPCs, failures and time come.
func TestBudgetHolds(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		o := BudgetOptions{
			Ratio:        rapid.SampledFrom([]float64{0, 0.1, 0.2, 1, 3}).Draw(t, "ratio"),
			MinPerSecond: rapid.SampledFrom([]float64{0, 0.05, 1, 3}).Draw(t, "min"),
		}
		a := NewLimits(&o, nil).For("greeter", start)
		now, rpcs, extra := start, 0, 0
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.Int64Range(0, int64(4*time.Second)).Draw(t, "pause")))
			for range rapid.IntRange(0, 30).Draw(t, "rpcs") {
				a.Begin(now)
				rpcs++
			}
			for range rapid.IntRange(0, 60).Draw(t, "failures") {
				if a.TryExtra(now) {
					extra++
				}
			}
			most := o.Ratio*float64(rpcs) + o.MinPerSecond*(now.Sub(start).Seconds()+10)
			if float64(extra) > most+1e-6 {
				t.Fatalf("%d further attempts after %d RPCs in %v, at most %v are allowed", extra, rpcs, now.Sub(start), most)
			}
		}
	})
}

// It is no less than that either.
func TestBudgetIsGiven(t *testing.T) {
	t.Parallel()
	take := func(a *Allowance, now time.Time) (n int) {
		for a.TryExtra(now) {
			n++
		}
		return n
	}
	a := NewLimits(&BudgetOptions{Ratio: 0.2, MinPerSecond: 3}, nil).For("greeter", start)
	if n := take(a, start); n != 30 {
		t.Errorf("%d attempts without RPCs, want 10 s of 3", n)
	}
	for range 100 {
		a.Begin(start.Add(time.Second))
	}
	if n := take(a, start.Add(2*time.Second)); n != 20 {
		t.Errorf("%d more for 100 RPCs, want 20", n)
	}
	if n := take(a, start.Add(9999*time.Millisecond)); n != 0 {
		t.Errorf("%d more within the 10 s", n)
	}
	if n := take(a, start.Add(10*time.Second)); n != 30 {
		t.Errorf("%d after 10 s, want what the first second had", n)
	}
	if n := take(a, start.Add(time.Hour)); n != 30 {
		t.Errorf("%d after an hour, want 30", n)
	}
}

func TestBudgetOfManyGoroutines(t *testing.T) {
	t.Parallel()
	a := NewLimits(&BudgetOptions{Ratio: 0.5}, nil).For("greeter", start)
	var extra atomic.Int64
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 1000 {
				a.Begin(start)
			}
			for range 1000 {
				if a.TryExtra(start) {
					extra.Add(1)
				}
			}
		})
	}
	wg.Wait()
	for a.TryExtra(start) {
		extra.Add(1)
	}
	if n := extra.Load(); n != 2000 {
		t.Errorf("%d further attempts for 4000 RPCs, want 2000", n)
	}
}

// gRFC A6: no retries while there are not more than half of the tokens.
func TestThrottling(t *testing.T) {
	t.Parallel()
	a := NewLimits(nil, &ThrottlingOptions{MaxTokens: 10, TokenRatio: 0.1}).For("greeter", start)
	a.Success() // there is no eleventh token
	for i := range 5 {
		if a.Throttled() {
			t.Fatalf("throttled after %d failures of 10 tokens", i)
		}
		a.Failure()
	}
	if !a.Throttled() {
		t.Error("not throttled with half of the tokens")
	}
	a.Success()
	if a.Throttled() {
		t.Error("throttled with more than half")
	}
	for range 20 {
		a.Failure()
	}
	for i := range 50 {
		if !a.Throttled() {
			t.Fatalf("not throttled after %d successes: tokens fell below none", i)
		}
		a.Success()
	}
	a.Success()
	if a.Throttled() {
		t.Error("throttled with 5.1 of 10 tokens")
	}
}

func TestDestinationsAreCountedByThemselves(t *testing.T) {
	t.Parallel()
	l := NewLimits(&BudgetOptions{MinPerSecond: 0.1}, nil)
	a, b := l.For("a", start), l.For("b", start)
	if !a.TryExtra(start) || a.TryExtra(start) || !b.TryExtra(start) {
		t.Error("a and b do not have one attempt each")
	}
	if l.For("a", start) != a || l.For("b", start) != b {
		t.Error("what was counted is forgotten")
	}
}

func TestDestinationsAreBounded(t *testing.T) {
	t.Parallel()
	l := NewLimits(&BudgetOptions{MinPerSecond: 0.1}, nil)
	seen := map[*Allowance]bool{}
	for i := range 3 * maxDestinations {
		seen[l.For(fmt.Sprint(i), start)] = true
	}
	if len(seen) != maxDestinations+1 {
		t.Errorf("%d allowances, want %d and a shared one", len(seen), maxDestinations)
	}
}

func TestWithoutLimits(t *testing.T) {
	t.Parallel()
	a := NewLimits(nil, nil).For("greeter", start)
	a.Begin(start)
	a.Success()
	a.Failure()
	if !a.TryExtra(start) || a.Throttled() {
		t.Error("what is not limited is refused")
	}
}

func TestCountingAllocatesNothing(t *testing.T) {
	l := NewLimits(&BudgetOptions{Ratio: 0.2}, &ThrottlingOptions{MaxTokens: 10, TokenRatio: 0.1})
	l.For("greeter", start)
	if n := testing.AllocsPerRun(100, func() {
		a := l.For("greeter", start)
		a.Begin(start)
		a.Success()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestReasonsHaveNames(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for r := range Reason(NumReasons) {
		if r != None && r.String() == "" || seen[r.String()] {
			t.Errorf("reason %d is called %q", r, r)
		}
		seen[r.String()] = true
	}
	if Reason(NumReasons).String() != "" {
		t.Error("there are more")
	}
}

func TestLook(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_000_000, 0)
	l := NewLimits(&BudgetOptions{Ratio: 0.2, MinPerSecond: 3}, &ThrottlingOptions{MaxTokens: 10, TokenRatio: 0.1})
	if says := l.Look("greeter", now); says != "" || len(*l.known.Load()) != 0 {
		t.Errorf("%q, %v", says, *l.known.Load())
	}
	a := l.For("greeter", now)
	for range 50 {
		a.Begin(now)
	}
	a.TryExtra(now)
	a.Failure()
	if says, want := l.Look("greeter", now), "1 of 40 further attempts in 10 s (50 RPCs); 9 of 10 tokens"; says != want {
		t.Errorf("%q, want %q", says, want)
	}
	for range 5 {
		a.Failure()
	}
	if says, want := l.Look("greeter", now.Add(time.Minute)), "0 of 30 further attempts in 10 s (0 RPCs); 4 of 10 tokens, too few"; says != want {
		t.Errorf("%q, want %q", says, want)
	}
	if says := (*Limits)(nil).Look("greeter", now); says != "" {
		t.Errorf("%q", says)
	}
}

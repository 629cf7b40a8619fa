package breaker

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// visit is an RPC of a plan.
type visit struct {
	comes, takes, patience time.Duration // patience: how long it waits at most
	outcome                Outcome
}

// street is what is seen of the visits.
type street struct {
	mu       sync.Mutex
	under    int
	most     int
	line     []int // who waits, by number, in their order
	mistakes []string
	verdicts map[Verdict]int
	gaveUp   int
}

func (s *street) mistakef(format string, args ...any) {
	s.mistakes = append(s.mistakes, fmt.Sprintf(format, args...))
}

// TestNobodyIsForgottenInTheLine plays RPCs with deadlines in virtual time: never more
// than max_concurrent are under way, who comes first is served first, each place is
// given back once, and whoever waits is told or gives up by itself.
func TestNobodyIsForgottenInTheLine(t *testing.T) {
	t.Parallel()
	total := map[Verdict]int{}
	gaveUp := 0
	rapid.Check(t, func(rt *rapid.T) {
		limit, line := rapid.IntRange(1, 4).Draw(rt, "max"), rapid.IntRange(0, 8).Draw(rt, "pending")
		failures := rapid.IntRange(1, 3).Draw(rt, "failures in a row")
		ms := func(most int, name string) time.Duration {
			return time.Duration(rapid.IntRange(0, most).Draw(rt, name)) * time.Millisecond
		}
		plan := rapid.SliceOfN(rapid.Custom(func(*rapid.T) visit {
			return visit{ms(100, "comes"), ms(20, "takes"), ms(40, "patience"), rapid.SampledFrom([]Outcome{Success, Failure, Ignored}).Draw(rt, "outcome")}
		}), 1, 40).Draw(rt, "plan")
		// No two at the same instant, or nobody could say who came first.
		for i := range plan {
			n := i + 1
			plan[i].comes += time.Duration(1000 * n)
			plan[i].takes += time.Duration(n)
			plan[i].patience += time.Duration(997 * n)
		}
		s := &street{verdicts: map[Verdict]int{}}
		synctest.Test(t, func(*testing.T) { s.play(plan, limit, line, failures) })
		if s.under != 0 || s.most > limit || len(s.line) != 0 {
			s.mistakef("%d under way at last, %d at most (max %d), %v wait", s.under, s.most, limit, s.line)
		}
		if len(s.mistakes) > 0 {
			rt.Fatalf("%q", s.mistakes)
		}
		for v, n := range s.verdicts {
			total[v] += n
		}
		gaveUp += s.gaveUp
	})
	for _, v := range []Verdict{Admitted, Refused, Full, Pending} {
		if total[v] == 0 {
			t.Errorf("verdicts %v: nothing was tested of %d", total, v)
		}
	}
	if gaveUp == 0 {
		t.Error("nobody gave up waiting")
	}
}

func (s *street) play(plan []visit, limit, line, failures int) {
	c := newCircuit(PolicyOptions{
		MaxConcurrent: limit, MaxPending: line,
		Trip: &Trip{ConsecutiveFailures: failures, OpenFor: 10 * time.Millisecond, Probes: 2},
	})
	var wg sync.WaitGroup
	for i, v := range plan {
		wg.Go(func() { s.visit(c, i, v) })
	}
	wg.Wait()
	if st := c.State(time.Now()); st.UnderWay != 0 || st.Waiting != 0 {
		s.mistakef("at last %+v", st)
	}
}

func (s *street) visit(c *Circuit, number int, v visit) {
	time.Sleep(v.comes)
	w := &inLine{street: s, told: make(chan Verdict, 1)}
	var p Place
	s.mu.Lock()
	verdict := c.Enter(time.Now(), &p, w, uint32(number))
	s.verdicts[verdict]++
	if verdict == Pending {
		s.line = append(s.line, number)
	}
	s.mu.Unlock()
	if verdict == Pending {
		select {
		case verdict = <-w.told:
		case <-time.After(v.patience):
			s.mu.Lock()
			s.gaveUp++
			s.line = slices.DeleteFunc(s.line, func(n int) bool { return n == number })
			p.Leave(time.Now(), Ignored, 0).Tell()
			s.mu.Unlock()
			return
		}
	}
	if verdict != Admitted {
		p.Leave(time.Now(), Ignored, 0).Tell()
		return
	}
	s.mu.Lock()
	s.under++
	s.most = max(s.most, s.under)
	s.mu.Unlock()
	time.Sleep(v.takes)
	s.mu.Lock()
	s.under--
	p.Leave(time.Now(), v.outcome, v.takes).Tell()
	s.mu.Unlock()
}

// inLine is a visitor that waits. The street's lock is held while it is told, so that
// it is seen who is told first.
type inLine struct {
	street *street
	told   chan Verdict
}

func (w *inLine) OnPlace(number uint32, v Verdict) {
	s := w.street
	s.verdicts[v]++
	if s.line[0] != int(number) {
		s.mistakef("%d is told before %v", number, s.line)
	}
	s.line = slices.DeleteFunc(s.line, func(n int) bool { return n == int(number) })
	w.told <- v
}

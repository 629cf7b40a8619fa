package breaker

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// model is a breaker written down a second time, for one goroutine: all results are
// kept, and looked through each time.
type model struct {
	trip    Trip
	state   State
	since   time.Time
	until   time.Time
	openFor time.Duration
	period  int

	results []result // of the closed period
	inARow  int
	wins    int
	probes  map[int]time.Time // that are under way, and when they are given up
}

type result struct {
	at           time.Time
	failed, slow bool
}

// pass is a model's ticket.
type pass struct {
	period int
	id     int
}

func (m *model) enter(s State, now time.Time) {
	m.state, m.since = s, now
	m.period++
	m.results, m.inARow, m.wins, m.probes = nil, 0, 0, map[int]time.Time{}
}

func (m *model) open(now time.Time) {
	soon := m.openFor > 0 && now.Sub(m.since) < m.openFor
	if m.state == HalfOpen || soon {
		m.openFor = min(2*m.openFor, m.trip.MaxOpenFor)
	} else {
		m.openFor = m.trip.OpenFor
	}
	m.enter(Open, now)
	m.until = now.Add(m.openFor)
}

func (m *model) allow(now time.Time, id int) (pass, bool) {
	if m.state == Open && !now.Before(m.until) {
		m.enter(HalfOpen, now)
	}
	switch m.state {
	case Open:
		return pass{}, false
	case HalfOpen:
		if m.underWay(now) >= m.trip.Probes {
			return pass{}, false
		}
		m.probes[id] = now.Add(m.trip.OpenFor)
	}
	return pass{m.period, id}, true
}

func (m *model) underWay(now time.Time) (n int) {
	for _, expires := range m.probes {
		if now.Before(expires) {
			n++
		}
	}
	return n
}

func (m *model) done(now time.Time, p pass, o Outcome, took time.Duration) {
	if p.period != m.period {
		return
	}
	delete(m.probes, p.id)
	slow := m.trip.SlowCallRatio > 0 && took > m.trip.SlowCall
	switch {
	case o == Ignored:
	case m.state == HalfOpen && (o == Failure || slow):
		m.open(now)
	case m.state == HalfOpen:
		if m.wins++; m.wins == m.trip.Probes {
			m.enter(Closed, now)
		}
	case m.state == Closed:
		m.results = append(m.results, result{now, o == Failure, slow})
		if m.inARow++; o != Failure {
			m.inARow = 0
		}
		if m.broken(now) {
			m.open(now)
		}
	}
}

func (m *model) broken(now time.Time) bool {
	if m.trip.ConsecutiveFailures > 0 && m.inARow >= m.trip.ConsecutiveFailures {
		return true
	}
	total, failures, slow := m.window(now)
	reaches := func(n int, share float64) bool {
		return share > 0 && total >= m.trip.MinVolume && n > 0 && float64(n) >= share*float64(total)
	}
	return reaches(failures, m.trip.FailureRatio) || reaches(slow, m.trip.SlowCallRatio)
}

// window counts what is no more than nine slots old; slots begin with the first result.
func (m *model) window(now time.Time) (total, failures, slow int) {
	if len(m.results) == 0 || !m.trip.shares() {
		return 0, 0, 0
	}
	slot := func(at time.Time) int64 { return int64(at.Sub(m.results[0].at) / (m.trip.Window / slots)) }
	for _, r := range m.results {
		if slot(now)-slot(r.at) >= slots {
			continue
		}
		total++
		if r.failed {
			failures++
		}
		if r.slow {
			slow++
		}
	}
	return total, failures, slow
}

func TestBreakerIsAsItsModel(t *testing.T) {
	t.Parallel()
	reached := map[State]int{}
	rapid.Check(t, func(rt *rapid.T) {
		trip := Trip{
			ConsecutiveFailures: rapid.IntRange(0, 6).Draw(rt, "in a row"),
			FailureRatio:        rapid.SampledFrom([]float64{0, 0.25, 0.5, 1}).Draw(rt, "failures"),
			SlowCallRatio:       rapid.SampledFrom([]float64{0, 0.5, 1}).Draw(rt, "slow"),
			SlowCall:            time.Second,
			Window:              time.Second,
			MinVolume:           rapid.IntRange(1, 10).Draw(rt, "volume"),
			OpenFor:             100 * time.Millisecond,
			MaxOpenFor:          time.Duration(rapid.SampledFrom([]int{100, 250, 800}).Draw(rt, "max open")) * time.Millisecond,
			Probes:              rapid.IntRange(1, 4).Draw(rt, "probes"),
		}
		m := &model{trip: trip.WithDefaults(), probes: map[int]time.Time{}}
		said := Closed
		b := New(trip, func(tr Transition) {
			if tr.From != said {
				rt.Fatalf("told %v -> %v while %v", tr.From, tr.To, said)
			}
			said = tr.To
		})
		now := start
		type rpc struct {
			ticket Ticket
			pass   pass
		}
		var under []rpc
		id := 0
		rt.Repeat(map[string]func(*rapid.T){
			"begin": func(rt *rapid.T) {
				for range rapid.IntRange(1, 5).Draw(rt, "n") {
					id++
					ready := b.Ready(now)
					ticket, ok := b.Allow(now)
					pass, want := m.allow(now, id)
					if ok != want || ready != want {
						rt.Fatalf("allowed %v, ready %v; want %v", ok, ready, want)
					}
					if ok {
						under = append(under, rpc{ticket, pass})
					}
				}
			},
			"end": func(rt *rapid.T) {
				if len(under) == 0 {
					rt.Skip("none is under way")
				}
				outcome := rapid.SampledFrom([]Outcome{Success, Failure, Ignored}).Draw(rt, "outcome")
				took := rapid.SampledFrom([]time.Duration{0, time.Second, 2 * time.Second}).Draw(rt, "took")
				for range rapid.IntRange(1, 4).Draw(rt, "n") {
					if len(under) == 0 {
						break
					}
					i := rapid.IntRange(0, len(under)-1).Draw(rt, "which")
					r := under[i]
					under = append(under[:i], under[i+1:]...)
					b.Done(now, r.ticket, outcome, took)
					m.done(now, r.pass, outcome, took)
				}
			},
			"lose": func(rt *rapid.T) {
				if len(under) == 0 {
					rt.Skip("none is under way")
				}
				i := rapid.IntRange(0, len(under)-1).Draw(rt, "which")
				under = append(under[:i], under[i+1:]...)
			},
			"wait": func(rt *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(0, 300).Draw(rt, "ms")) * time.Millisecond)
			},
			"": func(rt *rapid.T) {
				s := b.State(now)
				reached[s.State]++
				if s.State != m.state || said != m.state {
					rt.Fatalf("it is %v, said to be %v; want %v", s.State, said, m.state)
				}
				if m.state == Open && !s.Until.Equal(m.until) {
					rt.Fatalf("open until %v, want %v", s.Until, m.until)
				}
				if total, failures, slow := m.window(now); m.state == Closed && (s.Total != total || s.Failures != failures || s.Slow != slow) {
					rt.Fatalf("the window has %+v, want %d, %d, %d", s, total, failures, slow)
				}
				if m.state == HalfOpen && (s.Probes != m.underWay(now) || s.Succeeded != m.wins) {
					rt.Fatalf("%d probes, %d well; want %d, %d", s.Probes, s.Succeeded, m.underWay(now), m.wins)
				}
			},
		})
	})
	if reached[Open] == 0 || reached[HalfOpen] == 0 {
		t.Errorf("states that were tested: %v", reached)
	}
}

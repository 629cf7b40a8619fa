package upstream

import (
	"sync/atomic"
	"time"

	"github.com/pillion-proxy/pillion/proxy/balance"
	"github.com/pillion-proxy/pillion/proxy/breaker"
)

// measures are what picking by latency or by reported load knows of an instance.
// There are none where nobody asks for them.
type measures struct {
	latency balance.Latency
	reports balance.Reports
	// reporting is what reports mean; nil: they are not wanted.
	reporting atomic.Pointer[balance.ReportOptions]
}

// measure has an instance measured as the policy needs it. What is known already
// stays.
func (in *Instance) measure(p *Policy) {
	byReports := p.Balance.Policy == balance.WeightedRoundRobin
	if !byReports && p.Balance.Policy != balance.EWMA {
		in.measures.Store(nil)
		return
	}
	m := in.measures.Load()
	if m == nil {
		m = new(measures)
		in.measures.Store(m)
	}
	if byReports {
		m.reporting.Store(&p.Reports)
	} else {
		m.reporting.Store(nil)
	}
}

// observe takes note of how an attempt at the instance ended.
func (m *measures) observe(now time.Time, o *Outcome) {
	if reporting := m.reporting.Load(); reporting != nil {
		m.observeReport(now, o, reporting)
		return
	}
	// A limiter refuses quickly, and who cancels does not say what he waited for:
	// neither tells how long the instance takes.
	if !o.Excused {
		m.latency.Observe(now, o.FirstByte, breaker.DefaultFailures.Has(o.Code))
	}
}

func (m *measures) observeReport(now time.Time, o *Outcome, reporting *balance.ReportOptions) {
	for _, f := range o.Trailers {
		if f.Name == balance.LoadReportKey {
			if report, ok := balance.ParseLoadReport(f.Value); ok {
				m.reports.Observe(now, reporting, report)
			}
			return
		}
	}
}

// Latency implements balance.Instance.
func (in *Instance) Latency(now int64) float64 {
	if m := in.measures.Load(); m != nil {
		return m.latency.At(now)
	}
	return 0
}

// HashKey implements balance.Instance.
func (in *Instance) HashKey() string { return in.address }

// reported returns the weight that the instance's load reports make; 0: none.
func (in *Instance) reported(now time.Time, o *balance.ReportOptions) float64 {
	if m := in.measures.Load(); m != nil {
		return m.reports.Weight(now, o)
	}
	return 0
}

// loads are the sets that an instance's RPCs count in, for bounded loads.
type loads []*balance.Load

// begin counts an RPC; the receiver may be nil.
func (l *loads) begin() *loads {
	if l != nil {
		for _, load := range *l {
			load.RPCs.Add(1)
		}
	}
	return l
}

// end ends what begin began.
func (l *loads) end() {
	if l != nil {
		for _, load := range *l {
			load.RPCs.Add(-1)
		}
	}
}

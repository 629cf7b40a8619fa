package balance_test

import (
	"math"
	"slices"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/proxy/balance"
)

// a58 is gRFC A58's defaults.
var a58 = balance.ReportOptions{
	Blackout: 10 * time.Second, Expiration: 3 * time.Minute, Update: time.Second, ErrorPenalty: 1,
}

// TestReportedWeights has weights that are worked out by hand from gRFC A58.
func TestReportedWeights(t *testing.T) {
	t.Parallel()
	at := func(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }
	type report struct {
		at int // seconds
		balance.LoadReport
	}
	half := balance.LoadReport{CPU: 0.5, RPS: 100}
	for _, c := range []struct {
		what    string
		options func(*balance.ReportOptions)
		reports []report
		at      int
		want    float64
	}{
		{"nothing reported", nil, nil, 20, 0},
		{"100 / 0.5", nil, []report{{0, half}}, 10, 200},
		{"the blackout is not over", nil, []report{{0, half}}, 9, 0},
		{"no blackout", func(o *balance.ReportOptions) { o.Blackout = 0 }, []report{{0, half}}, 0, 200},
		{"the app's own measure comes first: 100 / 0.8", nil, []report{{0, balance.LoadReport{CPU: 0.5, Application: 0.8, RPS: 100}}}, 10, 125},
		{"errors: 100 / (0.5 + 30/100)", nil, []report{{0, balance.LoadReport{CPU: 0.5, RPS: 100, EPS: 30}}}, 10, 125},
		{"errors that count twice: 100 / (0.5 + 2 * 25/100)", func(o *balance.ReportOptions) { o.ErrorPenalty = 2 },
			[]report{{0, balance.LoadReport{CPU: 0.5, RPS: 100, EPS: 25}}}, 10, 100},
		{"more than it can: 100 / 1.25", nil, []report{{0, balance.LoadReport{CPU: 1.25, RPS: 100}}}, 10, 80},
		{"the last one counts", nil, []report{{0, half}, {11, balance.LoadReport{CPU: 0.25, RPS: 100}}}, 11, 400},
		{"no RPCs", nil, []report{{0, balance.LoadReport{CPU: 0.5}}}, 20, 0},
		{"no utilization", nil, []report{{0, balance.LoadReport{RPS: 10}}}, 20, 0},
		{"an empty report leaves what was", nil, []report{{0, half}, {11, balance.LoadReport{}}}, 12, 200},
		{"it has expired", nil, []report{{0, half}}, 180, 0},
		{"it has not yet", nil, []report{{0, half}}, 179, 200},
		{"weights beyond all numbers", nil, []report{{0, balance.LoadReport{CPU: 1e-300, RPS: 1e300}}}, 20, 0},
	} {
		o := a58
		if c.options != nil {
			c.options(&o)
		}
		var r balance.Reports
		for _, report := range c.reports {
			r.Observe(at(report.at), &o, report.LoadReport)
		}
		if got := r.Weight(at(c.at), &o); math.Abs(got-c.want) > 1e-9 {
			t.Errorf("%s: weight %v, want %v", c.what, got, c.want)
		}
	}
}

// TestReportsBlackOutAnew says that an instance has to report for a while again after
// its reports expired, or after it was gone.
func TestReportsBlackOutAnew(t *testing.T) {
	t.Parallel()
	half := balance.LoadReport{CPU: 0.5, RPS: 100}
	for _, gone := range []bool{false, true} {
		var r balance.Reports
		now := start
		want := func(after time.Duration, weight float64) {
			t.Helper()
			now = now.Add(after)
			if got := r.Weight(now, &a58); got != weight {
				t.Errorf("gone: %v; %v after the start the weight is %v, want %v", gone, now.Sub(start), got, weight)
			}
		}
		r.Observe(now, &a58, half)
		want(10*time.Second, 200)
		if gone {
			r.Forget()
			want(0, 0)
		} else {
			want(170*time.Second, 0)
		}
		r.Observe(now, &a58, half)
		want(9*time.Second, 0)
		r.Observe(now, &a58, half)
		want(time.Second, 200)
	}
}

func TestFillReported(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		what          string
		weights, want []float64
	}{
		{"nobody reports", []float64{0, 0}, nil},
		{"one says nothing of how they compare", []float64{5, 0, 0}, nil},
		{"all do", []float64{1, 2, 3}, []float64{1, 2, 3}},
		{"who does not gets the mean", []float64{100, 0, 300, 0}, []float64{100, 200, 300, 200}},
		{"nonsense does not get everything", []float64{10, 10, 1e300}, []float64{10, 10, 1000}},
		{"or give it away", []float64{10, 10, 1e-300}, []float64{10, 10, 0.1}},
	} {
		got := slices.Clone(c.weights)
		if ok := balance.FillReported(got); ok != (c.want != nil) || ok && !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, %v, want %v", c.what, got, ok, c.want)
		}
	}
}

func TestScale(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		weights []float64
		want    []uint32
	}{
		{nil, []uint32{}},
		{[]float64{0, 0}, []uint32{1, 1}},
		{[]float64{1, 2, 4}, []uint32{1 << 18, 1 << 19, 1 << 20}},
		{[]float64{1, 1e12}, []uint32{1, 1 << 20}},
	} {
		if got := balance.Scale(c.weights); !slices.Equal(got, c.want) {
			t.Errorf("Scale(%v) = %v, want %v", c.weights, got, c.want)
		}
	}
}

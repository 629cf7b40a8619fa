package outlier

import (
	"math"
	"testing"
	"time"
)

func bySuccessRate(c SuccessRate) *Config {
	cfg := ejection()
	cfg.ConsecutiveFailures, cfg.SuccessRate = 0, &c
	return cfg
}

func byFailurePercentage(c FailurePercentage) *Config {
	cfg := ejection()
	cfg.ConsecutiveFailures, cfg.FailurePercentage = 0, &c
	return cfg
}

// Numbers that were computed by hand.
func TestSpread(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name        string
		failures    []uint32 // of 100 RPCs
		mean, stdev float64
	}{
		{"all alike", []uint32{10, 10, 10}, 0.9, 0},
		// The mean of 1, 1, 1, 1, 0.5 is 0.9; squares 4 x 0.01 + 0.16 = 0.2; / 5 = 0.04.
		{"one of five", []uint32{0, 0, 0, 0, 50}, 0.9, 0.2},
		// The mean of 1 and 0 is 0.5; squares 2 x 0.25; / 2 = 0.25.
		{"two", []uint32{0, 100}, 0.5, 0.5},
		// 0.98, 0.96, 0.94: mean 0.96, squares 2 x 0.0004 / 3.
		{"three", []uint32{2, 4, 6}, 0.96, math.Sqrt(0.0008 / 3)},
	} {
		shares := make([]share, len(tc.failures))
		for i, n := range tc.failures {
			shares[i] = share{rpcs: 100, failures: n}
		}
		mean, stdev := spread(shares)
		if math.Abs(mean-tc.mean) > 1e-9 || math.Abs(stdev-tc.stdev) > 1e-9 {
			t.Errorf("%s: mean %v, standard deviation %v; want %v and %v", tc.name, mean, stdev, tc.mean, tc.stdev)
		}
	}
}

func TestBySuccessRate(t *testing.T) {
	t.Parallel()
	std := SuccessRate{StdevFactor: 1900, EnforcementPercentage: 100, MinimumHosts: 5, RequestVolume: 100}
	with := func(f func(*SuccessRate)) SuccessRate { c := std; f(&c); return c }
	for _, tc := range []struct {
		name   string
		c      SuccessRate
		failed []int // of 100 RPCs each; -1: no RPC at all
		want   string
	}{
		{"all well", std, []int{0, 0, 0, 0, 0}, ""},
		// Mean 0.9, deviation 0.2, least 0.9 - 0.38 = 0.52 > 0.5.
		{"one of five", std, []int{0, 0, 0, 0, 50}, "i4 "},
		// Least 0.9 - 2.1 x 0.2 = 0.48 < 0.5.
		{"a larger factor", with(func(c *SuccessRate) { c.StdevFactor = 2100 }), []int{0, 0, 0, 0, 50}, ""},
		{"too few instances", std, []int{0, 0, 0, 50}, ""},
		{"too few with RPCs", std, []int{0, 0, 0, 50, -1}, ""},
		{"too few RPCs", with(func(c *SuccessRate) { c.RequestVolume = 101 }), []int{0, 0, 0, 0, 50}, ""},
		{"nobody", with(func(c *SuccessRate) { c.MinimumHosts = 0; c.RequestVolume = 0 }), []int{-1, -1, -1}, ""},
		// All the same: rounding ejects nobody, not even with a factor of 0.
		{"all fail alike", with(func(c *SuccessRate) { c.StdevFactor = 0 }), []int{30, 30, 30, 30, 30, 30, 30}, ""},
		{"never enforced", with(func(c *SuccessRate) { c.EnforcementPercentage = 0 }), []int{0, 0, 0, 0, 50}, ""},
		// Two of ten at 0: mean 0.8, deviation 0.4, least 0.8 - 0.76 = 0.04 > 0.
		{"two of ten", std, []int{0, 0, 0, 100, 0, 0, 0, 0, 0, 100}, "i3 i9 "},
		// With two instances the rate of one is mean - deviation: a factor below 1 finds it.
		{"two", with(func(c *SuccessRate) { c.MinimumHosts = 2; c.StdevFactor = 900 }), []int{0, 60}, "i1 "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, bySuccessRate(tc.c), len(tc.failed))
			for i, n := range tc.failed {
				if n >= 0 {
					r.spread(i, 100-n, n)
				}
			}
			r.pass(10*time.Second - 1)
			r.want("")
			r.pass(1)
			r.d.Tick(r.now)
			r.want(tc.want)
		})
	}
}

func TestByFailurePercentage(t *testing.T) {
	t.Parallel()
	std := FailurePercentage{Threshold: 85, EnforcementPercentage: 100, MinimumHosts: 2, RequestVolume: 20}
	with := func(f func(*FailurePercentage)) FailurePercentage { c := std; f(&c); return c }
	for _, tc := range []struct {
		name   string
		c      FailurePercentage
		failed []int // of 20 RPCs each; -1: no RPC at all
		want   string
	}{
		{"all well", std, []int{0, 0}, ""},
		{"at the threshold", std, []int{0, 17}, ""}, // 85 %
		{"above", std, []int{0, 18}, "i1 "},         // 90 %
		{"both, of two", std, []int{20, 20}, "i0 "},
		{"too few instances", std, []int{20, -1}, ""},
		{"too few RPCs", with(func(c *FailurePercentage) { c.RequestVolume = 21 }), []int{0, 20}, ""},
		{"never enforced", with(func(c *FailurePercentage) { c.EnforcementPercentage = 0 }), []int{0, 20}, ""},
		{"any failure", with(func(c *FailurePercentage) { c.Threshold = 0 }), []int{0, 1, 0}, "i1 "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, byFailurePercentage(tc.c), len(tc.failed))
			for i, n := range tc.failed {
				if n >= 0 {
					r.spread(i, 20-n, n)
				}
			}
			r.pass(10 * time.Second)
			r.d.Tick(r.now)
			r.want(tc.want)
		})
	}
}

// Each ejection says by which numbers.
func TestNumbers(t *testing.T) {
	t.Parallel()
	r := newRig(t, bySuccessRate(SuccessRate{StdevFactor: 1900, EnforcementPercentage: 100, MinimumHosts: 5, RequestVolume: 100}), 5)
	for i := range 4 {
		r.spread(i, 100, 0)
	}
	r.spread(4, 50, 50)
	r.pass(10 * time.Second)
	r.d.Tick(r.now)
	want := "50.0 % of 100 RPCs succeeded, fewer than 52.0 % (the mean of 5 instances is 90.0 %, the standard deviation 20.0 %)"
	if st := r.instances[4].Status(); st.Why != want || st.Reason.String() != "success_rate" || !st.Until.Equal(r.now.Add(30*time.Second)) {
		t.Errorf("the status is %+v, want %q", st, want)
	}

	r = newRig(t, byFailurePercentage(FailurePercentage{Threshold: 85, EnforcementPercentage: 100, MinimumHosts: 2, RequestVolume: 20}), 2)
	r.spread(0, 40, 0)
	r.spread(1, 3, 37)
	r.pass(10 * time.Second)
	r.d.Tick(r.now)
	want = "92.5 % of 40 RPCs failed, more than 85 %"
	if st := r.instances[1].Status(); st.Why != want || st.Reason.String() != "failure_percentage" {
		t.Errorf("the status is %+v, want %q", st, want)
	}
}

// An interval counts what came in it alone.
func TestIntervalsAreSeparate(t *testing.T) {
	t.Parallel()
	r := newRig(t, byFailurePercentage(FailurePercentage{Threshold: 50, EnforcementPercentage: 100, MinimumHosts: 1, RequestVolume: 20}), 2)
	for range 10 {
		r.spread(1, 0, 19)
		r.pass(10 * time.Second)
		r.d.Tick(r.now)
	}
	r.want("")
	r.spread(1, 0, 20)
	r.pass(10 * time.Second)
	r.d.Tick(r.now)
	r.want("i1 ")
}

// So many of a hundred are ejected of those that should be.
func TestEnforcement(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		random uint64
		want   string
	}{
		{0, "i1 "},
		{math.MaxUint64 / 100 * 29, "i1 "},
		{math.MaxUint64 / 100 * 31, ""},
		{math.MaxUint64, ""},
	} {
		r := newRig(t, byFailurePercentage(FailurePercentage{Threshold: 50, EnforcementPercentage: 30, MinimumHosts: 1, RequestVolume: 1}), 3)
		r.random = tc.random
		r.spread(1, 0, 5)
		r.pass(10 * time.Second)
		r.d.Tick(r.now)
		r.want(tc.want)
	}
}

// An instance that cannot be used for another reason counts for nothing.
func TestUnfitIsNotCounted(t *testing.T) {
	t.Parallel()
	r := newRig(t, byFailurePercentage(FailurePercentage{Threshold: 50, EnforcementPercentage: 100, MinimumHosts: 2, RequestVolume: 1}), 2)
	r.spread(0, 5, 0)
	r.spread(1, 0, 5)
	r.instances[0].unfit = true
	r.pass(10 * time.Second)
	r.d.Tick(r.now)
	r.want("")

	// Nor does it make up the number that there must be.
	r = newRig(t, byFailurePercentage(FailurePercentage{Threshold: 50, EnforcementPercentage: 100, MinimumHosts: 3, RequestVolume: 1}), 3)
	for i := range 3 {
		r.spread(i, 5*min(i, 1), 5)
	}
	r.instances[2].unfit = true
	r.pass(10 * time.Second)
	r.d.Tick(r.now)
	r.want("")
}

// What is ejected already is not ejected again for the same RPCs.
func TestEjectedOnceForTheSame(t *testing.T) {
	t.Parallel()
	cfg := byFailurePercentage(FailurePercentage{Threshold: 50, EnforcementPercentage: 100, MinimumHosts: 1, RequestVolume: 1})
	cfg.ConsecutiveFailures, cfg.MaxPercent = 5, 100
	r := newRig(t, cfg, 4)
	r.rpcs(0, 0, 20)
	r.pass(10 * time.Second)
	r.d.Tick(r.now)
	r.want("i0 ")
	if n := r.instances[0].Status().Times; n != 1 || len(r.events) != 1 {
		t.Errorf("it was ejected %d times: %+v", n, r.events)
	}
}

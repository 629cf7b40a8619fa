package outlier

import "testing"

// What an RPC pays.
func BenchmarkRecord(b *testing.B) {
	for _, bm := range []struct {
		name   string
		failed func(n int) bool
	}{
		{"success", func(int) bool { return false }},
		{"every tenth fails", func(n int) bool { return n%10 == 0 }},
		{"all fail", func(int) bool { return true }},
	} {
		b.Run(bm.name, func(b *testing.B) {
			r := newRig(b, ejection(), 3)
			r.instances[0].ejected = true // so that nothing comes of it
			b.ReportAllocs()
			for n := 0; b.Loop(); n++ {
				r.instances[0].Record(r.now, bm.failed(n))
			}
		})
	}
}

// What the end of an interval costs with very many instances.
func BenchmarkSweep(b *testing.B) {
	cfg := bySuccessRate(SuccessRate{StdevFactor: 1900, EnforcementPercentage: 100, MinimumHosts: 5, RequestVolume: 10})
	r := newRig(b, cfg, 10_000)
	for b.Loop() {
		for i := range r.instances {
			r.instances[i].counts.Store(100*oneRPC | uint64(i%3))
		}
		r.now = r.now.Add(cfg.Interval)
		r.d.Tick(r.now)
	}
}

package admission

import (
	"testing"
	"time"
)

// What an RPC pays for its admission; it should be nanoseconds, and no memory.
func BenchmarkPass(b *testing.B) {
	for name, o := range map[string]Options{
		"bound":       {MaxRPCs: 1 << 20},
		"limit":       {MaxRPCs: 1 << 20, Concurrency: &Concurrency{InitialLimit: 1000}},
		"limit, shed": {MaxRPCs: 1 << 20, Concurrency: &Concurrency{InitialLimit: 1, MaxLimit: 1}},
		"bound, shed": {MaxRPCs: 1},
	} {
		b.Run(name, func(b *testing.B) {
			g := NewGate(o)
			var first Pass
			if o.MaxRPCs == 1 || o.Concurrency != nil && o.Concurrency.MaxLimit == 1 {
				g.Enter(&first, time.Now(), "/a.B/C", Whole)
			}
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				now := time.Now()
				for i := 0; pb.Next(); i++ {
					var p Pass
					if i%100 == 0 {
						now = time.Now()
					}
					if v := g.Enter(&p, now, "/a.B/C", Begun); v == Admitted || v == Early {
						p.More(now, Whole)
					}
					p.Answered(now, now)
					p.End(now, now, true)
					p.Exit()
				}
			})
		})
	}
}

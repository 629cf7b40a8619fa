package balance_test

import (
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"github.com/pillion-proxy/pillion/proxy/balance"
)

// instance is as small as one can be.
type instance struct {
	down     atomic.Bool
	inFlight atomic.Int64
}

func (i *instance) Usable() bool    { return !i.down.Load() }
func (i *instance) InFlight() int64 { return i.inFlight.Load() }

// BenchmarkPick is to show the same for 10 and for 10,000 instances. "live"
// has equal numbers of instances that are really read from, as where most of
// ten thousand have no connection; the rest of the difference in the others is
// the processor's cache.
func BenchmarkPick(b *testing.B) {
	for _, policy := range policies {
		for _, weights := range []string{"equal", "weighted", "skewed"} {
			if policy == balance.PickFirst && weights != "equal" {
				continue
			}
			for _, n := range []int{4, 10, 10_000} {
				for _, distinct := range []int{10, 10_000} {
					if distinct > n && distinct != 10 {
						continue
					}
					name := fmt.Sprintf("%v/%s/%d", policy, weights, n)
					if distinct < n {
						name += "/live"
					}
					b.Run(name, func(b *testing.B) { benchmarkPick(b, policy, weights, n, distinct) })
				}
			}
		}
	}
}

func benchmarkPick(b *testing.B, policy balance.Policy, kind string, n, distinct int) {
	pool := make([]instance, distinct)
	instances := make([]*instance, n)
	weights := make([]uint32, n)
	for i := range instances {
		instances[i] = &pool[i%distinct]
		switch kind {
		case "equal":
			weights[i] = 1
		case "weighted":
			weights[i] = uint32(1 + i%5)
		case "skewed": // what a schedule that walks the instances is worst at
			weights[i] = 1
			if i == 0 {
				weights[i] = uint32(n) * 10
			}
		}
	}
	p := balance.New(policy, instances, weights, rand.Uint64)
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := p.Pick(nil); !ok {
			b.Fatal("nothing is picked")
		}
	}
}

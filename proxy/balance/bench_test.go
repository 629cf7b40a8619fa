package balance_test

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/proxy/balance"
)

// instance is as small as one can be.
type instance struct {
	down     atomic.Bool
	inFlight atomic.Int64
	latency  balance.Latency
	key      string
}

func (i *instance) Usable() bool              { return !i.down.Load() }
func (i *instance) Reachable() bool           { return true }
func (i *instance) InFlight() int64           { return i.inFlight.Load() }
func (i *instance) Latency(now int64) float64 { return i.latency.At(now) }
func (i *instance) HashKey() string           { return i.key }

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
	now := time.Now()
	for i := range pool {
		pool[i].key = strconv.Itoa(i)
		pool[i].latency.Observe(now, time.Millisecond, false)
	}
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
	set := balance.Set[*instance]{Instances: instances, Weights: weights}
	p := balance.New(balance.Options{Policy: policy}, set, rand.Uint64, nil)
	q := balance.Query[*instance]{Now: now.UnixNano()}
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := p.Pick(q); !ok {
			b.Fatal("nothing is picked")
		}
	}
}

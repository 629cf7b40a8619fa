package upstream

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/pillion-proxy/pillion/proxy/balance"
)

// What nobody uses is not looked at, and what nobody configured never is.
func TestRefreshingStops(t *testing.T) {
	simulated(t, func(t *testing.T) {
		p := newPool(t, Options{}, &Policy{PanicPercent: 50}, endpoints("a", "b")...)
		// looked says whether somebody has looked since all were well.
		looked := func(after time.Duration) bool {
			p.block("a", "b")
			time.Sleep(after)
			synctest.Wait()
			v := p.cluster.table.Load().all
			was := v.panicking.Load()
			p.block()
			v.look()
			return was
		}
		if looked(time.Hour) {
			t.Error("a cluster without RPCs is looked at")
		}
		p.cluster.Pick(nil)
		if !looked(glance + time.Millisecond) {
			t.Error("a cluster with RPCs is not looked at")
		}
		time.Sleep(3 * glance)
		if looked(time.Hour) {
			t.Error("a cluster is looked at long after its last RPC")
		}
		p.cluster.Pick(nil)
		if !looked(glance + time.Millisecond) {
			t.Error("a cluster that has RPCs again is not looked at")
		}
		p.cluster.Configure(nil)
		p.cluster.Pick(nil)
		if looked(time.Hour) {
			t.Error("a cluster is looked at for which no policy asks for that")
		}
		p.cluster.Configure(&Policy{PanicPercent: 50})
		p.cluster.Pick(nil)
		if !looked(glance + time.Millisecond) {
			t.Error("a cluster is not looked at though its policy asks for that again")
		}
		p.cluster.Pick(nil)
		p.cluster.Close()
		if in, ok := p.cluster.Pick(nil); ok {
			t.Errorf("a closed cluster picks %v", in)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if p.cluster.refresh.state.Load() != refreshAsleep {
			t.Error("a closed cluster is looked at")
		}
	})
}

func TestHowOftenIsLooked(t *testing.T) {
	t.Parallel()
	reports := balance.ReportOptions{Update: 5 * time.Second}
	weighted := balance.Options{Policy: balance.WeightedRoundRobin}
	hashed := balance.Options{Policy: balance.Maglev}
	bounded := balance.Options{Policy: balance.Maglev, BoundedLoad: 1}
	slow := func(window time.Duration) *SlowStart { return &SlowStart{Window: window} }
	for _, c := range []struct {
		what          string
		policy        Policy
		period, weigh time.Duration
	}{
		{"nothing", Policy{}, 0, time.Second},
		{"ewma", Policy{Balance: balance.Options{Policy: balance.EWMA}}, 0, time.Second},
		{"reports", Policy{Balance: weighted, Reports: reports}, glance, 5 * time.Second},
		{"reports in haste", Policy{Balance: weighted}, glance, glance},
		{"reports and slow start", Policy{Balance: weighted, Reports: reports, SlowStart: slow(30 * time.Second)}, glance, 600 * time.Millisecond},
		{"a long slow start", Policy{SlowStart: slow(time.Hour)}, glance, time.Second},
		{"hashes do not start slowly", Policy{Balance: hashed, SlowStart: slow(time.Hour)}, 0, time.Second},
		{"bounds", Policy{Balance: bounded}, glance, time.Second},
		{"panic", Policy{PanicPercent: 1}, glance, time.Second},
		{"places", Policy{Locality: &Locality{}}, glance, time.Second},
	} {
		if got := c.policy.period(); got != c.period {
			t.Errorf("%s: looked at every %v, want %v", c.what, got, c.period)
		}
		if got := c.policy.weighEvery(); got != c.weigh {
			t.Errorf("%s: weighed every %v, want %v", c.what, got, c.weigh)
		}
	}
}

package upstream

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/proxy/balance"
)

// Shares worked out by hand, as Envoy does for two priorities.
func TestNearShare(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		near, far fitness
		over      float64
		want      float64 // percent
	}{
		{fitness{10, 10}, fitness{10, 10}, 1.4, 100},
		{fitness{8, 10}, fitness{10, 10}, 1.4, 100},
		{fitness{72, 100}, fitness{10, 10}, 1.4, 100},
		{fitness{71, 100}, fitness{10, 10}, 1.4, 99.4},
		{fitness{5, 10}, fitness{10, 10}, 1.4, 70},
		{fitness{1, 4}, fitness{10, 10}, 1.4, 35},
		{fitness{0, 10}, fitness{10, 10}, 1.4, 0},
		{fitness{5, 10}, fitness{10, 10}, 1, 50},
		{fitness{1, 4}, fitness{10, 10}, 4, 100},
		// The far ones cannot make up for all that is missing: 35 and 14 of 49.
		{fitness{1, 4}, fitness{1, 10}, 1.4, 100 * 35.0 / 49},
		{fitness{1, 4}, fitness{0, 10}, 1.4, 100},
		{fitness{0, 4}, fitness{0, 10}, 1.4, 100},
	} {
		if got := float64(nearShare(c.near, c.far, c.over)) * 100 / whole; math.Abs(got-c.want) > 0.01 {
			t.Errorf("near %v, far %v, %g times: %.2f %% go near, want %.2f %%", c.near, c.far, c.over, got, c.want)
		}
	}
}

func locality() *Policy {
	return &Policy{Locality: &Locality{Key: "zone", Overprovisioning: 1.4}}
}

// near returns the part of n RPCs that goes to instances whose names begin with "n".
func (p *pool) near(n int, hashed bool) float64 {
	near := 0
	for i := range n {
		ch := &Choice{Hash: uint64(i) * 0x9E3779B97F4A7C15, Hashed: hashed}
		if in, ok := p.cluster.Pick(ch); ok && strings.HasPrefix(in.Endpoint().ID, "n") {
			near++
		}
	}
	return float64(near) / float64(n)
}

// RPCs leave the zone as its instances become unwell, whatever policy picks among them.
func TestRPCsSpillOverByHealth(t *testing.T) {
	for policy := range balance.ByDefault {
		t.Run(policy.String(), func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				config := locality()
				config.Balance.Policy = policy
				p := newPool(t, Options{Meta: map[string]string{"zone": "x"}}, config,
					endpoints("n0 zone=x", "n1 zone=x", "n2 zone=x", "n3 zone=x", "f0 zone=y", "f1 zone=z", "f2", "f3 zone=y")...)
				for _, c := range []struct {
					blocked string
					want    float64
				}{
					{"", 1}, {"n0", 1}, {"n0 n1", 0.7}, {"n0 n1 n2", 0.35}, {"n0 n1 n2 n3", 0},
					{"n0 n1 n2 f0 f1 f2 f3", 1}, {"n0 n1 n2 f0 f1 f2", 0.5},
				} {
					p.block(strings.Fields(c.blocked)...)
					p.cluster.Pick(nil)
					time.Sleep(2 * glance)
					if got := p.near(4000, policy.Hashes()); math.Abs(got-c.want) > 0.04 {
						t.Errorf("with %q blocked, %.1f %% of RPCs go near, want %.0f %%", c.blocked, 100*got, 100*c.want)
					}
				}
			})
		})
	}
}

// In panic, all near instances count again.
func TestPanicStaysNear(t *testing.T) {
	t.Parallel()
	config := locality()
	config.PanicPercent = 50
	p := newPool(t, Options{Meta: map[string]string{"zone": "x"}}, config,
		endpoints("n0 zone=x", "n1 zone=x", "n2 zone=x", "f0 zone=y", "f1 zone=y")...)
	p.block("n0", "n1", "f0")
	if got := p.names(nil); got != "n0 n1 n2" {
		t.Errorf("with two of five well, %q are picked", got)
	}
	p.avoid("n0", "n1")
	p.cluster.tick()
	if got := p.names(nil); got != "f0 f1 n2" {
		t.Errorf("with two near ones that cannot be reached, %q are picked", got)
	}
}

// A hash goes the same way every time, on every sidecar of the zone.
func TestHashesSpillOverAlike(t *testing.T) {
	t.Parallel()
	config := locality()
	config.Balance.Policy = balance.Maglev
	var pools [2]*pool
	for i := range pools {
		pools[i] = newPool(t, Options{Meta: map[string]string{"zone": "x"}, Random: seeded(uint64(i))}, config,
			endpoints("n0 zone=x", "n1 zone=x", "f0 zone=y", "f1 zone=y")...)
		pools[i].block("n0")
	}
	for i := range 500 {
		ch := &Choice{Hash: uint64(i) * 0x9E3779B97F4A7C15, Hashed: true}
		a, _ := pools[0].cluster.Pick(ch)
		b, _ := pools[1].cluster.Pick(ch)
		again, _ := pools[0].cluster.Pick(ch)
		if a.String() != b.String() || a != again {
			t.Fatalf("hash %d goes to %v and %v here, and to %v from another sidecar", i, a, again, b)
		}
	}
}

// Where it is not known where this sidecar is, or nobody is near, all are alike.
func TestNobodyIsNear(t *testing.T) {
	t.Parallel()
	es := endpoints("a zone=y", "b zone=z", "c")
	for _, meta := range []map[string]string{nil, {"zone": ""}, {"zone": "x"}, {"region": "y"}} {
		p := newPool(t, Options{Meta: meta}, locality(), es...)
		if got := p.names(nil); got != "a b c" {
			t.Errorf("a sidecar with meta %v picks %q", meta, got)
		}
	}
	p := newPool(t, Options{Meta: map[string]string{"zone": "y"}}, locality(), es...)
	if got := p.names(nil); got != "a" {
		t.Errorf("a sidecar in zone y picks %q", got)
	}
	// A retry that has tried the near ones goes to the others.
	if got := p.names(&Choice{Skip: func(in *Instance) bool { return in.Endpoint().ID == "a" }}); got != "b c" {
		t.Errorf("a retry of a sidecar in zone y picks %q", got)
	}
}

// RPCs leave the zone where its instances have more under way than their share.
func TestRPCsSpillOverByLoad(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		what      string
		ratio     float64
		endpoints []string
		rpcs      int
		near      int // of those; give or take 2
	}{
		{"any load", 0, []string{"n0 zone=x", "f0 zone=y"}, 30, 30},
		{"twice that of the far one", 2, []string{"n0 zone=x", "f0 zone=y"}, 30, 20},
		{"as much as the far one", 1, []string{"n0 zone=x", "f0 zone=y"}, 30, 15},
		{"little load does not leave", 2, []string{"n0 zone=x", "n1 zone=x", "f0 zone=y"}, 4, 4},
		{"two near, four far, twice each", 2, []string{"n0 zone=x", "n1 zone=x", "f0 zone=y", "f1 zone=y", "f2 zone=y", "f3 zone=y"}, 80, 40},
		{"weights", 2, []string{"n0 zone=x *3", "f0 zone=y *1"}, 70, 60},
	} {
		config := locality()
		config.Locality.MaxLoadRatio = c.ratio
		p := newPool(t, Options{Meta: map[string]string{"zone": "x"}}, config, endpoints(c.endpoints...)...)
		near := 0
		for range c.rpcs {
			in, _ := p.cluster.Pick(nil)
			in.Begin(time.Time{})
			if strings.HasPrefix(in.Endpoint().ID, "n") {
				near++
			}
		}
		if near < c.near-2 || near > c.near+2 {
			t.Errorf("%s: %d of %d RPCs stay near, want %d", c.what, near, c.rpcs, c.near)
		}
	}
	// Only to those that can be used.
	config := locality()
	config.Locality.MaxLoadRatio = 1
	p := newPool(t, Options{Meta: map[string]string{"zone": "x"}}, config, endpoints("n0 zone=x", "f0 zone=y")...)
	p.block("f0")
	for range 20 {
		if in, ok := p.cluster.Pick(nil); !ok || in.Endpoint().ID != "n0" {
			t.Fatalf("picked %v, %v", in, ok)
		} else {
			in.Begin(time.Time{})
		}
	}
}

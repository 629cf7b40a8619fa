package canary

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"pgregory.net/rapid"

	"github.com/pillion-proxy/pillion/control/observe"
	"github.com/pillion-proxy/pillion/proto/configyaml"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

// allGuards has each guard there is.
func allGuards(falseAlarm float64) *guards {
	return compileGuards(configyaml.EffectiveCanary(&configv1.Canary{
		Name: "c", Service: service, Stable: "v1", Canary: "v2", Steps: []*configv1.CanaryStep{{Weight: 1000}},
		Guards: &configv1.CanaryGuards{
			FalseAlarm: &falseAlarm,
			Errors:     []*configv1.ErrorGuard{{Max: new(0.02), AgainstStable: new(1.0)}},
			Latency:    []*configv1.LatencyGuard{{AgainstStable: new(1.0), Tolerance: nil}},
			Ejections:  &configv1.EjectionGuard{},
		},
	}))
}

// add counts an RPC, as sidecars do.
func add(c *observe.Counts, code codes.Code, took time.Duration) {
	c.Codes[code]++
	c.Buckets[observe.BucketOf(took)]++
}

// alike draws a version's RPC: what both versions are like here.
type alike struct {
	r *rand.Rand
	// pauses is how many RPCs there are to one with which a pause begins.
	pauses int
	// pause is until which RPC an instance answers slowly.
	pause [2]int
	n     int
}

func (a *alike) rpc(version int) (codes.Code, time.Duration) {
	a.n++
	took := time.Duration(float64(5*time.Millisecond) * math.Exp(a.r.NormFloat64()*0.5))
	if a.r.IntN(a.pauses) == 0 {
		a.pause[version] = a.n + 40 // garbage is collected: some RPCs in a row are slow
	}
	if a.n < a.pause[version] {
		took += 80 * time.Millisecond
	}
	share := 0.005
	if a.n/5000%3 == 1 {
		share = 0.018 // a bad time of the database behind both
	}
	if a.r.Float64() < share {
		return codes.Unavailable, took
	}
	return codes.OK, took
}

// A canary that is just like the stable version is seldom rolled back, though all its
// guards are looked at all the time: seldom is what false_alarm says.
func TestFalseAlarms(t *testing.T) {
	t.Parallel()
	const (
		runs  = 200
		risk  = 0.05
		looks = 300
	)
	alarms := map[string]int{}
	total := 0
	for run := range runs {
		r := rand.New(rand.NewPCG(uint64(run), 5))
		weight := []uint32{100, 1000, 5000}[run%3]
		versions, e := &alike{r: r, pauses: 4000}, newEvidence(allGuards(risk))
		var now pair
		now.stable.Instances, now.canary.Instances = 9, 1
		at := time.Unix(0, 0)
		for range looks {
			for range 25 {
				if r.Uint32N(all) < weight {
					code, took := versions.rpc(1)
					add(&now.canary, code, took)
				} else {
					code, took := versions.rpc(0)
					add(&now.stable, code, took)
				}
			}
			if r.IntN(30) == 0 { // an instance is ejected, any of them
				if r.IntN(10) == 0 {
					now.canary.Ejections++
				} else {
					now.stable.Ejections++
				}
			}
			at = at.Add(25 * time.Millisecond)
			e.look(&now, weight, at)
			if f := e.found(e.guards.level(1)); f != nil {
				alarms[f.guard]++
				total++
				break
			}
		}
	}
	t.Logf("%d of %d: %v", total, runs, alarms)
	// The bound holds of the probability; three standard deviations are for chance.
	if bound := risk*runs + 3*math.Sqrt(risk*(1-risk)*runs); float64(total) > bound {
		t.Errorf("%d of %d canaries that are no worse were rolled back, %v, more than %v", total, runs, alarms, bound)
	}
}

// A really bad canary is found out after a few dozen of its RPCs, one that is a little bad
// after some hundred.
func TestHowManyRPCsItTakes(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		fails  float64
		slower float64
		most   uint64 // in nine of ten runs
		guard  string
		well   uint64 // so many RPCs of it had been well before
	}{
		"all fail":             {1, 1, 30, "errors/", 0},
		"half fail":            {0.5, 1, 30, "errors/", 0},
		"a tenth fails":        {0.1, 1, 250, "errors/", 0},
		"all fail after a day": {1, 1, 60, "errors/", 1_000_000},
		"a tenth after a day":  {0.1, 1, 600, "errors/", 1_000_000},
		"three times slow":     {0.005, 3, 1000, "latency/", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const tries = 50
			var took []uint64
			for run := range tries {
				r := rand.New(rand.NewPCG(uint64(run), 6))
				e := newEvidence(allGuards(0.01))
				versions := &alike{r: r, pauses: 20_000}
				var now pair
				for now.canary.RPCs() < tt.well { // in pieces, as reports are
					now.canary.Codes[codes.OK] += 995
					now.canary.Codes[codes.Internal] += 5
					now.canary.Buckets[80] += 1000
					now.stable.Codes[codes.OK] += 9 * 995
					now.stable.Codes[codes.Internal] += 9 * 5
					now.stable.Buckets[80] += 9 * 1000
					e.look(&now, 1000, time.Unix(0, 0))
				}
				before := now.canary.RPCs()
				for range 300_000 {
					if r.Uint32N(all) < 1000 {
						_, d := versions.rpc(1)
						code := codes.OK
						if r.Float64() < tt.fails {
							code = codes.Internal
						}
						add(&now.canary, code, time.Duration(float64(d)*tt.slower))
					} else {
						code, d := versions.rpc(0)
						add(&now.stable, code, d)
						continue
					}
					e.look(&now, 1000, time.Unix(0, int64(now.stable.RPCs())*int64(time.Millisecond)))
					if f := e.found(e.guards.level(pooledPart)); f != nil {
						took = append(took, now.canary.RPCs()-before)
						if !strings.HasPrefix(f.guard, tt.guard) {
							t.Errorf("%s found it", f.guard)
						}
						break
					}
				}
			}
			slices.Sort(took)
			if len(took) < tries {
				t.Fatalf("%d of them were found out", len(took))
			}
			t.Logf("median %d, nine of ten within %d", took[tries/2], took[tries*9/10])
			if took[tries*9/10] > tt.most {
				t.Errorf("it took %d RPCs of the canary's in nine of ten runs", took[tries*9/10])
			}
		})
	}
}

// Evidence that was kept and is gone on with is the same as if nobody had been elected
// anew in between.
func TestEvidenceRestored(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		one := newEvidence(allGuards(0.01))
		two := newEvidence(allGuards(0.01))
		for range 2 {
			var now pair
			versions := &alike{r: r, pauses: 20_000}
			for range rapid.IntRange(1, 2000).Draw(t, "rpcs") {
				code, took := versions.rpc(1)
				add(&now.canary, code, took)
				code, took = versions.rpc(0)
				add(&now.stable, code, took)
			}
			one.look(&now, 5000, time.Unix(0, 0))
			two.look(&now, 5000, time.Unix(0, 0))
			one.nextStep()
			kept := two.states()
			two = newEvidence(allGuards(0.01))
			if anew := two.restore(kept, one.before); anew != nil {
				t.Fatalf("%v begin anew", anew)
			}
			for i, s := range one.states() {
				other := two.states()[i]
				if math.Abs(s.GetP()-other.GetP()) > 1e-9 || len(s.GetEvidence()) == 0 {
					t.Fatalf("%v became %v", s, other)
				}
				for j := range s.GetEvidence() {
					if math.Abs(s.GetEvidence()[j]-other.GetEvidence()[j]) > 1e-6 {
						t.Fatalf("%v became %v", s, other)
					}
				}
			}
		}
	})
}

// So many sidecars' own judges find something by chance now and then, and more do not.
func TestChance(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		k, n       int
		risk, want float64
	}{
		{0, 5, 0.001, 1}, {1, 1, 0.001, 0.001}, {1, 5, 0.001, 0.00499001}, {2, 5, 0.001, 9.98e-06},
		{1, 1000, 0.001, 0.6323}, {2, 1, 0.001, 0},
	} {
		if got := chance(c.k, c.n, c.risk); math.Abs(got-c.want) > 0.001*c.want {
			t.Errorf("chance(%d, %d, %v) = %v, want %v", c.k, c.n, c.risk, got, c.want)
		}
	}
}

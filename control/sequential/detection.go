package sequential

import (
	"math"
	"math/rand/v2"
	"slices"

	"gonum.org/v1/gonum/stat/distuv"
)

const (
	// detectionRuns is how many canaries are played.
	detectionRuns = 1000
	// detectionFailures is how many failures one of them is played for at most.
	detectionFailures = 1500
	// detectionHopeless is how many of the first are missed when it is given up.
	detectionHopeless = 100
)

// Detection says how many of the canary's RPCs a guard needs to find that it fails too
// often. It plays 1,000 canaries with fixed random numbers to the very test that guards
// them, so what it says has a statistical error of a few percent, and is the same each time.
type Detection struct {
	// Share is the canary's of all RPCs, between 0 and 1.
	Share float64
	// Stable and Canary are the parts of RPCs that fail.
	Stable, Canary float64
	// Alpha is the guard's risk of a false alarm.
	Alpha float64
	// MinRPCs and MinFailures are how many of the canary's RPCs must have ended and
	// failed before the guard says anything.
	MinRPCs, MinFailures uint64
}

// Detected is how many of the canary's RPCs had ended when it was found.
type Detected struct {
	// Median is what half of the canaries were found by, Most what 90 % were found by; 0:
	// so many were not.
	Median, Most uint64
}

// Exceeds is for the guard that no more than a limit of RPCs fail.
func (d Detection) Exceeds(limit float64) (Detected, error) {
	return d.play(func(random *rand.Rand) (uint64, error) {
		test, err := NewExceeds(limit)
		if err != nil {
			return 0, err
		}
		rpcs, failures := uint64(0), uint64(0)
		for failures < detectionFailures {
			gap := geometric(random, d.Canary)
			test.Add(gap+1, 1)
			rpcs, failures = rpcs+gap+1, failures+1
			if rpcs >= d.MinRPCs && failures >= d.MinFailures && test.Rejects(d.Alpha) {
				return rpcs, nil
			}
		}
		return math.MaxUint64, nil
	})
}

// Labels is for the guard that RPCs fail at most ratio times as often as the stable
// version's.
func (d Detection) Labels(ratio float64) (Detected, error) {
	return d.play(func(random *rand.Rand) (uint64, error) {
		test, err := NewLabels(ratio)
		if err != nil {
			return 0, err
		}
		fails := d.Share*d.Canary + (1-d.Share)*d.Stable
		rpcs, failures := uint64(0), uint64(0)
		for range detectionFailures {
			gap := geometric(random, fails)
			fine := d.Share * (1 - d.Canary) / (1 - fails) // a good RPC is the canary's
			canary := uint64(distuv.Binomial{N: float64(gap), P: fine, Src: random}.Rand())
			c := LabelCounts{CanaryRPCs: canary, StableRPCs: gap - canary, Share: d.Share}
			if random.Float64() < d.Share*d.Canary/fails {
				c.CanaryRPCs, c.CanaryEvents = c.CanaryRPCs+1, 1
			} else {
				c.StableRPCs, c.StableEvents = c.StableRPCs+1, 1
			}
			test.Add(c)
			rpcs, failures = rpcs+c.CanaryRPCs, failures+c.CanaryEvents
			if rpcs >= d.MinRPCs && failures >= d.MinFailures && test.Rejects(d.Alpha) {
				return rpcs, nil
			}
		}
		return math.MaxUint64, nil
	})
}

// play plays all canaries.
func (d Detection) play(one func(*rand.Rand) (uint64, error)) (Detected, error) {
	random := rand.New(rand.NewPCG(7, 7))
	found := make([]uint64, detectionRuns)
	missed := 0
	for i := range found {
		n, err := one(random)
		if err != nil {
			return Detected{}, err
		}
		if found[i] = n; n == math.MaxUint64 {
			if missed++; missed > detectionRuns/2 || missed > i && missed >= detectionHopeless {
				return Detected{}, nil
			}
		}
	}
	slices.Sort(found)
	at := func(part float64) uint64 {
		n := found[int(math.Ceil(part*detectionRuns))-1]
		if n == math.MaxUint64 {
			return 0
		}
		return n
	}
	return Detected{Median: at(0.5), Most: at(0.9)}, nil
}

// geometric draws how many RPCs do not fail before one does.
func geometric(random *rand.Rand, p float64) uint64 {
	if p >= 1 {
		return 0
	}
	n := math.Log(1-random.Float64()) / math.Log1p(-p)
	if !(n < 1e12) {
		return 1e12
	}
	return uint64(n)
}

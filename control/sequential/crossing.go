package sequential

import (
	"math"

	"gonum.org/v1/gonum/integrate/quad"
	"gonum.org/v1/gonum/stat/distuv"
)

// crossingLooks is how often a planned comparison is looked at. More looks find
// differences a little sooner.
const crossingLooks = 50

// Crossing returns the chance that Means, tuned to the standard error at the last of so
// many looks, which are evenly spread over the units, has found a difference by each of
// them. drift is the true difference in standard errors at the last look; 0: there is
// none, and what is returned is the risk of a false alarm.
func Crossing(alpha, drift float64, looks int) []float64 {
	chance := make([]float64, looks)
	for k, undecided := range undecidedAt(alpha, looks) {
		chance[k] = max(0, 1-undecided.mass(drift))
		if k > 0 {
			chance[k] = max(chance[k], chance[k-1])
		}
	}
	return chance
}

// Drift returns how many of its standard errors at the end a difference must be for Means
// to find it, at the risk alpha, with a chance of power by then.
func Drift(alpha, power float64) float64 {
	last := undecidedAt(alpha, crossingLooks)[crossingLooks-1]
	// It lies a little below what the last look alone would need.
	low, high := 0.0, math.Sqrt(narrowest(alpha))+math.Max(0, distuv.UnitNormal.Quantile(power))
	for range 60 {
		if half := (low + high) / 2; 1-last.mass(half) < power {
			low = half
		} else {
			high = half
		}
	}
	return high
}

// FixedDrift is what Drift is for a single look at a time that was fixed before.
func FixedDrift(alpha, power float64) float64 {
	return distuv.UnitNormal.Quantile(1-alpha/2) + distuv.UnitNormal.Quantile(power)
}

// undecided is where comparisons are that have found nothing up to a look: at which
// places, with which probabilities if there is no difference.
type undecided struct {
	part          float64 // of all units
	place, chance []float64
}

// mass is how probable it is that nothing has been found, with a drift: the likelihood
// ratio of that is known at each place.
func (u undecided) mass(drift float64) float64 {
	sum := 0.0
	for i, x := range u.place {
		sum += u.chance[i] * math.Exp(drift*x-drift*drift/2*u.part)
	}
	return sum
}

// undecidedAt works all looks out. The difference in standard errors at the end, times
// the part of the units, is a Brownian motion (Jennison and Turnbull 1997). Its density
// between the boundaries is carried on from look to look by numerical integration, as by
// Armitage, McPherson and Rowe (1969).
func undecidedAt(alpha float64, looks int) []undecided {
	all := make([]undecided, looks)
	part := 1 / float64(looks) // of the units, between two looks
	// The places lie closer than a look's standard deviation.
	nodes := 32 + int(4*tunedEdge(alpha, 1)/math.Sqrt(part))
	location, weight := make([]float64, nodes), make([]float64, nodes)
	quad.Legendre{}.FixedLocations(location, weight, -1, 1)
	from := undecided{place: []float64{0}, chance: []float64{1}}
	for k := range all {
		to := undecided{part: float64(k+1) * part, place: make([]float64, nodes), chance: make([]float64, nodes)}
		edge := tunedEdge(alpha, to.part)
		for j := range nodes {
			x, density := location[j]*edge, 0.0
			for i, was := range from.place {
				if square := (x - was) * (x - was) / (2 * part); square < 40 { // else it is less than 1e-17
					density += from.chance[i] * math.Exp(-square)
				}
			}
			to.place[j], to.chance[j] = x, density*weight[j]*edge/math.Sqrt(2*math.Pi*part)
		}
		all[k], from = to, to
	}
	return all
}

// tunedEdge is the boundary of Means, tuned to the end, at a part of the units: for the
// difference times that part, in standard errors at the end.
func tunedEdge(alpha, part float64) float64 {
	m := Means{Scale: math.Sqrt(narrowest(alpha) - 1)}
	return m.boundary(alpha, 1/part) * part
}

package experiment

import "math"

// Units are kept whose hash, mixed, is below a threshold. The hash itself says which
// variant a unit is in, and must not say at the same time whether it is kept.

// everything is the threshold below which all units are. On the wire it is 0.
const everything = math.MaxUint64

// mix mixes a hash once more (the finalizer of SplitMix64, Steele et al. 2014).
func mix(hash uint64) uint64 {
	hash += 0x9E3779B97F4A7C15
	hash = (hash ^ hash>>30) * 0xBF58476D1CE4E5B9
	hash = (hash ^ hash>>27) * 0x94D049BB133111EB
	return hash ^ hash>>31
}

func thresholdOf(wire uint64) uint64 {
	if wire == 0 {
		return everything
	}
	return wire
}

func wireThreshold(t uint64) uint64 {
	if t == everything {
		return 0
	}
	return t
}

// sampled is the part of all units that is below a threshold.
func sampled(t uint64) float64 {
	if t == everything {
		return 1
	}
	return float64(t) / (1 << 64)
}

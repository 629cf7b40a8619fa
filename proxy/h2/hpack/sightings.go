package hpack

// sightings counts how often fields were seen lately. With three values per RPC that never repeat, a
// field is remembered for some 40 RPCs.
//
// It is a cache of several sets, each in order of use. (One slot for each hash would not do: of two
// stable fields that share it, each would throw the other out with every RPC, for ever.)
type sightings [sightingSets]sightingSet

const (
	sightingSets = 32
	sightingWays = 4
)

// sightingSet has the field seen last first. Each is a hash's upper 24 bits and a count of 8.
type sightingSet [sightingWays]uint32

// enough counts a field and reports whether it has now been seen n times. Then its count starts
// again, or fields too many for the table would take each other's place for ever.
func (s *sightings) enough(hash, n uint32) bool {
	const countMask = 0xff
	set := &s[hash%sightingSets]
	moved := hash &^ countMask
	for i, seen := range set {
		set[i], moved = moved, seen
		if (seen^hash)&^countMask == 0 {
			break
		}
	}
	if (moved^hash)&^countMask == 0 {
		set[0] = moved
	}
	set[0]++
	if set[0]&countMask < n {
		return false
	}
	set[0] &^= countMask
	return true
}

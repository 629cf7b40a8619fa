package upstream

import (
	"cmp"
	"maps"
	"slices"

	"github.com/cespare/xxhash/v2"
)

// subsetOf returns n of the instances, in their order (gRFC A68's random
// subsetting). Which follows from the salt, which is another on each sidecar, so
// that all together use all evenly; each instance that comes or goes changes one at
// most.
func subsetOf(instances []*Instance, n int, salt uint64) []*Instance {
	if n <= 0 || len(instances) <= n {
		return instances
	}
	type drawn struct {
		hash uint64
		at   int
	}
	all := make([]drawn, len(instances))
	var d xxhash.Digest
	for i, in := range instances {
		d.ResetWithSeed(salt)
		_, _ = d.WriteString(in.address)
		all[i] = drawn{d.Sum64(), i}
	}
	slices.SortFunc(all, func(a, b drawn) int {
		return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(instances[a.at].address, instances[b.at].address))
	})
	all = all[:n]
	slices.SortFunc(all, func(a, b drawn) int { return cmp.Compare(a.at, b.at) })
	subset := make([]*Instance, n)
	for i, d := range all {
		subset[i] = instances[d.at]
	}
	return subset
}

// withSubsetsOf adds the subsets of the policy before that p does not name: RPCs that
// came under that policy may still be sent there. Those that come now are not.
func (p *Policy) withSubsetsOf(before *Policy) *Policy {
	if before == nil {
		return p
	}
	both := *p
	both.Subsets = maps.Clone(before.Subsets)
	if both.Subsets == nil {
		return p
	}
	maps.Copy(both.Subsets, p.Subsets)
	if len(both.Subsets) == len(p.Subsets) {
		return p
	}
	return &both
}

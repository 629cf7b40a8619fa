package upstream

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/pillion-proxy/pillion/registry"
)

func addressed(n int) []*Instance {
	ins := make([]*Instance, n)
	for i := range ins {
		ins[i] = &Instance{address: fmt.Sprintf("10.0.%d.%d:50051", i/256, i%256)}
	}
	return ins
}

// Many sidecars together use all instances about as often: each is drawn by chance.
func TestSubsettingIsEven(t *testing.T) {
	t.Parallel()
	const instances, sidecars, size = 100, 2000, 20
	ins := addressed(instances)
	used := map[*Instance]int{}
	for salt := range uint64(sidecars) {
		subset := subsetOf(ins, size, salt+1)
		if len(subset) != size {
			t.Fatalf("a sidecar uses %d instances, want %d", len(subset), size)
		}
		for _, in := range subset {
			used[in]++
		}
	}
	want := float64(sidecars * size / instances)
	sigma := math.Sqrt(want * (1 - float64(size)/instances))
	for _, in := range ins {
		if off := math.Abs(float64(used[in]) - want); off > 5*sigma {
			t.Errorf("%s is used by %d of %d sidecars, want %.0f", in, used[in], sidecars, want)
		}
	}
}

// An instance that comes or goes changes one of a sidecar's at most, and the order of
// the rest stays.
func TestSubsettingChangesLittle(t *testing.T) {
	t.Parallel()
	ins := addressed(50)
	for salt := range uint64(50) {
		before := subsetOf(ins, 10, salt+1)
		if again := subsetOf(ins, 10, salt+1); !slices.Equal(again, before) {
			t.Fatal("the same salt makes another subset")
		}
		for gone := range ins {
			rest := slices.Delete(slices.Clone(ins), gone, gone+1)
			after := subsetOf(rest, 10, salt+1)
			lost := 0
			for _, in := range before {
				if !slices.Contains(after, in) {
					lost++
				}
			}
			if wants := slices.Contains(before, ins[gone]); lost > 1 || (lost == 1) != wants {
				t.Fatalf("%d of 10 instances change as %s goes", lost, ins[gone])
			}
			if !slices.IsSortedFunc(after, func(a, b *Instance) int { return slices.Index(rest, a) - slices.Index(rest, b) }) {
				t.Fatal("the instances' order changes")
			}
		}
	}
}

// Each subset has as many, near and far each; fewer are all used.
func TestSubsettingOfEachKind(t *testing.T) {
	t.Parallel()
	var es []registry.Endpoint
	for i := range 40 {
		es = append(es, endpoint(fmt.Sprintf("i%d zone=%c version=v%d", i, "xy"[i%2], i/30+1)))
	}
	p := newPool(t, Options{Meta: map[string]string{"zone": "x"}, Salt: 7}, &Policy{
		SubsetSize: 8,
		Locality:   &Locality{Key: "zone", Overprovisioning: 1.4},
		Subsets:    map[string]Subset{"v2": {Meta: map[string]string{"version": "v2"}}},
	}, es...)
	for _, c := range []struct {
		subset    string
		near, far int
	}{{"", 8, 8}, {"v2", 5, 5}} {
		v := p.cluster.table.Load().view(c.subset)
		if len(v.near.instances) != c.near || len(v.far.instances) != c.far {
			t.Errorf("subset %q: %d near and %d far instances are used, want %d and %d", c.subset,
				len(v.near.instances), len(v.far.instances), c.near, c.far)
		}
	}
	if got := len(p.pick(nil, 1000)); got != 8 {
		t.Errorf("%d instances get RPCs, want 8", got)
	}
}

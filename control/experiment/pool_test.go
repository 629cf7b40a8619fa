package experiment

import (
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
	"github.com/pillion-proxy/pillion/proxy/policy"
)

var (
	halves     = []int{5000, 5000}
	assignment = policy.NewAssignment(halves)
)

// said is what a sidecar says of units.
func said(epoch uint64, units ...*meshv1.UnitCounts) *meshv1.ExperimentCounts {
	return &meshv1.ExperimentCounts{Name: "checkout", Run: 1, Epoch: epoch, Units: units}
}

// counts is what was counted of a unit, in the variant that its hash says.
func counts(unit uint64, cells ...cell) *meshv1.UnitCounts {
	u := &meshv1.UnitCounts{Unit: unit, Variant: uint32(assignment.Group(unit))}
	for _, c := range cells {
		u.Measures = append(u.Measures, &meshv1.MeasureCounts{Count: c.count, Sum: c.sum})
	}
	return u
}

// However RPCs are divided among sidecars, in however many reports of which some come
// twice, the moments are those of the units' own values.
func TestPooledMomentsAreThoseOfUnits(t *testing.T) {
	t.Parallel()
	measures := compileMeasures(document(t, "all", allMeasures))
	rapid.Check(t, func(t *rapid.T) {
		random := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		p := newPool(measures, halves, 1000)
		units := make([]uint64, rapid.IntRange(1, 200).Draw(t, "units"))
		for i := range units {
			units[i] = random.Uint64() | 1
		}
		sidecars := rapid.IntRange(1, 6).Draw(t, "sidecars")
		cumulative := make([]map[uint64][]cell, sidecars)
		raw := map[uint64][]cell{}
		for s := range sidecars {
			cumulative[s] = map[uint64][]cell{}
		}
		for range rapid.IntRange(1, 20).Draw(t, "reports") {
			s := random.IntN(sidecars)
			var list []*meshv1.UnitCounts
			for range random.IntN(50) {
				unit := units[random.IntN(len(units))]
				one := []cell{{1, float64(random.IntN(2))}, {1, random.Float64()}, {uint64(random.IntN(2)), 0}, {0, 0}}
				one[2].sum = float64(one[2].count) * (100*random.Float64() - 50)
				for _, of := range []map[uint64][]cell{cumulative[s], raw} {
					if of[unit] == nil {
						of[unit] = make([]cell, 4)
					}
					for i := range one {
						of[unit][i].count += one[i].count
						of[unit][i].sum += one[i].sum
					}
				}
				list = append(list, counts(unit, cumulative[s][unit]...))
			}
			for range 1 + random.IntN(2) {
				if err := p.take("x", uint64(s), said(uint64(s)+1, list...)); err != nil {
					t.Fatal(err)
				}
			}
		}
		values, sizes, crossed := p.units()
		want := map[[2]int][]float64{}
		var wantSizes [2]uint64
		for unit, cells := range raw {
			v := assignment.Group(unit)
			wantSizes[v]++
			for i, c := range cells {
				if i == 2 {
					want[[2]int{v, i}] = append(want[[2]int{v, i}], c.sum) // a sum is 0 of units without
				} else if c.count > 0 {
					want[[2]int{v, i}] = append(want[[2]int{v, i}], c.sum/float64(c.count))
				}
			}
		}
		for v := range 2 {
			if sizes[v] != wantSizes[v] || crossed != 0 {
				t.Fatalf("variant %d has %d units, not %d; %d crossed", v, sizes[v], wantSizes[v], crossed)
			}
			for i := range measures {
				mean, variance := moments(values[v][i])
				wantMean, wantVariance := plainMoments(want[[2]int{v, i}])
				if len(values[v][i]) != len(want[[2]int{v, i}]) || math.Abs(mean-wantMean) > 1e-9*(1+math.Abs(wantMean)) || math.Abs(variance-wantVariance) > 1e-7*(1+wantVariance) {
					t.Fatalf("variant %d, measure %d: %v ± %v of %d, not %v ± %v of %d", v, i, mean, variance, len(values[v][i]), wantMean, wantVariance, len(want[[2]int{v, i}]))
				}
			}
		}
	})
}

// plainMoments computes them as a textbook does.
func plainMoments(values []float64) (mean, variance float64) {
	if len(values) == 0 {
		return 0, 0
	}
	for _, x := range values {
		mean += x / float64(len(values))
	}
	if len(values) == 1 {
		return mean, 0
	}
	for _, x := range values {
		variance += (x - mean) * (x - mean) / float64(len(values)-1)
	}
	return mean, variance
}

// Who says what cannot be counts for nothing, with all that he said before, and cannot
// touch what others say.
func TestSidecarsThatLie(t *testing.T) {
	t.Parallel()
	e := document(t, "checkout")
	good := cell{2, 1}
	for name, c := range map[string]struct {
		lie  []*meshv1.UnitCounts
		want error
	}{
		"not a number":       {[]*meshv1.UnitCounts{counts(3, good, cell{1, math.NaN()})}, errImpossible},
		"infinite":           {[]*meshv1.UnitCounts{counts(3, good, cell{1, math.Inf(1)})}, errImpossible},
		"negative latency":   {[]*meshv1.UnitCounts{counts(3, good, cell{1, -1})}, errImpossible},
		"more than 100 %":    {[]*meshv1.UnitCounts{counts(3, cell{2, 3}, good)}, errImpossible},
		"beyond the cap":     {[]*meshv1.UnitCounts{counts(3, good, cell{1, 61})}, errImpossible},
		"too many RPCs":      {[]*meshv1.UnitCounts{counts(3, cell{math.MaxUint64, 1}, good)}, errImpossible},
		"a measure missing":  {[]*meshv1.UnitCounts{counts(3, good)}, errImpossible},
		"a measure more":     {[]*meshv1.UnitCounts{counts(3, good, good, good)}, errImpossible},
		"no such variant":    {[]*meshv1.UnitCounts{{Unit: 3, Variant: 2, Measures: counts(3, good, good).Measures}}, errImpossible},
		"no unit":            {[]*meshv1.UnitCounts{counts(0, good, good)}, errImpossible},
		"crossed and more":   {[]*meshv1.UnitCounts{{Unit: 3, Crossed: true, Measures: counts(3, good, good).Measures}}, errImpossible},
		"too many units":     {manyUnits(20_001, false), errTooMany},
		"too many crossings": {manyUnits(20_001, true), errTooMany},
	} {
		p := newPool(compileMeasures(e), halves, int(e.GetMaxUnits()))
		honest := []*meshv1.UnitCounts{counts(1, good, good), counts(1<<63+1, good, good)}
		if err := p.take("honest", 1, said(11, honest...)); err != nil {
			t.Fatal(err)
		}
		before, _, _ := p.units()
		if err := p.take("liar", 2, said(22, counts(5, good, good))); err != nil {
			t.Fatal(err)
		}
		if err := p.take("liar", 2, said(22, c.lie...)); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if err := p.take("liar", 2, said(22, counts(6, good, good))); err != nil {
			t.Errorf("%s: complained of twice: %v", name, err)
		}
		after, _, crossed := p.units()
		if !slices.EqualFunc(before, after, func(a, b [][]float64) bool { return slices.EqualFunc(a, b, slices.Equal) }) || crossed != 0 || p.threshold != everything || p.pooled != 2 {
			t.Errorf("%s: %v becomes %v, %d crossed", name, before, after, crossed)
		}
	}
}

func manyUnits(n int, crossed bool) []*meshv1.UnitCounts {
	list := make([]*meshv1.UnitCounts, n)
	for i := range list {
		if list[i] = counts(uint64(i)+1, cell{1, 1}, cell{1, 1}); crossed {
			list[i].Measures, list[i].Crossed = nil, true
		}
	}
	return list
}

// A unit that a sidecar has elsewhere than its hash says counts as the others say, and is
// told of.
func TestUnitsElsewhereThanTheirHashSays(t *testing.T) {
	t.Parallel()
	p := newPool(compileMeasures(document(t, "checkout")), halves, 100)
	good := cell{2, 1}
	astray := counts(1, good, good)
	astray.Variant = 1 - astray.Variant
	for i, u := range []*meshv1.UnitCounts{counts(1, good, good), astray, {Unit: 7, Crossed: true}} {
		if err := p.take("x", uint64(i), said(uint64(i)+1, u)); err != nil {
			t.Fatal(err)
		}
	}
	values, sizes, crossed := p.units()
	if crossed != 2 || sizes[0]+sizes[1] != 1 || !slices.Equal(slices.Concat(values[0][0], values[1][0]), []float64{0.5}) {
		t.Errorf("%v of %v units, %d crossed", values, sizes, crossed)
	}
}

// A process cannot begin to count ever again, and one cannot have all keep fewer units just
// by saying so.
func TestThresholdsOfOthers(t *testing.T) {
	t.Parallel()
	fresh := func() *pool { return newPool(compileMeasures(document(t, "checkout")), halves, 1600) }
	low := func(epoch, threshold uint64, units int) *meshv1.ExperimentCounts {
		c := said(epoch)
		c.Threshold = threshold
		for unit := uint64(1); len(c.Units) < units; unit++ {
			if mix(unit) < threshold {
				c.Units = append(c.Units, counts(unit, cell{1, 1}, cell{1, 1}))
			}
		}
		return c
	}
	honest := func(p *pool) {
		for i := range uint64(4) {
			if err := p.take("honest", i+1, said(i+1, counts(i+1, cell{1, 1}, cell{1, 1}))); err != nil {
				t.Fatal(err)
			}
		}
	}
	p := fresh()
	honest(p)
	if err := p.take("liar", 9, low(9, 1<<40, 0)); err != nil || p.threshold != everything {
		t.Errorf("%v; the threshold is %x by who has shown no unit", err, p.threshold)
	}
	for epoch := uint64(10); epoch < 30; epoch++ {
		want := error(nil)
		if epoch == 9+maxEpochs {
			want = errEpochs // and nothing of those that follow
		}
		if err := p.take("liar", 9, said(epoch)); !errors.Is(err, want) || err != nil && want == nil {
			t.Errorf("%v of epoch %d", err, epoch)
		}
	}
	if n := len(p.sources); n != 4+maxEpochs {
		t.Errorf("%d sources are known", n)
	}
	p = fresh()
	honest(p)
	if err := p.take("busy", 9, low(9, 1<<62, 100)); err != nil || p.threshold != 1<<62 {
		t.Errorf("%v; the threshold is %x by who has many units", err, p.threshold)
	}
	// Who is elected anew learns from all what they came to.
	p = fresh()
	for i := range uint64(3) {
		if err := p.take("x", i+1, low(i+1, 1<<60, 1)); err != nil {
			t.Fatal(err)
		}
	}
	if p.threshold != 1<<60 {
		t.Errorf("the threshold is %x, though all have another", p.threshold)
	}
}

// What all have together is bounded as well.
func TestPoolIsBounded(t *testing.T) {
	t.Parallel()
	p := newPool(compileMeasures(document(t, "checkout")), halves, 1000)
	p.maxPooled = 2500
	for i := range uint64(10) {
		if err := p.take("x", i+1, said(i+1, manyUnits(1000, false)...)); err != nil {
			t.Fatal(err)
		}
		if p.pooled > 2500 {
			t.Fatalf("%d units are kept", p.pooled)
		}
	}
	if part := sampled(p.threshold); part < 0.1 || part > 0.25 {
		t.Errorf("%v is sampled", part)
	}
}

// What it costs the elected sidecar to take the units of a hundred sidecars, and to add
// them up.
func BenchmarkPool(b *testing.B) {
	const sidecars, each = 100, 2000
	measures := compileMeasures(document(b, "checkout"))
	reports := make([]*meshv1.ExperimentCounts, sidecars)
	for i := range reports {
		reports[i] = said(uint64(i)+1, manyUnits(each, false)...)
	}
	var p *pool
	b.Run("take", func(b *testing.B) {
		for b.Loop() {
			p = newPool(measures, halves, 20_000)
			for i, r := range reports {
				if err := p.take("x", uint64(i), r); err != nil {
					b.Fatal(err)
				}
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/sidecars/each, "ns/unit")
	})
	b.Run("add up", func(b *testing.B) {
		for b.Loop() {
			p.units()
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/sidecars/each, "ns/unit")
	})
}

// Whatever is said, the pool keeps its bounds, and its results can be computed.
func FuzzTake(f *testing.F) {
	seed, _ := proto.Marshal(said(1, counts(1, cell{2, 1}, cell{2, 1})))
	f.Add(seed, uint64(1))
	measures := compileMeasures(document(f, "checkout"))
	f.Fuzz(func(t *testing.T, data []byte, process uint64) {
		c := &meshv1.ExperimentCounts{}
		if proto.Unmarshal(data, c) != nil {
			return
		}
		p := newPool(measures, halves, 100)
		_ = p.take("honest", 1, said(1, counts(1, cell{2, 1}, cell{2, 1})))
		_ = p.take("other", process, c)
		values, _, _ := p.units()
		for m := range measures {
			for _, r := range measureResults(&measures[m], [][]float64{values[0][m], values[1][m]}) {
				if math.IsNaN(r.GetMean()) || math.IsNaN(r.GetVariance()) || r.GetVariance() < 0 || r.GetUnits() > 200 {
					t.Errorf("%v", r)
				}
			}
		}
	})
}

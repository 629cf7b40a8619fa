package main

import (
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestMedian(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		values []float64
		want   float64
	}{
		{[]float64{3}, 3},
		{[]float64{3, 1}, 2},
		{[]float64{9, 1, 5}, 5},
		{[]float64{4, 1, 3, 2}, 2.5},
	} {
		if got := median(c.values); got != c.want {
			t.Errorf("median of %v is %v, want %v", c.values, got, c.want)
		}
	}
	if got := median(nil); !math.IsNaN(got) {
		t.Errorf("median of nothing is %v", got)
	}
}

func TestMedianLeavesItsArgumentAlone(t *testing.T) {
	t.Parallel()
	values := []float64{3, 1, 2}
	median(values)
	if !slices.Equal(values, []float64{3, 1, 2}) {
		t.Errorf("the series is now %v: its rounds are mixed up", values)
	}
}

func TestPercentileIsNearestRank(t *testing.T) {
	t.Parallel()
	hundred := make([]int, 100)
	for i := range hundred {
		hundred[i] = i + 1
	}
	for p, want := range map[float64]int{0: 1, 1: 1, 50: 50, 99: 99, 99.5: 100, 100: 100} {
		if got := percentile(hundred, p); got != want {
			t.Errorf("percentile %v is %v, want %v", p, got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOfN(rapid.IntRange(0, 50), 1, 60).Draw(t, "values")
		slices.Sort(values)
		p := rapid.Float64Range(1, 100).Draw(t, "p")
		got := percentile(values, p)
		below, upTo := 0, 0
		for _, v := range values {
			if v < got {
				below++
			}
			if v <= got {
				upTo++
			}
		}
		rank := p / 100 * float64(len(values))
		if float64(upTo) < rank || float64(below) >= rank {
			t.Fatalf("percentile %v of %v is %v: %d are below it, %d do not exceed it", p, values, got, below, upTo)
		}
	})
}

func TestCompare(t *testing.T) {
	t.Parallel()
	r, ok := compare([]float64{1, 9, 4}, []float64{2, 10, 16})
	if want := (ratio{ofMedians: 0.4, perRound: 0.5, low: 0.25, high: 0.9}); !ok || r != want {
		t.Errorf("compared to %+v, %v; want %+v", r, ok, want)
	}
	for name, pair := range map[string][2][]float64{
		"nothing":          {nil, nil},
		"another number":   {{1, 2}, {1}},
		"a division by 0":  {{1, 2}, {1, 0}},
		"only the one":     {{1}, nil},
		"only the divisor": {nil, {1}},
	} {
		if _, ok := compare(pair[0], pair[1]); ok {
			t.Errorf("%s can be compared", name)
		}
	}
}

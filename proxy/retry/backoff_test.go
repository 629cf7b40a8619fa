package retry

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestBackoffGrowsToItsLimit(t *testing.T) {
	t.Parallel()
	p := Policy{InitialBackoff: 10 * time.Millisecond, MaxBackoff: 50 * time.Millisecond, Multiplier: 2}
	for _, c := range []struct {
		n      int
		random uint64
		want   time.Duration
	}{
		{0, 1 << 63, 10 * time.Millisecond},
		{0, 0, 8 * time.Millisecond},
		{0, math.MaxUint64, 12 * time.Millisecond},
		{1, 1 << 63, 20 * time.Millisecond},
		{2, 1 << 63, 40 * time.Millisecond},
		{3, 1 << 63, 50 * time.Millisecond},
		{3, math.MaxUint64, 60 * time.Millisecond}, // the factor comes last
		{1000000, 1 << 63, 50 * time.Millisecond},
	} {
		if got := p.Backoff(c.n, func() uint64 { return c.random }); (got - c.want).Abs() > time.Microsecond {
			t.Errorf("wait after %d retries, random %x: %v, want %v", c.n, c.random, got, c.want)
		}
	}
}

// As gRFC A6 says it, in its own words.
func TestBackoffIsThatOfA6(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := Policy{
			InitialBackoff: time.Duration(rapid.Int64Range(int64(time.Millisecond), int64(time.Hour)).Draw(t, "initial")),
			MaxBackoff:     time.Duration(rapid.Int64Range(int64(time.Millisecond), int64(time.Hour)).Draw(t, "max")),
			Multiplier:     rapid.Float64Range(1, 10).Draw(t, "multiplier"),
		}
		n := rapid.IntRange(0, 9).Draw(t, "n")
		want := math.Min(float64(p.InitialBackoff)*math.Pow(p.Multiplier, float64(n)), float64(p.MaxBackoff))
		random := rapid.Uint64().Draw(t, "random")
		got := float64(p.Backoff(n, func() uint64 { return random }))
		if got < want*0.8-1e3 || got > want*1.2+1e3 {
			t.Fatalf("%v is not within 0.8 and 1.2 of %v", time.Duration(got), time.Duration(want))
		}
	})
}

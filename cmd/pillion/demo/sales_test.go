package demo

import (
	"context"
	"math"
	"strconv"
	"testing"

	"google.golang.org/grpc/metadata"
)

// Users buy for what the story says, and more where the greeting is green alone.
func TestSale(t *testing.T) {
	t.Parallel()
	const n = 40_000 // the mean's standard error is half a percent of it
	for variant, want := range map[string]float64{"": 3, "blue": 3, sellsMore: 4.5} {
		ctx := context.Background()
		if variant != "" {
			ctx = metadata.NewIncomingContext(ctx, metadata.Pairs(variantKey, variant))
		}
		sum := 0.0
		for range n {
			revenue, err := strconv.ParseFloat(sale(ctx, 0.5).Get(measureKey)[0], 64)
			if err != nil {
				t.Fatal(err)
			}
			sum += revenue
		}
		if mean := sum / n; math.Abs(mean/want-1) > 0.03 {
			t.Errorf("users whose variant is %q buy for %v, want %v", variant, mean, want)
		}
	}
}

package sequential

import (
	"cmp"
	"math"
	"slices"
)

// Holm returns p-values that are corrected for there being several (Holm 1979): to claim
// those that are at most alpha has a risk of at most alpha that any of the claims is
// false, however the tests hang together. If each may be looked at any time, so may they.
func Holm(p []float64) []float64 {
	order := make([]int, len(p))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(p[a], p[b]) })
	corrected := make([]float64, len(p))
	least := 0.0
	for rank, i := range order {
		least = math.Min(1, math.Max(least, p[i]*float64(len(p)-rank)))
		corrected[i] = least
	}
	return corrected
}

// Bonferroni returns the risk that each of several intervals may have for all of them to
// hold at once at the risk alpha.
func Bonferroni(alpha float64, intervals int) float64 {
	return alpha / float64(max(intervals, 1))
}

package telemetry

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"pgregory.net/rapid"
)

// TestHistogramAgreesWithPrometheus counts the same durations here and in
// Prometheus's own histogram.
func TestHistogramAgreesWithPrometheus(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		seconds := make([]float64, len(bounds))
		for i, bound := range bounds {
			seconds[i] = bound.Seconds()
		}
		theirs := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "x", Buckets: seconds})
		var ours durations
		durationsDrawn := rapid.SliceOf(rapid.OneOf(
			rapid.SampledFrom(bounds[:]),
			rapid.Custom(func(t *rapid.T) time.Duration {
				return time.Duration(rapid.Int64Range(0, int64(time.Minute)).Draw(t, "ns"))
			}),
		)).Draw(t, "durations")
		for _, d := range durationsDrawn {
			theirs.Observe(d.Seconds())
			ours.buckets[bucketOf(d)].Add(1)
		}
		var want dto.Metric
		if err := theirs.Write(&want); err != nil {
			t.Fatal(err)
		}
		count, buckets := ours.snapshot()
		if count != want.GetHistogram().GetSampleCount() {
			t.Fatalf("%d, want %d", count, want.GetHistogram().GetSampleCount())
		}
		for _, b := range want.GetHistogram().GetBucket() {
			if got := buckets[b.GetUpperBound()]; got != b.GetCumulativeCount() {
				t.Errorf("le %v: %d, want %d", b.GetUpperBound(), got, b.GetCumulativeCount())
			}
		}
	})
}

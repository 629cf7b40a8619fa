package experiment

import (
	"math"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"pgregory.net/rapid"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
)

// allMeasures is success, latency and two that the app reports.
func allMeasures(e *configv1.Experiment) {
	e.Measures = []*configv1.Measure{
		{Of: &configv1.Measure_Success{Success: &configv1.SuccessMeasure{}}},
		{Of: &configv1.Measure_Latency{Latency: &configv1.LatencyMeasure{Cap: durationpb.New(2 * time.Second)}}},
		{Of: &configv1.Measure_Reported{Reported: "revenue"}, PerUnit: "sum", MaxValue: proto.Float64(1000)},
		{Of: &configv1.Measure_Reported{Reported: "score"}},
	}
}

func TestValuesOfMeasures(t *testing.T) {
	t.Parallel()
	measures := compileMeasures(document(t, "all", allMeasures))
	none := math.Inf(-1)
	for _, c := range []struct {
		o    telemetry.Outcome
		want [4]float64
	}{
		{telemetry.Outcome{Took: time.Second}, [4]float64{1, 1, none, none}},
		{telemetry.Outcome{Code: codes.Unavailable, Took: time.Hour}, [4]float64{0, 2, none, none}},
		{telemetry.Outcome{Code: codes.NotFound, Took: -1}, [4]float64{1, 0, none, none}},
		{telemetry.Outcome{Code: 4711}, [4]float64{0, 0, none, none}}, // UNKNOWN, by gRPC's libraries
		{telemetry.Outcome{Measures: []telemetry.Measure{{Name: "revenue", Value: -5}, {Name: "score", Value: 1e300}}}, [4]float64{1, 0, -5, 1e12}},
		{telemetry.Outcome{Measures: []telemetry.Measure{{Name: "revenue", Value: math.Inf(-1)}, {Name: "score", Value: math.NaN()}}}, [4]float64{1, 0, -1000, none}},
		{telemetry.Outcome{Measures: []telemetry.Measure{{Name: "other", Value: 1}, {Name: "score", Value: 2}, {Name: "score", Value: 3}}}, [4]float64{1, 0, none, 2}},
	} {
		for i := range measures {
			got, ok := measures[i].value(&c.o)
			if !ok {
				got = none
			}
			if got != c.want[i] {
				t.Errorf("%+v: measure %d is %v, not %v", c.o, i, got, c.want[i])
			}
		}
	}
}

// What RPCs have come to is always believed, and what they cannot have come to never is.
func TestWhatCellsCanBe(t *testing.T) {
	t.Parallel()
	measures := compileMeasures(document(t, "all", allMeasures))
	rapid.Check(t, func(t *rapid.T) {
		m := &measures[rapid.IntRange(0, 3).Draw(t, "measure")]
		var c cell
		for range rapid.IntRange(0, 50).Draw(t, "rpcs") {
			o := telemetry.Outcome{
				Code: codes.Code(rapid.Uint32Range(0, 20).Draw(t, "code")), Took: time.Duration(rapid.Int64().Draw(t, "took")),
				Measures: []telemetry.Measure{{Name: "revenue", Value: rapid.Float64().Draw(t, "revenue")}, {Name: "score", Value: rapid.Float64().Draw(t, "score")}},
			}
			if v, ok := m.value(&o); ok {
				c.count++
				c.sum += v
			}
		}
		if !m.good(c) {
			t.Fatalf("%+v is not believed", c)
		}
		beyond := m.most*float64(c.count)*1.001 + 1
		for _, wrong := range []cell{
			{c.count, math.NaN()}, {c.count, math.Inf(1)}, {c.count, math.Inf(-1)}, {c.count, beyond}, {c.count, -beyond}, {math.MaxUint64, c.sum}, {0, 1},
		} {
			if m.good(wrong) {
				t.Fatalf("%+v is believed", wrong)
			}
		}
	})
}

// Histograms end where nothing can be beyond, also where all units are alike.
func TestHistogramsHaveOnlyWhatCanBe(t *testing.T) {
	t.Parallel()
	measures := compileMeasures(document(t, "all", func(e *configv1.Experiment) {
		e.Measures = []*configv1.Measure{
			{Of: &configv1.Measure_Success{Success: &configv1.SuccessMeasure{}}},
			{Name: "successes", Of: &configv1.Measure_Success{Success: &configv1.SuccessMeasure{}}, PerUnit: "sum"},
			{Of: &configv1.Measure_Latency{Latency: &configv1.LatencyMeasure{Cap: durationpb.New(10 * time.Second)}}},
			{Of: &configv1.Measure_Reported{Reported: "revenue"}, MaxValue: proto.Float64(5)},
		}
	}))
	for _, c := range []struct {
		measure   int
		values    []float64
		low, high float64
	}{
		{0, []float64{1, 1, 1}, 0.5, 1},
		{0, []float64{0, 0}, 0, 0.5},
		{0, []float64{0.75}, 0.25, 1},
		{0, []float64{0.25, 1}, 0.25, 1},
		{1, []float64{3, 3}, 1.5, 4.5},
		{1, []float64{0, 0}, 0, 0.5},
		{2, []float64{0.1, 0.1}, 0, 0.6},
		{2, []float64{10, 10}, 5, 10},
		{3, []float64{0, 0}, -0.5, 0.5},
		{3, []float64{5}, 2.5, 5},
	} {
		r := measureResults(&measures[c.measure], [][]float64{c.values, nil})[0]
		if math.Abs(r.GetLow()-c.low) > 1e-12 || math.Abs(r.GetHigh()-c.high) > 1e-12 {
			t.Errorf("measure %d, %v: from %v to %v, not from %v to %v", c.measure, c.values, r.GetLow(), r.GetHigh(), c.low, c.high)
		}
		units := uint64(0)
		for _, n := range r.GetBins() {
			units += n
		}
		if units != uint64(len(c.values)) {
			t.Errorf("measure %d, %v: %d units are in the histogram", c.measure, c.values, units)
		}
	}
}

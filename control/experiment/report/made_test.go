package report

import (
	"math"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
)

var begin = time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)

// experiment is of a control and two variants, by three measures.
func experiment() *configv1.Experiment {
	return &configv1.Experiment{
		Name: "basket-size", Service: "shop",
		Variants: []*configv1.Variant{{Name: "plain", Weight: 5000}, {Name: "ideas", Weight: 2500}, {Name: "ideas-v2", Weight: 2500}},
		Measures: []*configv1.Measure{
			{Of: &configv1.Measure_Success{}},
			{Of: &configv1.Measure_Latency{}},
			{Of: &configv1.Measure_Reported{Reported: "basket-value"}, PerUnit: "sum", MinEffect: new(0.02)},
		},
	}
}

// made is what a measure comes to in a variant.
type made struct{ mean, deviation float64 }

// results are what an experiment of so many units has come to in days, in which means do
// not change.
func results(days int, units [3]uint64, measures [3][3]made) *meshv1.ResultsResponse {
	r := &meshv1.ResultsResponse{
		State:   &controlv1.RunState{Phase: controlv1.Phase_PHASE_RUNNING, Started: timestamppb.New(begin)},
		Time:    timestamppb.New(begin.AddDate(0, 0, days)),
		Sampled: 1, Sidecars: 3,
	}
	names := [3]string{"plain", "ideas", "ideas-v2"}
	for v := range units {
		variant := &meshv1.VariantResults{Name: names[v], Units: units[v]}
		for m := range measures {
			x := measures[m][v]
			low, high := max(0, x.mean-3*x.deviation), x.mean+3*x.deviation
			of := &meshv1.MeasureResults{Units: units[v], Mean: x.mean, Variance: x.deviation * x.deviation, Low: low, High: high}
			for bin := range 30 {
				z := (low + (high-low)*(float64(bin)+0.5)/30 - x.mean) / x.deviation
				of.Bins = append(of.Bins, uint64(float64(units[v])/10*math.Exp(-z*z/2)))
			}
			variant.Measures = append(variant.Measures, of)
		}
		r.Variants = append(r.Variants, variant)
	}
	const points = 24
	for k := range points {
		part := float64(k+1) / (points + 1)
		point := &meshv1.ResultsPoint{Time: timestamppb.New(begin.Add(time.Duration(part * float64(days) * 24 * float64(time.Hour))))}
		for v := range units {
			variant := &meshv1.VariantPoint{}
			for m := range measures {
				x := measures[m][v]
				n := uint64(part * float64(units[v]))
				wobble := x.deviation / math.Sqrt(float64(n+1)) * math.Sin(float64(k*(v+1)))
				variant.Measures = append(variant.Measures, &meshv1.MeasurePoint{Units: n, Mean: x.mean + wobble, Variance: x.deviation * x.deviation})
			}
			point.Variants = append(point.Variants, variant)
		}
		r.Series = append(r.Series, point)
	}
	return r
}

// usual is an experiment with a variant that is slower and one that sells more.
func usual() *meshv1.ResultsResponse {
	return results(9, [3]uint64{20113, 10020, 9987}, [3][3]made{
		{{0.9912, 0.06}, {0.9914, 0.06}, {0.991, 0.06}},
		{{0.0421, 0.011}, {0.0457, 0.012}, {0.0424, 0.011}},
		{{31.2, 40}, {31.9, 41}, {34.8, 43}},
	})
}

package experiment

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/pillion-proxy/pillion/proxy/telemetry"
)

func TestMetrics(t *testing.T) {
	play(t, func(t *testing.T, w *world) {
		s := w.sidecar(Options{})
		w.elect(LeadOptions{})
		w.running(document(t, "checkout"))
		for _, variant := range []string{"control", "treatment"} {
			ob := s.agent.Observer(telemetry.GroupKey{Policy: "experiment.checkout", Group: variant})
			for unit := range uint64(3) {
				ob.Ended(&telemetry.Outcome{Unit: 7 + unit*uint64(len(variant))})
			}
		}
		for _, none := range []telemetry.GroupKey{{Policy: "experiment.checkout", Group: "other"}, {Policy: "experiment.checkout", Rule: "1", Group: "control"},
			{Policy: "experiment.other", Group: "control"}, {Policy: "canary.checkout", Group: "control"}} {
			if s.agent.Observer(none) != nil {
				t.Errorf("%v is observed", none)
			}
		}
		want := `
# HELP pillion_experiment_crossed_units Units that this sidecar has seen in several variants of the experiment.
# TYPE pillion_experiment_crossed_units gauge
pillion_experiment_crossed_units{experiment="checkout",service="shop"} 1
# HELP pillion_experiment_sampled_ratio The part of all units that is kept for the experiment.
# TYPE pillion_experiment_sampled_ratio gauge
pillion_experiment_sampled_ratio{experiment="checkout",service="shop"} 1
# HELP pillion_experiment_units Units that this sidecar keeps for the experiment, by variant.
# TYPE pillion_experiment_units gauge
pillion_experiment_units{experiment="checkout",service="shop",variant="control"} 2
pillion_experiment_units{experiment="checkout",service="shop",variant="treatment"} 2
`
		if err := testutil.CollectAndCompare(s.agent.Metrics(), strings.NewReader(want)); err != nil {
			t.Error(err)
		}
	})
}

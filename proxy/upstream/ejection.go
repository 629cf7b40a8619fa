package upstream

import (
	"log/slog"

	"github.com/pillion-proxy/pillion/proxy/outlier"
)

// ejectable is an Instance as the detector of outliers sees it.
type ejectable Instance

// Fit implements outlier.Target.
func (e *ejectable) Fit() bool {
	in := (*Instance)(e)
	return Reason(in.reasons.Load())&^Ejected == 0 && in.Reachable()
}

// Eject implements outlier.Target.
func (e *ejectable) Eject(on bool) { (*Instance)(e).Block(Ejected, on) }

// ejection is told by the detector what happens.
func (j *judges) ejection(e outlier.Event) {
	in := (*Instance)(e.Host.Target.(*ejectable))
	counts := &j.cluster.counts.Judgement
	switch e.Kind {
	case outlier.Held:
		counts.EjectionsHeld.Add(1)
	case outlier.Ejected:
		counts.Ejections[e.Reason].Add(1)
		j.cluster.unwell(in)
		j.nudge() // its time may be over before anything else is due
		j.log(slog.LevelWarn, "instance ejected: more of its RPCs fail than of others'", in, e.Policy,
			"rule", e.Reason.String(), "why", e.Why, "for", e.For, "times", e.Times)
	case outlier.Returned:
		j.log(slog.LevelInfo, "ejected instance is used again", in, e.Policy,
			"rule", e.Reason.String(), "why", e.Why, "after", e.For, "times", e.Times)
	}
}

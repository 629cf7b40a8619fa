package report

import (
	"cmp"
	"fmt"
	"math"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

const (
	defaultFalseAlarm = 0.05
	defaultPower      = 0.8
	// The least differences that matter, of success and of all else.
	defaultMinSuccessEffect = 0.01
	defaultMinEffect        = 0.05
)

// Kind is what a measure takes of RPCs, which is how its figures are written.
type Kind string

// The kinds.
const (
	Success  Kind = "success"  // a part of all RPCs
	Latency  Kind = "latency"  // seconds
	Reported Kind = "reported" // what the app reported, in its unit
)

// setting is a measure of the document, with its defaults.
type setting struct {
	name      string
	kind      Kind
	perUnit   string
	lower     bool // is better
	minEffect float64
	reported  string // what the app calls it; empty: it is not the app that says it
}

// settings returns the measures of an experiment.
func settings(e *configv1.Experiment) []setting {
	measures := e.GetMeasures()
	if len(measures) == 0 {
		measures = []*configv1.Measure{
			{Of: &configv1.Measure_Success{}},
			{Of: &configv1.Measure_Latency{}},
		}
	}
	list := make([]setting, len(measures))
	for i, m := range measures {
		s := setting{perUnit: cmp.Or(m.GetPerUnit(), "mean"), minEffect: defaultMinEffect}
		switch of := m.GetOf().(type) {
		case *configv1.Measure_Latency:
			s.kind, s.name = Latency, "latency"
		case *configv1.Measure_Reported:
			s.kind, s.name, s.reported = Reported, of.Reported, of.Reported
		default:
			s.kind, s.name, s.minEffect = Success, "success", defaultMinSuccessEffect
		}
		s.name = cmp.Or(m.GetName(), s.name)
		s.lower = m.GetBetter() == "lower" || m.GetBetter() == "" && s.kind == Latency
		if m.MinEffect != nil && m.GetMinEffect() > 0 {
			s.minEffect = m.GetMinEffect()
		}
		list[i] = s
	}
	return list
}

func (s *setting) better() string {
	if s.lower {
		return "lower"
	}
	return "higher"
}

func falseAlarm(e *configv1.Experiment) float64 {
	if a := e.GetFalseAlarm(); a > 0 && a < 1 {
		return a
	}
	return defaultFalseAlarm
}

func power(e *configv1.Experiment) float64 {
	if p := e.GetPower(); p > 0 && p < 1 {
		return p
	}
	return defaultPower
}

// comparisons is how many times a variant is compared with the control: each of them may
// be a false alarm.
func comparisons(e *configv1.Experiment) int {
	return len(settings(e)) * max(len(e.GetVariants())-1, 1)
}

// Number is a figure that may be unknown, or infinite where it is a bound: JSON says null
// then.
type Number float64

// Known says whether it is a finite number.
func (n Number) Known() bool { return !math.IsNaN(float64(n)) && !math.IsInf(float64(n), 0) }

// MarshalJSON implements json.Marshaler.
func (n Number) MarshalJSON() ([]byte, error) {
	if !n.Known() {
		return []byte("null"), nil
	}
	return fmt.Appendf(nil, "%.10g", float64(n)), nil
}

// Range is an interval.
type Range struct {
	Low  Number `json:"low"`
	High Number `json:"high"`
}

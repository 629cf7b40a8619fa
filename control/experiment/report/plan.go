package report

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pillion-proxy/pillion/control/sequential"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
)

const century = 36525 * 24 * time.Hour

// planDays are for how long the least difference that is found is told.
var planDays = []int{1, 2, 7, 14, 28, 56}

// Baseline is what is known of a measure before the experiment, over units.
type Baseline struct {
	// Mean is what it comes to.
	Mean float64
	// Deviation is the standard deviation between units. 0: it is not known. That will do
	// for success of a mean per unit, where it is at most sqrt(Mean·(1-Mean)), which is
	// taken; it is that where each unit has one RPC.
	Deviation float64
}

// Baselines takes what the control came to in an experiment before, by measure.
func Baselines(e *configv1.Experiment, r *meshv1.ResultsResponse) map[string]Baseline {
	list := map[string]Baseline{}
	if len(r.GetVariants()) == 0 {
		return list
	}
	for i, s := range settings(e) {
		if measures := r.GetVariants()[0].GetMeasures(); i < len(measures) && measures[i].GetUnits() > 1 {
			list[s.name] = Baseline{Mean: measures[i].GetMean(), Deviation: math.Sqrt(measures[i].GetVariance())}
		}
	}
	return list
}

// Plan is what an experiment needs. Its JSON is stable: fields are added and never
// renamed.
type Plan struct {
	Name    string `json:"name"`
	Service string `json:"service"`
	// FalseAlarm is the risk over all comparisons, IntervalRisk each one's, and Power the
	// chance that a difference of MinEffect is found, of each by itself.
	FalseAlarm   float64 `json:"false_alarm"`
	IntervalRisk float64 `json:"interval_risk"`
	Comparisons  int     `json:"comparisons"`
	Power        float64 `json:"power"`
	// Part is the part of all units that takes part, by holdout and layer.
	Part Number `json:"part"`
	// UnitsPerDay is how many new units come per day, whether they take part or not; 0:
	// that is not known.
	UnitsPerDay float64 `json:"units_per_day"`
	// Units is how many units must take part for all measures, and Seconds how long that
	// takes; 0: it is not known, or never.
	Units    uint64        `json:"units"`
	Duration time.Duration `json:"-"`
	Seconds  float64       `json:"seconds"`
	Measures []PlanMeasure `json:"measures"`
	Notes    []string      `json:"notes"`
}

// PlanMeasure is what one measure needs.
type PlanMeasure struct {
	Name      string  `json:"name"`
	Kind      Kind    `json:"kind"`
	Mean      Number  `json:"mean"`
	Deviation Number  `json:"deviation"`
	MinEffect float64 `json:"min_effect"`
	// Variants are all but the control.
	Variants []PlanVariant `json:"variants"`
}

// PlanVariant is what one comparison needs.
type PlanVariant struct {
	Variant string `json:"variant"`
	// Units is how many must take part, in all variants together; 0: never enough.
	Units uint64 `json:"units"`
	// FixedUnits is how many it would be for a test that may be looked at only once, at
	// the end.
	FixedUnits uint64 `json:"fixed_horizon_units"`
	// Effects are what is found after some time, where the units per day are known.
	Effects []PlanEffect `json:"effects"`
}

// PlanEffect is the least difference that is found after so many days.
type PlanEffect struct {
	Days  int    `json:"days"`
	Units uint64 `json:"units"`
	// Effect is a part of the control's mean.
	Effect Number `json:"effect"`
}

// NewPlan says what an experiment needs. baselines are by measure; each needs one, and
// others are an error. unitsPerDay may be 0, for not known.
func NewPlan(e *configv1.Experiment, baselines map[string]Baseline, unitsPerDay float64) (*Plan, error) {
	if !(unitsPerDay >= 0) || math.IsInf(unitsPerDay, 1) {
		return nil, fmt.Errorf("%v units per day: give how many new units come per day, such as 5000", unitsPerDay)
	}
	p := &Plan{
		Name: e.GetName(), Service: e.GetService(), FalseAlarm: falseAlarm(e), Power: power(e),
		Comparisons: comparisons(e), Part: Number(part(e)), UnitsPerDay: unitsPerDay, Notes: []string{},
	}
	p.IntervalRisk = sequential.Bonferroni(p.FalseAlarm, p.Comparisons)
	known := settings(e)
	for name := range baselines {
		if !slices.ContainsFunc(known, func(s setting) bool { return s.name == name }) {
			return nil, fmt.Errorf("experiment %q has no measure %q that a mean could be given for: it has %s", e.GetName(), name, names(known))
		}
	}
	never := false
	for _, s := range known {
		b, ok := baselines[s.name]
		if !ok {
			return nil, fmt.Errorf("measure %q: it is not known what its mean is now, and by how much units differ: give --baseline %s=MEAN,DEVIATION, or take it from an experiment that ran, by --baseline-from NAME", s.name, s.name)
		}
		if err := b.check(s); err != nil {
			return nil, err
		}
		if b.Deviation == 0 {
			b.Deviation = math.Sqrt(b.Mean * (1 - b.Mean))
		}
		m := p.measure(e, s, b)
		for _, v := range m.Variants {
			never = never || v.Units == 0
			p.Units = max(p.Units, v.Units)
		}
		p.Measures = append(p.Measures, m)
	}
	if never {
		p.Units = 0
		p.Notes = append(p.Notes, "A variant without a weight gets no units, and is never compared.")
	}
	if p.UnitsPerDay > 0 && p.Units > 0 {
		p.Duration = sequential.Duration(p.Units, p.UnitsPerDay*float64(p.Part))
		p.Seconds = p.Duration.Seconds()
		p.Notes = append(p.Notes, "It is assumed that as many new units come each day. Mostly the same ones come back, and there are fewer new ones as time goes by.")
	}
	return p, nil
}

// measure works out what one measure needs.
func (p *Plan) measure(e *configv1.Experiment, s setting, b Baseline) PlanMeasure {
	m := PlanMeasure{Name: s.name, Kind: s.kind, Mean: Number(b.Mean), Deviation: Number(b.Deviation), MinEffect: s.minEffect}
	drift, single := sequential.Drift(p.IntervalRisk, p.Power), sequential.FixedDrift(p.IntervalRisk, p.Power)
	difference := s.minEffect * math.Abs(b.Mean)
	for i, v := range e.GetVariants() {
		if i == 0 {
			continue
		}
		control := sequential.Group{Share: share(e, 0), Variance: b.Deviation * b.Deviation}
		variant := sequential.Group{Share: share(e, i), Variance: b.Deviation * b.Deviation}
		pv := PlanVariant{
			Variant:    v.GetName(),
			Units:      bounded(sequential.Units(drift, difference, control, variant)),
			FixedUnits: bounded(sequential.Units(single, difference, control, variant)),
			Effects:    []PlanEffect{},
		}
		if pv.Units > 0 { // There are no verdicts with less.
			pv.Units = max(pv.Units, uint64(math.Ceil(LeastUnits/min(control.Share, variant.Share))))
		}
		for _, days := range planDays {
			if units := uint64(p.UnitsPerDay * float64(p.Part) * float64(days)); units > 0 && pv.Units > 0 {
				effect := sequential.MinimumDifference(drift, units, control, variant) / math.Abs(b.Mean)
				pv.Effects = append(pv.Effects, PlanEffect{Days: days, Units: units, Effect: Number(effect)})
			}
		}
		m.Variants = append(m.Variants, pv)
	}
	return m
}

func (b Baseline) check(s setting) error {
	switch {
	case math.IsNaN(b.Mean) || math.IsInf(b.Mean, 0) || !(b.Deviation >= 0) || math.IsInf(b.Deviation, 1):
		return fmt.Errorf("measure %q: a mean of %v and a deviation of %v are not known figures", s.name, b.Mean, b.Deviation)
	case b.Mean == 0:
		return fmt.Errorf("measure %q: its mean is 0, and a least difference of %s of that is none: measure something else, or the sum with something that is always there", s.name, percent(s.minEffect))
	case s.kind == Success && s.perUnit == "mean" && !(b.Mean > 0 && b.Mean <= 1):
		return fmt.Errorf("measure %q: the part of RPCs that succeed is between 0 and 1, not %v", s.name, b.Mean)
	case b.Deviation == 0 && (s.kind != Success || s.perUnit != "mean"):
		return fmt.Errorf("measure %q: give by how much units differ, too (the standard deviation between them): without it nobody knows how many are needed", s.name)
	case b.Deviation == 0 && b.Mean == 1:
		return fmt.Errorf("measure %q: if no RPC fails now, nothing can be said of how many units it takes: give a mean a little less than 1", s.name)
	}
	return nil
}

// part is the part of all units that takes part.
func part(e *configv1.Experiment) float64 {
	p := 1 - float64(e.GetHoldout())/10000
	if l := e.GetLayer(); l != nil {
		end := uint32(10000)
		if l.End != nil {
			end = l.GetEnd()
		}
		p *= max(0, float64(end)-float64(l.GetStart())) / 10000
	}
	return p
}

func names(list []setting) string {
	quoted := make([]string, len(list))
	for i, s := range list {
		quoted[i] = strconv.Quote(s.name)
	}
	return strings.Join(quoted, ", ")
}

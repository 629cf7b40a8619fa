package configyaml

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

// The defaults of experiments, as the schema's comments document and explain them.
const (
	defaultLayerEnd        = 10_000
	defaultExperimentAlarm = 0.05
	defaultPower           = 0.8
	defaultMaxUnits        = 20_000
	defaultGroupKeyPrefix  = "pillion-experiment-"
	defaultPerUnit         = "mean"
	// Of RPCs of which 99 % succeed, 0.05 would be five failures more in each hundred.
	defaultMinSuccessEffect = 0.01
	defaultMinEffect        = 0.05
	defaultMaxValue         = 1e12
	defaultLatencyCap       = time.Minute
	successName             = "success"
	higher, lower           = "higher", "lower"
)

// allShares is what the weights of an experiment's variants come to together.
const allShares = 10_000

// EffectiveExperiment returns a copy of an experiment with every default filled in. It
// changes nothing that is set, and needs no valid experiment.
func EffectiveExperiment(written *configv1.Experiment) *configv1.Experiment {
	e := proto.CloneOf(written)
	effectiveExperiment(e)
	return e
}

// effectiveExperiment fills in the defaults of an experiment in place.
func effectiveExperiment(e *configv1.Experiment) {
	if e == nil {
		return
	}
	setText(&e.Salt, e.GetName())
	if e.Layer != nil {
		setValue(&e.Layer.End, defaultLayerEnd)
	}
	if len(e.Measures) == 0 {
		e.Measures = []*configv1.Measure{
			{Of: &configv1.Measure_Success{Success: &configv1.SuccessMeasure{}}},
			{Of: &configv1.Measure_Latency{Latency: &configv1.LatencyMeasure{}}},
		}
	}
	for _, m := range e.GetMeasures() {
		effectiveMeasure(m)
	}
	setValue(&e.FalseAlarm, defaultExperimentAlarm)
	setValue(&e.Power, defaultPower)
	setValue(&e.MaxUnits, defaultMaxUnits)
	setText(&e.GroupKey, defaultGroupKeyPrefix+strings.ToLower(e.GetName()))
	effectiveHooks(e.GetHooks())
}

func effectiveMeasure(m *configv1.Measure) {
	better, effect := higher, defaultMinEffect
	switch of := m.GetOf().(type) {
	case *configv1.Measure_Success:
		setText(&m.Name, successName)
		effect = defaultMinSuccessEffect
		if of.Success != nil && len(of.Success.Codes) == 0 {
			of.Success.Codes = slices.Clone(defaultGuardCodes)
		}
	case *configv1.Measure_Latency:
		setText(&m.Name, defaultLatencyName)
		if of.Latency != nil {
			setDuration(&of.Latency.Cap, defaultLatencyCap)
		}
		better = lower
	case *configv1.Measure_Reported:
		setText(&m.Name, of.Reported)
	}
	setText(&m.PerUnit, defaultPerUnit)
	setText(&m.Better, better)
	setValue(&m.MinEffect, effect)
	setValue(&m.MaxValue, defaultMaxValue)
}

// CheckExperiment checks an experiment that was made in memory, or comes from a store,
// and whose defaults are filled in (see [EffectiveExperiment]). The error is a
// [Problems].
func CheckExperiment(effective *configv1.Experiment) error {
	return checkMessage(effective, func(f *findings) { checkExperiment(f, "", effective) })
}

// checkExperiment checks what no rule about a single field can say. path is where in the
// file the experiment stands.
func checkExperiment(f *findings, path string, e *configv1.Experiment) {
	checkVariants(f, path, e)
	if e.GetEligible() != nil && e.GetEligible().Fraction != nil {
		f.addf(join(path, "eligible.fraction"), "is chosen anew for each RPC, so that a unit would be in and out of the experiment: write a layer instead")
	}
	if l := e.GetLayer(); l != nil && l.GetStart() >= l.GetEnd() {
		f.addf(join(path, "layer.end"), "%d is not beyond start, %d: the part is empty", l.GetEnd(), l.GetStart())
	}
	if e.GetStart() != nil && e.GetEnd() != nil && !e.GetEnd().AsTime().After(e.GetStart().AsTime()) {
		f.addf(join(path, "end"), "%s is not after start, %s", e.GetEnd().AsTime().Format(time.RFC3339), e.GetStart().AsTime().Format(time.RFC3339))
	}
	names := unique{}
	for i, m := range e.GetMeasures() {
		names.check(f, join(path, fmt.Sprintf("measures[%d].name", i)), m.GetName())
	}
	checkHooks(f, path, e.GetHooks())
}

func checkVariants(f *findings, path string, e *configv1.Experiment) {
	names, sum := unique{}, uint32(0)
	for i, v := range e.GetVariants() {
		names.check(f, join(path, fmt.Sprintf("variants[%d].name", i)), v.GetName())
		sum += v.GetWeight()
	}
	if sum != allShares {
		f.addf(join(path, "variants"), "have weights of %d in all, but they are shares of %d", sum, allShares)
	}
	for _, unit := range slices.Sorted(maps.Keys(e.GetForced())) {
		if variant := e.GetForced()[unit]; names[variant] == "" {
			f.addf(join(path, fmt.Sprintf("forced[%q]", unit)), "%q is not among the variants", variant)
		}
	}
}

package configyaml

import (
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

// The defaults of canaries, as the schema's comments document and explain them.
const (
	defaultStepHold         = time.Minute
	defaultStepRPCs         = 100
	defaultCanaryAlarm      = 0.01
	defaultErrorsName       = "errors"
	defaultErrorRPCs        = 20
	defaultErrorFailures    = 5
	defaultAgainstStable    = 1
	defaultLatencyName      = "latency"
	defaultPercentile       = 99
	defaultLatencyRatio     = 1.25
	defaultLatencyTolerance = time.Millisecond
	defaultLatencyRPCs      = 100
	defaultEjectionsName    = "ejections"
	defaultEjectionEvents   = 3
	defaultHookTimeout      = 10 * time.Second
)

// defaultGuardCodes are what a release is to blame for, as a rule.
var defaultGuardCodes = []string{"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}

// EffectiveCanary returns a copy of a canary with every default filled in. It changes
// nothing that is set, and needs no valid canary.
func EffectiveCanary(written *configv1.Canary) *configv1.Canary {
	c := proto.CloneOf(written)
	effectiveCanary(c)
	return c
}

// effectiveCanary fills in the defaults of a canary in place.
func effectiveCanary(c *configv1.Canary) {
	if c == nil {
		return
	}
	rpcs := uint32(defaultStepRPCs)
	if c.Guards == nil {
		rpcs = 0
	}
	for _, step := range c.GetSteps() {
		setDuration(&step.Hold, defaultStepHold)
		setValue(&step.MinRpcs, rpcs)
	}
	if g := c.Guards; g != nil {
		setValue(&g.FalseAlarm, defaultCanaryAlarm)
		for i, guard := range g.GetErrors() {
			setText(&guard.Name, numbered(defaultErrorsName, i))
			if len(guard.Codes) == 0 {
				guard.Codes = slices.Clone(defaultGuardCodes)
			}
			if guard.Max == nil {
				setValue(&guard.AgainstStable, defaultAgainstStable)
			}
			setValue(&guard.MinRpcs, defaultErrorRPCs)
			setValue(&guard.MinFailures, defaultErrorFailures)
		}
		for i, guard := range g.GetLatency() {
			setText(&guard.Name, numbered(defaultLatencyName, i))
			setValue(&guard.Percentile, defaultPercentile)
			setValue(&guard.AgainstStable, defaultLatencyRatio)
			setDuration(&guard.Tolerance, defaultLatencyTolerance)
			setValue(&guard.MinRpcs, defaultLatencyRPCs)
		}
		if guard := g.Ejections; guard != nil {
			setText(&guard.Name, defaultEjectionsName)
			setValue(&guard.MinEvents, defaultEjectionEvents)
		}
	}
	effectiveHooks(c.GetHooks())
}

func effectiveHooks(hooks []*configv1.Hook) {
	for _, hook := range hooks {
		setDuration(&hook.Timeout, defaultHookTimeout)
	}
}

// numbered is the name of the i-th of its like, from 0 on: "errors", "errors2".
func numbered(name string, i int) string {
	if i == 0 {
		return name
	}
	return fmt.Sprintf("%s%d", name, i+1)
}

// CheckCanary checks a canary that was made in memory, or comes from a store, and whose
// defaults are filled in (see [EffectiveCanary]). The error is a [Problems].
func CheckCanary(effective *configv1.Canary) error {
	return checkMessage(effective, func(f *findings) { checkCanary(f, "", effective) })
}

// checkCanary checks what no rule about a single field can say. path is where in the
// file the canary stands.
func checkCanary(f *findings, path string, c *configv1.Canary) {
	if c.GetStable() == c.GetCanary() {
		f.addf(join(path, "canary"), "%q is the stable subset too: name the one that is to have the RPCs", c.GetCanary())
	}
	for i, step := range c.GetSteps()[1:] {
		if before := c.GetSteps()[i].GetWeight(); step.GetWeight() < before {
			f.addf(join(path, fmt.Sprintf("steps[%d].weight", i+1)), "%d is less than the step's before, %d: a canary's share only rises", step.GetWeight(), before)
		}
	}
	if c.GetSticky() != nil && c.GetMatch() != nil && c.GetMatch().Fraction != nil {
		f.addf(join(path, "match.fraction"), "is chosen anew for each RPC, so that those with the same key would go both ways: remove it, or sticky")
	}
	checkGuards(f, join(path, "guards"), c.GetGuards())
	checkHooks(f, path, c.GetHooks())
}

func checkGuards(f *findings, path string, g *configv1.CanaryGuards) {
	if g == nil {
		return
	}
	if len(g.GetErrors()) == 0 && len(g.GetLatency()) == 0 && g.GetEjections() == nil {
		f.addf(path, "watch nothing: write errors, latency or ejections, or remove the block for a shift of traffic without guards")
	}
	names := unique{}
	for i, guard := range g.GetErrors() {
		names.check(f, join(path, fmt.Sprintf("errors[%d].name", i)), guard.GetName())
	}
	for i, guard := range g.GetLatency() {
		names.check(f, join(path, fmt.Sprintf("latency[%d].name", i)), guard.GetName())
	}
	if guard := g.GetEjections(); guard != nil {
		names.check(f, join(path, "ejections.name"), guard.GetName())
	}
}

func checkHooks(f *findings, path string, hooks []*configv1.Hook) {
	names := unique{}
	for i, hook := range hooks {
		names.check(f, join(path, fmt.Sprintf("hooks[%d].name", i)), hook.GetName())
	}
}

// unique finds names that are taken already.
type unique map[string]string // the field, by name

func (u unique) check(f *findings, field, name string) {
	if first, taken := u[name]; taken {
		f.addf(field, "%q is %s already: give it another name", name, first)
		return
	}
	u[name] = field
}

// checkMessage checks a message alone: first the schema's rules, then, if it keeps
// them, what more says.
func checkMessage(message proto.Message, more func(*findings)) error {
	found := checkRules(message)
	if len(found) == 0 {
		more(&found)
	}
	if len(found) == 0 {
		return nil
	}
	return (&document{}).report(found, nil)
}

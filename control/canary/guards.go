package canary

import (
	"time"

	"google.golang.org/grpc/codes"

	"github.com/pillion-proxy/pillion/control/observe"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

const (
	// localPart is which part of the risk of a false alarm a single sidecar's judge may
	// take: what it does is not undone in the step, and there are many of them.
	localPart = 0.1
	// pooledPart is which part the tests of what all have counted may take. The rest is for
	// the number of sidecars whose own judges found something.
	pooledPart = 0.9
	// outageShare is the share of failures that is an outage, unless the first guard of
	// errors allows more.
	outageShare = 0.5
)

// guards are a canary's guards, as tests.
type guards struct {
	tests []guardTest
	// falseAlarm is the risk of a false alarm of all tests together.
	falseAlarm float64
	// failing are the statuses that are failures in messages: the first guard's.
	failing observe.CodeSet
	// outage is the share of the canary's RPCs beyond which a step does not end by itself.
	outage float64
	// urgent are those by which any guard may find something.
	urgent observe.CodeSet
	// percentile is the one whose latency is told in messages: the first guard's.
	percentile float64
}

// testKind is what a test looks at.
type testKind int

const (
	errorsMax testKind = iota
	errorsAgainstStable
	latencyAgainstStable
	ejectionsAgainstStable
)

// guardTest is one test of a guard.
type guardTest struct {
	kind testKind
	name string // "errors/max"
	// codes are what fails, of errors.
	codes observe.CodeSet
	// limit is the greatest ratio of failures; ratio how many times what the stable version
	// has may be.
	limit, ratio float64
	percentile   float64
	tolerance    time.Duration
	// minRPCs and minEvents are how much there has to be before the test says anything.
	minRPCs, minEvents uint64
}

// compileGuards returns the guards of a canary whose defaults are filled in.
func compileGuards(c *configv1.Canary) *guards {
	m := c.GetGuards()
	g := &guards{falseAlarm: m.GetFalseAlarm(), outage: outageShare, percentile: 99, failing: codeSet(defaultFailing)}
	for i, e := range m.GetErrors() {
		set := codeSet(e.GetCodes())
		if i == 0 {
			g.failing, g.outage = set, max(outageShare, e.GetMax())
		}
		g.urgent |= set
		t := guardTest{codes: set, minRPCs: uint64(e.GetMinRpcs()), minEvents: uint64(e.GetMinFailures())}
		if e.Max != nil {
			t.kind, t.name, t.limit = errorsMax, e.GetName()+"/max", e.GetMax()
			g.tests = append(g.tests, t)
		}
		if e.AgainstStable != nil {
			t.kind, t.name, t.ratio = errorsAgainstStable, e.GetName()+"/against_stable", e.GetAgainstStable()
			g.tests = append(g.tests, t)
		}
	}
	for i, l := range m.GetLatency() {
		if i == 0 {
			g.percentile = l.GetPercentile()
		}
		g.tests = append(g.tests, guardTest{
			kind: latencyAgainstStable, name: l.GetName() + "/against_stable", percentile: l.GetPercentile(),
			ratio: l.GetAgainstStable(), tolerance: l.GetTolerance().AsDuration(), minRPCs: uint64(l.GetMinRpcs()),
		})
	}
	if e := m.GetEjections(); e != nil {
		g.tests = append(g.tests, guardTest{
			kind: ejectionsAgainstStable, name: e.GetName() + "/against_stable", ratio: 1, minEvents: uint64(e.GetMinEvents()),
		})
	}
	return g
}

// defaultFailing are failures where no guard says which are.
var defaultFailing = []string{"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}

func codeSet(names []string) (set observe.CodeSet) {
	for _, name := range names {
		var c codes.Code
		if c.UnmarshalJSON([]byte(`"`+name+`"`)) == nil && int(c) < observe.Codes {
			set |= 1 << c
		}
	}
	return set
}

// compareStable says whether any test needs RPCs of the stable version.
func (g *guards) compareStable() bool {
	for i := range g.tests {
		if g.tests[i].kind == errorsAgainstStable || g.tests[i].kind == latencyAgainstStable {
			return true
		}
	}
	return false
}

// level is the risk of a false alarm that each test may take, of a part of the whole.
func (g *guards) level(part float64) float64 {
	return g.falseAlarm * part / float64(max(len(g.tests), 1))
}

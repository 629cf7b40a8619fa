package experiment

import (
	"math"

	"google.golang.org/grpc/codes"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
)

// maxCount bounds how many RPCs of a unit a sidecar may speak of: a thousand of them can be
// added up, and all are exact as floating-point numbers.
const maxCount = 1 << 42

// cell is what a measure came to for a unit: how many RPCs had a value, and their sum.
type cell struct {
	count uint64
	sum   float64
}

// measure takes values of RPCs.
type measure struct {
	kind     measureKind
	failures uint32  // of success: a bit for each status
	reported string  // the trailer's name
	most     float64 // values are cut off there, on both sides
	sum      bool    // a unit's RPCs come to their sum, not their mean
}

type measureKind uint8

const (
	success measureKind = iota
	latency
	reported
)

// compileMeasures compiles the measures of an experiment whose defaults are filled in.
func compileMeasures(e *configv1.Experiment) []measure {
	list := make([]measure, 0, len(e.GetMeasures()))
	for _, m := range e.GetMeasures() {
		c := measure{most: m.GetMaxValue(), sum: m.GetPerUnit() == "sum"}
		switch of := m.GetOf().(type) {
		case *configv1.Measure_Success:
			c.kind, c.most = success, 1
			for _, name := range of.Success.GetCodes() {
				if code, ok := codeNamed(name); ok {
					c.failures |= 1 << code
				}
			}
		case *configv1.Measure_Latency:
			c.kind, c.most = latency, min(c.most, of.Latency.GetCap().AsDuration().Seconds())
		case *configv1.Measure_Reported:
			c.kind, c.reported = reported, of.Reported
		}
		list = append(list, c)
	}
	return list
}

// codeNamed returns the status with a name as gRPC's specification writes it.
func codeNamed(name string) (codes.Code, bool) {
	var c codes.Code
	err := c.UnmarshalJSON([]byte(`"` + name + `"`))
	return c, err == nil
}

// value takes the value of an RPC; false: it has none.
func (m *measure) value(o *telemetry.Outcome) (float64, bool) {
	switch m.kind {
	case success:
		code := o.Code
		if code > codes.Unauthenticated {
			code = codes.Unknown
		}
		return float64(1 - m.failures>>code&1), true
	case latency:
		return min(max(o.Took.Seconds(), 0), m.most), true
	}
	for i := range o.Measures {
		if o.Measures[i].Name == m.reported {
			v := o.Measures[i].Value
			if math.IsNaN(v) {
				return 0, false
			}
			return min(max(v, -m.most), m.most), true
		}
	}
	return 0, false
}

// good says whether RPCs can have come to this, whoever says so: no sum is beyond what
// the values' bounds allow.
func (m *measure) good(c cell) bool {
	if c.count > maxCount || math.IsNaN(c.sum) {
		return false
	}
	low, high := m.bounds()
	// Sums of many values are not exact.
	n, room := float64(c.count), 1e-6*m.most*float64(c.count)
	return c.sum >= low*n-room && c.sum <= high*n+room
}

// bounds are the least and the greatest value of an RPC.
func (m *measure) bounds() (low, high float64) {
	if m.kind == reported {
		return -m.most, m.most
	}
	return 0, m.most
}

// unitBounds are the least and the greatest that a unit's RPCs can come to.
func (m *measure) unitBounds() (low, high float64) {
	low, high = m.bounds()
	if m.sum {
		if high = math.Inf(1); low < 0 {
			low = math.Inf(-1)
		}
	}
	return low, high
}

// unit returns what a unit's RPCs come to; false: it has no value.
func (m *measure) unit(c cell) (float64, bool) {
	if m.sum {
		return c.sum, true
	}
	if c.count == 0 {
		return 0, false
	}
	return c.sum / float64(c.count), true
}

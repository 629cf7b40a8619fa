package relay

import (
	"strconv"
	"strings"

	"github.com/pillion-proxy/pillion/proxy/h2"
	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
	"github.com/pillion-proxy/pillion/proxy/wire"
)

const (
	// maxMeasures is how many values an app may report with one answer.
	maxMeasures = 16
	// maxMeasureName and maxMeasureValue are how many bytes their names and values may be
	// long.
	maxMeasureName, maxMeasureValue = 64, 64
)

// isMeasure says that a field is a value that an app reports.
func isMeasure(f *hpack.Field) bool { return strings.HasPrefix(f.Name, wire.MeasurePrefix) }

// isOursButMeasure says that a field is Pillion's own and none in which an app has a say.
func isOursButMeasure(f *hpack.Field) bool { return isOurs(f) && !isMeasure(f) }

// shield removes what an instance must not say to the caller. What apps report is for the
// caller's sidecar, which takes it out of what ends the answer (last) with takeMeasures.
func (r *RPC) shield(h *h2.Head, last bool) {
	switch {
	case r.p.cfg.Shield && last:
		h.Remove(isOursButMeasure)
	case r.p.cfg.Shield:
		h.Remove(isOurs)
	case !last:
		dropMeasures(h)
	}
}

// takeMeasures takes what the app reports out of the head that ends the answer which the
// caller gets. r.mu is held.
func (r *RPC) takeMeasures(h *h2.Head) {
	if r.p.cfg.Shield || !dropsMeasures(h) {
		return
	}
	if pol := r.pol; pol != nil && len(pol.groups) > 0 {
		pol.measures = readMeasures(pol.measures[:0], h.Regular)
	}
	h.Remove(isMeasure)
}

func dropMeasures(h *h2.Head) {
	if dropsMeasures(h) {
		h.Remove(isMeasure)
	}
}

// dropsMeasures says whether there is something to drop, as there hardly ever is.
func dropsMeasures(h *h2.Head) bool {
	for i := range h.Regular {
		if isMeasure(&h.Regular[i]) {
			return true
		}
	}
	return false
}

// readMeasures reads what an app reports. What is no number is left out, as what comes
// again under a name is, and what comes after as many as there may be.
func readMeasures(dst []telemetry.Measure, fields []hpack.Field) []telemetry.Measure {
	for i := range fields {
		if !isMeasure(&fields[i]) {
			continue
		}
		if len(dst) == maxMeasures {
			break
		}
		name := fields[i].Name[len(wire.MeasurePrefix):]
		value, ok := parseMeasure(fields[i].Value)
		if ok && isMeasureName(name) && !reported(dst, name) {
			dst = append(dst, telemetry.Measure{Name: name, Value: value})
		}
	}
	return dst
}

func reported(known []telemetry.Measure, name string) bool {
	for i := range known {
		if known[i].Name == name {
			return true
		}
	}
	return false
}

// isMeasureName says whether a name is one that an experiment may ask for (Measure.reported
// in the schema).
func isMeasureName(name string) bool {
	if name == "" || len(name) > maxMeasureName {
		return false
	}
	for i := range len(name) {
		c := name[i]
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '_' || c == '-' || c == '.') {
			return false
		}
	}
	return true
}

// parseMeasure reads a decimal number that is finite: "1", "-0.5", "1.5e3". What package
// strconv takes beyond that (hexadecimal, "inf", "nan") is none.
func parseMeasure(text string) (value float64, ok bool) {
	if len(text) > maxMeasureValue || !isDecimal(text) {
		return 0, false
	}
	value, err := strconv.ParseFloat(text, 64)
	return value, err == nil
}

// isDecimal says whether a text is [+-]digits[.digits][e[+-]digits]. It is asked before
// package strconv is, which makes an error of what is none.
func isDecimal(text string) bool {
	text = cutSign(text)
	whole, text := cutDigits(text)
	if whole == 0 {
		return false
	}
	if text != "" && text[0] == '.' {
		var fraction int
		if fraction, text = cutDigits(text[1:]); fraction == 0 {
			return false
		}
	}
	if text != "" && (text[0] == 'e' || text[0] == 'E') {
		var exponent int
		if exponent, text = cutDigits(cutSign(text[1:])); exponent == 0 {
			return false
		}
	}
	return text == ""
}

func cutSign(text string) string {
	if text != "" && (text[0] == '+' || text[0] == '-') {
		return text[1:]
	}
	return text
}

func cutDigits(text string) (n int, rest string) {
	for n < len(text) && text[n] >= '0' && text[n] <= '9' {
		n++
	}
	return n, text[n:]
}

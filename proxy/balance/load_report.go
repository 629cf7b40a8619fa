package balance

import (
	"encoding/base64"
	"math"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
)

// LoadReportKey is the trailer in which an instance says how busy it is: a message
// xds.data.orca.v3.OrcaLoadReport in base64 (gRFC A51).
const LoadReportKey = "endpoint-load-metrics-bin"

// LoadReport is what a load report says, as far as weights follow from it.
type LoadReport struct {
	// CPU and Application are how much of what it can do the instance does; 1 is
	// all, and there may be more. The second is the app's own measure.
	CPU, Application float64
	// RPS is how many RPCs the instance answers in a second, EPS how many of them
	// with errors.
	RPS, EPS float64
}

// maxLoadReport bounds the reports that are read, in bytes of base64: an instance
// may put as many measures of its own into them as it likes.
const maxLoadReport = 8 << 10

// ParseLoadReport reads a LoadReportKey's value. It is false where the value is
// none, or has numbers that no load can have.
func ParseLoadReport(value string) (r LoadReport, ok bool) {
	value = strings.TrimRight(value, "=")
	if len(value) > maxLoadReport {
		return r, false
	}
	var text, binary [512]byte // reports are seldom longer, and need no memory then
	message, err := base64.RawStdEncoding.AppendDecode(binary[:0], append(text[:0], value...))
	if err != nil {
		return r, false
	}
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return r, false
		}
		message = message[n:]
		field := r.field(number)
		if field == nil || kind != protowire.Fixed64Type {
			if n = protowire.ConsumeFieldValue(number, kind, message); n < 0 {
				return r, false
			}
			message = message[n:]
			continue
		}
		bits, n := protowire.ConsumeFixed64(message)
		if n < 0 {
			return r, false
		}
		message = message[n:]
		if *field = math.Float64frombits(bits); !(*field >= 0) || math.IsInf(*field, 1) {
			return LoadReport{}, false
		}
	}
	return r, true
}

// field returns where the field of that number belongs, nil if it is of no use.
func (r *LoadReport) field(number protowire.Number) *float64 {
	switch number {
	case 1:
		return &r.CPU
	case 6:
		return &r.RPS
	case 7:
		return &r.EPS
	case 9:
		return &r.Application
	}
	return nil
}

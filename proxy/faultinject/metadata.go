package faultinject

import (
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
	"github.com/pillion-proxy/pillion/proxy/wire"
)

// What callers choose a fault by, where they may. gRFC A33 takes Envoy's names.
const (
	// HeaderDelay is how long an RPC waits, in whole milliseconds, up to an hour.
	HeaderDelay = "pillion-fault-delay-ms"
	// HeaderAbort is the name of the status that it ends with: "UNAVAILABLE".
	HeaderAbort = "pillion-fault-abort"
	// HeaderPercentage is the share of RPCs that this is done to, a whole number
	// from 0 to 100, but no more than the policy has.
	HeaderPercentage = "pillion-fault-percentage"
)

// maxDelay is the longest time that a caller may choose, as long as a policy may.
const maxDelay = time.Hour

// choice is what a caller chose.
type choice struct {
	delay    time.Duration // 0: nothing
	code     codes.Code
	hasCode  bool
	fraction uint32 // in 1/10,000
}

// readChoice reads what a caller chose. A field that is wrong counts as missing; of
// several with one name the last that is right counts.
func readChoice(fields []hpack.Field) choice {
	c := choice{fraction: Whole}
	for i := range fields {
		f := &fields[i]
		if !strings.HasPrefix(f.Name, "pillion-fault-") {
			continue
		}
		switch f.Name {
		case HeaderDelay:
			if ms, ok := number(f.Value, uint64(maxDelay/time.Millisecond)); ok {
				c.delay = time.Duration(ms) * time.Millisecond
			}
		case HeaderAbort:
			if code, err := wire.ParseCode(f.Value); err == nil && code != codes.OK {
				c.code, c.hasCode = code, true
			}
		case HeaderPercentage:
			if n, ok := number(f.Value, 100); ok {
				c.fraction = uint32(n) * (Whole / 100)
			}
		}
	}
	return c
}

// number reads a whole number up to most, of digits alone.
func number(s string, most uint64) (uint64, bool) {
	n, err := strconv.ParseUint(s, 10, 64)
	return n, err == nil && n <= most
}

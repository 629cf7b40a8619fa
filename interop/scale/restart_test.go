package scale

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// restart has Consul's agent crash, stay away for a while, and come back, with so many
// requests held before. It says how many requests there were from when it came back, and
// when all watches worked again.
func (f *fleet) restart(t *testing.T, held int) *herd {
	t.Helper()
	away, after := time.Second, 500*time.Millisecond
	if *full {
		away, after = 8*time.Second, 3*time.Second // the waits between attempts are at their longest
	}
	f.agent.Kill()
	gone := time.Now()
	time.Sleep(away)
	h := &herd{held: held}
	back := time.Now()
	f.agent.Start(t)
	h.usable = time.Since(back)
	// Whatever any of them watches changes.
	h.change = f.change(t, f.everything()...)
	h.works = time.Since(back)
	time.Sleep(after)
	h.sent, h.failed = f.wire.since(back)
	for _, n := range h.sent[:min(len(h.sent), int(h.works/bin)+1)] {
		h.asked += n
	}
	during, _ := f.wire.since(gone)
	h.away = during[:int(away/bin)]
	for _, n := range h.sent {
		h.average += float64(n) / float64(len(h.sent))
	}
	h.peak = slices.Max(h.sent)
	return h
}

// check holds that they do not all come at once, and that they do not come again and again.
// A process that hardly runs sends together what was to be apart, so the first is for
// `make scale`: registry/consul's tests hold it in virtual time.
func (h *herd) check(t *testing.T) {
	t.Helper()
	if *full && h.peak > h.held/2 {
		t.Errorf("of %d requests held before Consul's restart %d come back within %v", h.held, h.peak, bin)
	}
	// Each is asked to learn what there is, to wait, and again after the change; statuses are
	// written. While Consul is not back yet each is tried less and less often.
	if most := float64(h.held) * (6 + h.works.Seconds()/2); float64(h.asked) > most {
		t.Errorf("for %d requests held before Consul's restart %d came in the %v until all watches worked, more than %.0f", h.held, h.asked, round(h.works), most)
	}
}

// herd is what comes to a Consul that is back.
type herd struct {
	held          int           // requests, before
	usable, works time.Duration // since it was started
	change        spread
	// away, sent and failed are requests in each tenth of a second: while it was away, and
	// from when it was started.
	away, sent, failed []int
	asked              int // of sent, until all watches worked
	peak               int // of sent
	average            float64
}

func (h *herd) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "usable after %v, all watches work after %v (a change of all: %v); for %d requests held before %d came until then, at most %d in 100 ms, on average %.0f",
		round(h.usable), round(h.works), h.change, h.held, h.asked, h.peak, h.average)
	for _, part := range []struct {
		what string
		bins []int
	}{{"tried while away", h.away}, {"sent since", h.sent}, {"of those failed", h.failed}} {
		fmt.Fprintf(&b, "\n      %s, each 100 ms:", part.what)
		for _, n := range part.bins {
			fmt.Fprintf(&b, " %d", n)
		}
	}
	return b.String()
}

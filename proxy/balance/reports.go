package balance

import (
	"math"
	"slices"
	"sync"
	"time"
)

// ReportOptions say what load reports mean (gRFC A58). A field that is zero means
// just that; the defaults are the configuration's.
type ReportOptions struct {
	// Blackout is how long an instance has to report until its weight is used.
	Blackout time.Duration
	// Expiration is how long a report holds.
	Expiration time.Duration
	// Update is how often weights are taken over.
	Update time.Duration
	// ErrorPenalty is how much a share of errors adds to the utilization.
	ErrorPenalty float64
}

// Reports is what one instance reports of its load. The zero value has heard
// nothing. Its methods may be called from many goroutines at once.
type Reports struct {
	mu     sync.Mutex
	weight float64
	last   time.Time // when weight was reported
	since  time.Time // since when there have been reports
}

// Observe takes note of a report. One without utilization or RPCs says nothing.
func (r *Reports) Observe(now time.Time, o *ReportOptions, report LoadReport) {
	utilization := report.Application
	if utilization == 0 {
		utilization = report.CPU
	}
	if utilization == 0 || report.RPS == 0 {
		return
	}
	weight := report.RPS / (utilization + report.EPS/report.RPS*o.ErrorPenalty)
	if !(weight > 0) || math.IsInf(weight, 1) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.weight, r.last = weight, now
	if r.since.IsZero() {
		r.since = now
	}
}

// Weight returns the weight that follows from the last report: RPCs per second for
// each part of utilization. It is 0 where there is none that holds.
func (r *Reports) Weight(now time.Time, o *ReportOptions) float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last.IsZero() {
		return 0
	}
	if now.Sub(r.last) >= o.Expiration {
		r.since = time.Time{}
		return 0
	}
	if o.Blackout > 0 && (r.since.IsZero() || now.Sub(r.since) < o.Blackout) {
		return 0
	}
	return r.weight
}

// Forget has the blackout begin anew, as for an instance that was gone meanwhile.
func (r *Reports) Forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.since, r.last = time.Time{}, time.Time{}
}

// heaviest is how many times the median a reported weight may be, or how many
// times less: who reports nonsense must not get everything, nor give it away.
const heaviest = 100

// FillReported changes reported weights, of which 0 are those of instances without
// one, to weights for all: who has none gets the mean. It is false where fewer than
// two instances report, which says nothing of how they compare.
func FillReported(weights []float64) bool {
	var known []float64
	for _, w := range weights {
		if w > 0 {
			known = append(known, w)
		}
	}
	if len(known) < 2 {
		return false
	}
	slices.Sort(known)
	median := known[(len(known)-1)/2]
	var mean float64
	for _, w := range known {
		mean += min(max(w, median/heaviest), median*heaviest) / float64(len(known))
	}
	for i, w := range weights {
		if w > 0 {
			weights[i] = min(max(w, median/heaviest), median*heaviest)
		} else {
			weights[i] = mean
		}
	}
	return true
}

// Scale turns weights into whole numbers in the same proportions, to a millionth
// of the greatest.
func Scale(weights []float64) []uint32 {
	const most = 1 << 20
	greatest := 0.0
	for _, w := range weights {
		greatest = max(greatest, w)
	}
	scaled := make([]uint32, len(weights))
	for i, w := range weights {
		if greatest > 0 {
			scaled[i] = uint32(math.Round(w / greatest * most))
		}
		scaled[i] = max(scaled[i], 1)
	}
	return scaled
}

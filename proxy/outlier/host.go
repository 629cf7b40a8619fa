package outlier

import (
	"sync/atomic"
	"time"
)

// Target is the instance that a Host stands for. Its methods are called with the
// Detector's lock held: they are a few atomic operations.
type Target interface {
	// Fit says whether the instance may take an RPC but for being ejected.
	Fit() bool
	// Eject has it left alone, or used again.
	Eject(on bool)
}

// Host is what a Detector knows of one instance.
type Host struct {
	// Target is whom it stands for.
	Target Target

	detector *Detector
	// counts holds what came in this interval: RPCs in the upper half, failures
	// among them in the lower. Both have to be read at once.
	counts atomic.Uint64
	inARow atomic.Uint32

	// Guarded by Detector.mu.

	known      bool // it is one of the Detector's hosts
	ejected    bool
	reason     Reason
	why        string
	since      time.Time
	until      time.Time
	multiplier int
}

const oneRPC = 1 << 32

// Record takes note of how an RPC ended. It takes no lock, unless it is one of so
// many failures in a row that the instance may have to be ejected.
func (h *Host) Record(now time.Time, failed bool) {
	if !failed {
		h.counts.Add(oneRPC)
		if h.inARow.Load() != 0 {
			h.inARow.Store(0)
		}
		return
	}
	h.counts.Add(oneRPC | 1)
	n := h.inARow.Add(1)
	// If it could not be ejected then, it is tried again after as many more.
	if most := h.detector.inARow.Load(); most > 0 && n%most == 0 {
		h.detector.failedInARow(now, h, n)
	}
}

// take returns what came in the interval that ends, and begins another.
func (h *Host) take() (rpcs, failures uint32) {
	n := h.counts.Swap(0)
	return uint32(n >> 32), uint32(n)
}

// lasts is how long an instance is ejected that was so often lately. cfg is not nil.
func (h *Host) lasts(cfg *Config) time.Duration {
	most := max(cfg.BaseTime, cfg.MaxTime)
	if int64(h.multiplier) > int64(most/cfg.BaseTime) {
		return most
	}
	return min(cfg.BaseTime*time.Duration(h.multiplier), most)
}

// Status describes a Host to people.
type Status struct {
	Ejected bool
	// Reason, Why, Since and Until are about the ejection that is in force.
	Reason       Reason
	Why          string
	Since, Until time.Time
	// Times is how often it was ejected lately, one for each of gRFC A50's
	// intervals less.
	Times int
	// RPCs and Failures are those of this interval so far; InARow is how many failed
	// since the last that did not.
	RPCs, Failures, InARow uint32
}

// Status returns the host's present state.
func (h *Host) Status() Status {
	n := h.counts.Load()
	st := Status{RPCs: uint32(n >> 32), Failures: uint32(n), InARow: h.inARow.Load()}
	h.detector.mu.Lock()
	defer h.detector.mu.Unlock()
	st.Times = h.multiplier
	if h.ejected {
		st.Ejected, st.Reason, st.Why, st.Since, st.Until = true, h.reason, h.why, h.since, h.until
	}
	return st
}

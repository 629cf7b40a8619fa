package outlier

import (
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Detector looks at the instances of one service. Whoever owns it calls Tick when
// Tick says so. All methods may be called from many goroutines; the owner's lock may
// be held.
type Detector struct {
	random func() uint64
	notify func(Event)

	// inARow is Config.ConsecutiveFailures, for those who hold no lock.
	inARow atomic.Uint32
	// full is until when no ejection for failures in a row is tried, because there
	// was no room for it (Unix time in nanoseconds): to look for room costs a look at
	// every instance, and where all fail there would be no end of it.
	full atomic.Int64

	mu      sync.Mutex
	cfg     *Config // nil: none
	hosts   []*Host
	sweepAt time.Time
	events  []Event // to be told once mu is let go
}

// fullFor is how long it is believed that there is no room for another ejection.
const fullFor = 100 * time.Millisecond

// New returns a Detector without configuration. random draws who is ejected where
// not all who should be are; notify is told what happens, with no lock of the
// Detector's held.
func New(random func() uint64, notify func(Event)) *Detector {
	return &Detector{random: random, notify: notify}
}

// NewHost returns a Host for an instance. It counts from the next Configure on that
// names it.
func (d *Detector) NewHost(t Target) *Host { return &Host{Target: t, detector: d} }

// Configure sets what holds from now on, and who there is. What is known of hosts
// that stay, stays, even if the rules are others. Without cfg all return.
func (d *Detector) Configure(now time.Time, cfg *Config, hosts []*Host) {
	d.mu.Lock()
	defer d.unlock()
	d.full.Store(0)
	switch {
	case cfg == nil:
		d.inARow.Store(0)
		for _, h := range d.hosts {
			d.giveBack(now, h, "there is no such policy any more")
			h.multiplier = 0
		}
		d.replace(now, nil)
		d.cfg, d.sweepAt = nil, time.Time{}
		return
	case d.cfg == nil:
		d.sweepAt = now.Add(cfg.Interval)
		for _, h := range hosts {
			h.counts.Store(0)
			h.inARow.Store(0)
		}
	default:
		// gRFC A50: the interval that is under way counts for the new one.
		d.sweepAt = d.sweepAt.Add(cfg.Interval - d.cfg.Interval)
	}
	d.cfg = cfg
	d.inARow.Store(uint32(cfg.ConsecutiveFailures))
	d.replace(now, hosts)
	// Those that went may leave too many of the rest ejected.
	fit, ejected := d.count()
	for range ejected - d.most(fit) {
		d.giveBack(now, d.first(), "there are fewer instances now")
	}
}

// replace takes over who there is. d.mu is held, and there is a configuration.
func (d *Detector) replace(now time.Time, hosts []*Host) {
	for _, h := range d.hosts {
		h.known = false
	}
	for _, h := range hosts {
		h.known = true
	}
	for _, h := range d.hosts {
		if !h.known {
			d.giveBack(now, h, "it is gone")
		}
	}
	d.hosts = slices.Clone(hosts)
}

// Tick does what is due and says when something is next; zero: never, as long as
// nobody calls Configure.
func (d *Detector) Tick(now time.Time) (next time.Time) {
	d.mu.Lock()
	defer d.unlock()
	if d.cfg == nil || len(d.hosts) == 0 {
		return time.Time{}
	}
	sweep := !now.Before(d.sweepAt)
	if sweep {
		// A clock that has leapt is not caught up with.
		d.sweepAt = now.Add(d.cfg.Interval)
		d.sweep(now)
	}
	for _, h := range d.hosts {
		switch {
		case h.ejected && !now.Before(h.until):
			d.giveBack(now, h, "its time is over")
		case !h.ejected && sweep && h.multiplier > 0:
			h.multiplier--
		}
	}
	if fit, ejected := d.count(); ejected > 0 && ejected == fit {
		d.giveBack(now, d.first(), "there is no other instance")
	}
	next = d.sweepAt
	for _, h := range d.hosts {
		if h.ejected && h.until.Before(next) {
			next = h.until
		}
	}
	return next
}

// unlock lets go of d.mu and tells what happened.
func (d *Detector) unlock() {
	events := d.events
	d.events = nil
	d.mu.Unlock()
	for _, e := range events {
		d.notify(e)
	}
}

// failedInARow ejects an instance of which n RPCs in a row failed.
func (d *Detector) failedInARow(now time.Time, h *Host, n uint32) {
	if now.UnixNano() < d.full.Load() {
		return
	}
	d.mu.Lock()
	defer d.unlock()
	if d.cfg == nil || h.ejected || !h.known || !h.Target.Fit() {
		return
	}
	if d.room() <= 0 {
		d.full.Store(now.Add(fullFor).UnixNano())
		d.held(h, ConsecutiveFailures)
		return
	}
	d.eject(now, h, ConsecutiveFailures, fmt.Sprintf("%d failures in a row", n))
}

// count returns how many instances are not unusable for another reason, and how many
// of these are ejected. d.mu is held.
func (d *Detector) count() (fit, ejected int) {
	for _, h := range d.hosts {
		if h.Target.Fit() {
			fit++
			if h.ejected {
				ejected++
			}
		}
	}
	return fit, ejected
}

// most is how many of so many instances may be ejected: one at least, but not all.
// d.mu is held.
func (d *Detector) most(fit int) int {
	percent := min(max(d.cfg.MaxPercent, 0), 100)
	return max(min(max(fit*percent/100, 1), fit-1), 0)
}

// room is how many more may be ejected. d.mu is held.
func (d *Detector) room() int {
	fit, ejected := d.count()
	return d.most(fit) - ejected
}

// first returns the one of those ejected that was so first. d.mu is held, and one is
// ejected and fit.
func (d *Detector) first() (first *Host) {
	for _, h := range d.hosts {
		if h.ejected && h.Target.Fit() && (first == nil || h.since.Before(first.since)) {
			first = h
		}
	}
	return first
}

// held notes that there is no room for an ejection. d.mu is held.
func (d *Detector) held(h *Host, reason Reason) {
	d.events = append(d.events, Event{Kind: Held, Host: h, Policy: d.cfg.Policy, Reason: reason})
}

// eject ejects an instance. d.mu is held, there is room, and it is fit and not
// ejected.
func (d *Detector) eject(now time.Time, h *Host, reason Reason, why string) {
	if h.multiplier < math.MaxInt32 {
		h.multiplier++
	}
	lasts := h.lasts(d.cfg)
	h.ejected, h.reason, h.why = true, reason, why
	h.since, h.until = now, now.Add(lasts)
	h.Target.Eject(true)
	d.events = append(d.events, Event{
		Kind: Ejected, Host: h, Policy: d.cfg.Policy, Reason: reason, Why: why, For: lasts, Times: h.multiplier,
	})
}

// giveBack has an instance used again, if it is ejected. d.mu is held.
func (d *Detector) giveBack(now time.Time, h *Host, why string) {
	if !h.ejected {
		return
	}
	h.ejected = false
	h.counts.Store(0)
	h.inARow.Store(0)
	h.Target.Eject(false)
	d.full.Store(0)
	d.events = append(d.events, Event{
		Kind: Returned, Host: h, Policy: d.cfg.Policy, Reason: h.reason, Why: why, For: now.Sub(h.since), Times: h.multiplier,
	})
}

package outlier

import (
	"fmt"
	"math"
	"math/bits"
	"time"
)

// share is what came of the RPCs of one instance in an interval.
type share struct {
	host           *Host
	rpcs, failures uint32
}

func (s *share) failed() float64 { return float64(s.failures) / float64(s.rpcs) }

// enough returns those that had so many RPCs, none where there are fewer than so
// many of them.
func enough(shares []share, volume, hosts int) []share {
	var some []share
	for _, s := range shares {
		if s.rpcs > 0 && uint64(s.rpcs) >= uint64(max(volume, 0)) {
			some = append(some, s)
		}
	}
	if len(some) < hosts {
		return nil
	}
	return some
}

// sweep is what gRFC A50 has done at the end of each interval, but for the ends of
// ejections. d.mu is held, and there is a configuration.
func (d *Detector) sweep(now time.Time) {
	shares := make([]share, 0, len(d.hosts))
	for _, h := range d.hosts {
		rpcs, failures := h.take()
		if h.Target.Fit() {
			shares = append(shares, share{h, rpcs, failures})
		}
	}
	if c := d.cfg.SuccessRate; c != nil {
		d.bySuccessRate(now, c, enough(shares, c.RequestVolume, c.MinimumHosts))
	}
	if c := d.cfg.FailurePercentage; c != nil {
		d.byFailurePercentage(now, c, enough(shares, c.RequestVolume, c.MinimumHosts))
	}
}

// rounding is what shares that are the same may differ by for being computed.
const rounding = 1e-12

// bySuccessRate is gRFC A50's success rate algorithm.
func (d *Detector) bySuccessRate(now time.Time, c *SuccessRate, shares []share) {
	mean, stdev := spread(shares)
	room := d.room()
	least := mean - stdev*float64(c.StdevFactor)/1000
	for i := range shares {
		s := &shares[i]
		rate := 1 - s.failed()
		if s.host.ejected || rate >= least-rounding || !d.draw(c.EnforcementPercentage) {
			continue
		}
		if room <= 0 {
			d.held(s.host, LowSuccessRate)
			return
		}
		room--
		d.eject(now, s.host, LowSuccessRate, fmt.Sprintf(
			"%.1f %% of %d RPCs succeeded, fewer than %.1f %% (the mean of %d instances is %.1f %%, the standard deviation %.1f %%)",
			100*rate, s.rpcs, 100*least, len(shares), 100*mean, 100*stdev))
	}
}

// byFailurePercentage is gRFC A50's failure percentage algorithm.
func (d *Detector) byFailurePercentage(now time.Time, c *FailurePercentage, shares []share) {
	room := d.room()
	for i := range shares {
		s := &shares[i]
		percent := 100 * s.failed()
		if s.host.ejected || percent <= float64(c.Threshold)+rounding || !d.draw(c.EnforcementPercentage) {
			continue
		}
		if room <= 0 {
			d.held(s.host, HighFailurePercentage)
			return
		}
		room--
		d.eject(now, s.host, HighFailurePercentage,
			fmt.Sprintf("%.1f %% of %d RPCs failed, more than %d %%", percent, s.rpcs, c.Threshold))
	}
}

// spread returns the mean of the success rates, and their standard deviation.
func spread(shares []share) (mean, stdev float64) {
	n := float64(len(shares))
	for i := range shares {
		mean += (1 - shares[i].failed()) / n
	}
	for i := range shares {
		d := 1 - shares[i].failed() - mean
		stdev += d * d / n
	}
	return mean, math.Sqrt(stdev)
}

// draw is true in so many of a hundred cases.
func (d *Detector) draw(percent int) bool {
	if percent >= 100 {
		return true
	}
	n, _ := bits.Mul64(d.random(), 100)
	return n < uint64(max(percent, 0))
}

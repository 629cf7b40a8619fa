package upstream

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pillion-proxy/pillion/proxy/breaker"
	"github.com/pillion-proxy/pillion/proxy/health"
	"github.com/pillion-proxy/pillion/proxy/outlier"
)

// Verdicts are what policies have an instance judged by, and what came of it. What no
// policy asks for is nil.
type Verdicts struct {
	// Blocked is what it is left alone for now.
	Blocked  Reason
	Ejection *outlier.Status
	Health   *health.Report
	Breaker  *breaker.Status
	// The policies that ask for them.
	EjectionPolicy, HealthPolicy, BreakerPolicy string
}

func (in *Instance) verdicts(now time.Time) Verdicts {
	v := Verdicts{Blocked: in.Blocked()}
	j := in.judge.Load()
	if j == nil {
		return v
	}
	if j.host != nil {
		v.Ejection, v.EjectionPolicy = new(j.host.Status()), j.rules.ejection.Policy
	}
	if j.asker != nil {
		v.Health, v.HealthPolicy = new(j.asker.report()), j.rules.health.Policy
	}
	if j.breaker != nil {
		v.Breaker, v.BreakerPolicy = new(j.breaker.State(now)), j.rules.policy
	}
	return v
}

// Text says in a line what the instance is left alone for, "" where that is nothing.
func (v *Verdicts) Text(now time.Time) string {
	var parts []string
	if e := v.Ejection; e != nil && e.Ejected {
		parts = append(parts, fmt.Sprintf("ejected by policy %q for %v more: %s", v.EjectionPolicy, rounded(e.Until.Sub(now)), e.Why))
	}
	if h := v.Health; h != nil && h.Unhealthy {
		parts = append(parts, fmt.Sprintf("unhealthy by policy %q for %v: %s", v.HealthPolicy, rounded(now.Sub(h.Since)), h.Last.Text))
	}
	if b := v.Breaker; b != nil {
		switch b.State {
		case breaker.Open:
			parts = append(parts, fmt.Sprintf("broken by policy %q: its circuit breaker is open for %v more: %s", v.BreakerPolicy, rounded(b.Until.Sub(now)), b.Reason))
		case breaker.HalfOpen:
			parts = append(parts, fmt.Sprintf("broken by policy %q: its circuit breaker is half-open: %d probes under way, %d have succeeded", v.BreakerPolicy, b.Probes, b.Succeeded))
		}
	}
	return strings.Join(parts, "; ")
}

// rounded is a time that people read.
func rounded(d time.Duration) time.Duration {
	d = max(d, 0)
	if d < time.Second {
		return d.Round(time.Millisecond)
	}
	return d.Round(100 * time.Millisecond)
}

// verdict says what the instance is left alone for, nil where that is nothing.
func (in *Instance) verdict(now time.Time) error {
	if in.Blocked() == 0 {
		return nil
	}
	v := in.verdicts(now)
	if text := v.Text(now); text != "" {
		return fmt.Errorf("%s is %s", in.address, text)
	}
	return errors.New(in.address + " is " + v.Blocked.String())
}

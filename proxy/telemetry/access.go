package telemetry

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// DenialKey says what refused an RPC.
type DenialKey struct {
	By DeniedBy
	// Policy is the access policy's name, "" for an intention.
	Policy string
	// Audit says that the RPC was let through all the same.
	Audit bool
}

// DeniedBy is what kind of thing refuses RPCs.
type DeniedBy uint8

// The kinds.
const (
	ByPolicy DeniedBy = iota
	ByIntention
)

// maxDenials bounds the keys that are told apart. Policies name them, but they change
// over months.
const maxDenials = 1000

// AccessDenied counts an RPC that access rules or intentions refused, or would have.
// Beyond a bound all other policies count as one, "other".
func (c *Counters) AccessDenied(key DenialKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, known := c.denials[key]; !known {
		if len(c.denials) >= maxDenials {
			key = DenialKey{Policy: other}
		} else {
			key.Policy = strings.Clone(key.Policy)
		}
		if c.denials == nil {
			c.denials = make(map[DenialKey]uint64)
		}
	}
	c.denials[key]++
}

var deniedDesc = prometheus.NewDesc("pillion_access_denied_total",
	"RPCs that an access policy or an intention refused (enforce), or would have (audit).", []string{"by", "policy", "mode"}, nil)

// collectDenials exports those that occurred.
func (c *Counters) collectDenials(ch chan<- prometheus.Metric) {
	c.mu.Lock()
	metrics := make([]prometheus.Metric, 0, len(c.denials))
	for key, n := range c.denials {
		by, mode := "policy", "enforce"
		if key.By == ByIntention {
			by = "intention"
		}
		if key.Audit {
			mode = "audit"
		}
		metrics = append(metrics, prometheus.MustNewConstMetric(deniedDesc, prometheus.CounterValue, float64(n), by, key.Policy, mode))
	}
	c.mu.Unlock()
	for _, m := range metrics {
		ch <- m
	}
}

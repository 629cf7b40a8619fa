package telemetry

import "github.com/prometheus/client_golang/prometheus"

// Denials is what an access policy has refused: RPCs that ended so, and those that were
// let through because it is in mode "audit".
type Denials struct {
	Policy           string // its name
	Refused, Audited uint64
}

// ExportDenials has what access rules and intentions refuse exported: each scrape asks
// what it is.
func (c *Counters) ExportDenials(denials func() []Denials) { c.denials.Store(&denials) }

var deniedDesc = prometheus.NewDesc("pillion_access_denied_total",
	"RPCs that an access policy or an intention refused (enforce), or would have (audit).", []string{"policy", "mode"}, nil)

// collectDenials exports what there is.
func (c *Counters) collectDenials(ch chan<- prometheus.Metric) {
	ask := c.denials.Load()
	if ask == nil {
		return
	}
	for _, d := range (*ask)() {
		ch <- prometheus.MustNewConstMetric(deniedDesc, prometheus.CounterValue, float64(d.Refused), d.Policy, "enforce")
		ch <- prometheus.MustNewConstMetric(deniedDesc, prometheus.CounterValue, float64(d.Audited), d.Policy, "audit")
	}
}

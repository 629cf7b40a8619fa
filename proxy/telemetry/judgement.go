package telemetry

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// Judgement holds what there is to count about instances of one destination that are
// left alone for what they answer.
type Judgement struct {
	// InForce says that a policy has instances judged: without, nothing is exported.
	InForce atomic.Bool
	// Ejections counts outlier ejections, by EjectionReasons; EjectionsHeld those that
	// were not made because as many instances were ejected as may be.
	Ejections     [len(ejectionReasons)]atomic.Uint64
	EjectionsHeld atomic.Uint64
	// HealthChecks counts the answers of health checks that were good, and bad ones.
	HealthChecks [2]atomic.Uint64
	// BreakerOpenings counts how often an instance's own breaker opened.
	BreakerOpenings atomic.Uint64
	// Blocked is how many instances are left alone now, by BlockReasons.
	Blocked [len(blockReasons)]atomic.Int64
}

// Labels of what Judgement counts.
var (
	ejectionReasons = [...]string{"consecutive_failures", "success_rate", "failure_percentage"}
	blockReasons    = [...]string{"ejected", "unhealthy", "broken"}
	checkResults    = [...]string{"good", "bad"}
)

var (
	ejectionsDesc = prometheus.NewDesc("pillion_ejections_total",
		"Instances that were left alone because more of their RPCs failed than of others', by the rule of the policy.", []string{"service", "reason"}, nil)
	ejectionsHeldDesc = prometheus.NewDesc("pillion_ejections_held_total",
		"Ejections that were not made because as many instances were ejected as may be.", []string{"service"}, nil)
	healthChecksDesc = prometheus.NewDesc("pillion_health_checks_total",
		"Answers of instances to health checks, by whether they were good; what takes too long is bad.", []string{"service", "result"}, nil)
	breakerOpeningsDesc = prometheus.NewDesc("pillion_instance_breaker_openings_total",
		"How often the circuit breaker of an instance opened.", []string{"service"}, nil)
	blockedDesc = prometheus.NewDesc("pillion_blocked_instances",
		"Instances that are left alone now, by the reason: ejected as outliers, unhealthy by health checks, broken by their circuit breaker.", []string{"service", "reason"}, nil)
)

var judgementDescs = []*prometheus.Desc{ejectionsDesc, ejectionsHeldDesc, healthChecksDesc, breakerOpeningsDesc, blockedDesc}

// collect exports what is counted of a destination whose instances are judged.
func (j *Judgement) collect(ch chan<- prometheus.Metric, service string) {
	if !j.InForce.Load() {
		return
	}
	counter := func(desc *prometheus.Desc, n uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(n), labels...)
	}
	for i := range j.Ejections {
		counter(ejectionsDesc, j.Ejections[i].Load(), service, ejectionReasons[i])
	}
	counter(ejectionsHeldDesc, j.EjectionsHeld.Load(), service)
	for i := range j.HealthChecks {
		counter(healthChecksDesc, j.HealthChecks[i].Load(), service, checkResults[i])
	}
	counter(breakerOpeningsDesc, j.BreakerOpenings.Load(), service)
	for i := range j.Blocked {
		ch <- prometheus.MustNewConstMetric(blockedDesc, prometheus.GaugeValue, float64(j.Blocked[i].Load()), service, blockReasons[i])
	}
}

package sidecar

import (
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pillion-proxy/pillion/proxy/breaker"
	"github.com/pillion-proxy/pillion/proxy/policy"
)

// policyMetrics exports what policies count, read off when it is asked for.
type policyMetrics struct {
	policies *policies
	// maxMethods bounds the methods whose circuits are told apart, by policy and
	// service: callers choose their names.
	maxMethods int
}

var (
	policiesDesc = prometheus.NewDesc("pillion_policies",
		"Policies, by whether they are in force. One of which the last good version is in force while what is written is refused counts as both.", []string{"state"}, nil)
	policySetDesc = prometheus.NewDesc("pillion_policy_set_info",
		"Always 1; the label says which policies are in force: it is the same on sidecars with the same.", []string{"version"}, nil)
	circuitStateDesc = prometheus.NewDesc("pillion_circuit_breaker_state",
		"State of the circuit breaker of a method: 0 closed, 1 half-open, 2 open.", []string{"policy", "service", "method"}, nil)
	circuitRejectedDesc = prometheus.NewDesc("pillion_circuit_breaker_rejected_total",
		"RPCs that were not sent, because the circuit breaker was open or because as many were under way as may be.", []string{"policy", "service", "method", "reason"}, nil)
	circuitUnderWayDesc = prometheus.NewDesc("pillion_circuit_breaker_rpcs",
		"RPCs under a limit of a circuit breaker policy now: under way, or waiting for one of those to end.", []string{"policy", "service", "method", "state"}, nil)
	rateLimitedDesc = prometheus.NewDesc("pillion_rate_limited_total",
		"RPCs that a rate limit refused, by the limit's number in its policy, from 1 on.", []string{"policy", "limit"}, nil)
	faultsDesc = prometheus.NewDesc("pillion_faults_injected_total",
		"RPCs that a fault policy made wait or fail.", []string{"policy", "kind"}, nil)
)

// Describe implements prometheus.Collector.
func (policyMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		policiesDesc, policySetDesc, circuitStateDesc, circuitRejectedDesc, circuitUnderWayDesc, rateLimitedDesc, faultsDesc,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m policyMetrics) Collect(ch chan<- prometheus.Metric) {
	version, inForce, refused := m.policies.count()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(policiesDesc, float64(inForce), "in_force")
	gauge(policiesDesc, float64(refused), "refused")
	if version != "" {
		gauge(policySetDesc, 1, version)
	}
	counter := func(d *prometheus.Desc, n uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	set, _ := m.policies.inForce()
	circuits := circuitMetrics{left: m.maxMethods, gauge: gauge, counter: counter}
	for one := range set.All() {
		name := one.Source.GetName()
		switch {
		case one.Breaker != nil:
			circuits.collect(one)
		case one.RateLimit != nil:
			for i, n := range one.RateLimit.Refused() {
				counter(rateLimitedDesc, n, name, strconv.Itoa(i+1))
			}
		case one.Fault != nil:
			c := one.Fault.Counts()
			counter(faultsDesc, c.Delayed, name, "delay")
			counter(faultsDesc, c.Aborted, name, "abort")
		}
	}
}

// circuitMetrics exports circuits, as long as there is room for their methods.
type circuitMetrics struct {
	left    int
	gauge   func(d *prometheus.Desc, v float64, labels ...string)
	counter func(d *prometheus.Desc, n uint64, labels ...string)
}

// collect exports the circuits of one policy. Those for which there is no room are
// summed up as the method "other", whose state is the worst among them.
func (m *circuitMetrics) collect(one policy.InForce) {
	var beyond breaker.CircuitStatus
	worst, some := 0.0, false
	name := one.Source.GetName()
	for key, st := range one.Breaker.Circuits(time.Now()) {
		if m.left == 0 || key == breaker.Other {
			some = true
			worst = max(worst, stateNumber(st.Breaker.State))
			beyond.Refused += st.Refused
			beyond.Overflowed += st.Overflowed
			beyond.UnderWay += st.UnderWay
			beyond.Waiting += st.Waiting
			continue
		}
		m.left--
		m.export(one, stateNumber(st.Breaker.State), &st, name, key.Service, strings.TrimPrefix(key.Path, "/"))
	}
	if some {
		m.export(one, worst, &beyond, name, "other", "other")
	}
}

func (m *circuitMetrics) export(one policy.InForce, state float64, st *breaker.CircuitStatus, labels ...string) {
	if one.Source.GetCircuitBreaker().GetTrip() != nil {
		m.gauge(circuitStateDesc, state, labels...)
		m.counter(circuitRejectedDesc, st.Refused, append(labels, "open")...)
	}
	if one.Source.GetCircuitBreaker().MaxConcurrent != nil {
		m.counter(circuitRejectedDesc, st.Overflowed, append(labels, "full")...)
		m.gauge(circuitUnderWayDesc, float64(st.UnderWay), append(labels, "under_way")...)
		m.gauge(circuitUnderWayDesc, float64(st.Waiting), append(labels, "waiting")...)
	}
}

// stateNumber is a breaker's state as metrics write it: the worse, the higher.
func stateNumber(s breaker.State) float64 {
	switch s {
	case breaker.Closed:
		return 0
	case breaker.HalfOpen:
		return 1
	default:
		return 2
	}
}

package canary

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pillion-proxy/pillion/control"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
)

// Metrics is the prometheus.Collector of
//
//	pillion_canary_weight{service,canary}             the canary's share of RPCs here, from 0 to 1
//	pillion_canary_phase{service,canary,phase}        1 for the phase that it is in
//	pillion_canary_trips_total{service,canary}        how often this sidecar took its own RPCs off it
//	pillion_canary_transitions_total{service,canary,phase}  what this sidecar decided, by the phase that it led to
//
// The zero value is ready for use.
type Metrics struct {
	mu          sync.Mutex
	held        map[label]gauge
	trips       map[label]uint64
	transitions map[transitionLabel]uint64
}

type label struct{ service, canary string }

type transitionLabel struct {
	label
	phase string
}

type gauge struct {
	weight uint32
	phase  string
}

// maxLabels bounds the canaries that are told apart: documents name them, but they change
// over months.
const maxLabels = 2000

var (
	weightDesc = prometheus.NewDesc("pillion_canary_weight",
		"The canary's share of RPCs here, from 0 to 1.", []string{"service", "canary"}, nil)
	phaseDesc = prometheus.NewDesc("pillion_canary_phase",
		"1 for the phase that the canary is in.", []string{"service", "canary", "phase"}, nil)
	tripsDesc = prometheus.NewDesc("pillion_canary_trips_total",
		"How often this sidecar took its own RPCs off the canary.", []string{"service", "canary"}, nil)
	transitionsDesc = prometheus.NewDesc("pillion_canary_transitions_total",
		"Transitions of canaries that this sidecar decided, by the phase that they led to.", []string{"service", "canary", "phase"}, nil)
)

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{weightDesc, phaseDesc, tripsDesc, transitionsDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for l, g := range m.held {
		ch <- prometheus.MustNewConstMetric(weightDesc, prometheus.GaugeValue, float64(g.weight)/all, l.service, l.canary)
		ch <- prometheus.MustNewConstMetric(phaseDesc, prometheus.GaugeValue, 1, l.service, l.canary, g.phase)
	}
	for l, n := range m.trips {
		ch <- prometheus.MustNewConstMetric(tripsDesc, prometheus.CounterValue, float64(n), l.service, l.canary)
	}
	for l, n := range m.transitions {
		ch <- prometheus.MustNewConstMetric(transitionsDesc, prometheus.CounterValue, float64(n), l.service, l.canary, l.phase)
	}
}

func (m *Metrics) hold(service, canary string, phase controlv1.Phase, weight uint32) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.held == nil {
		m.held = map[label]gauge{}
	}
	if len(m.held) < maxLabels || m.held[label{service, canary}] != (gauge{}) {
		m.held[label{service, canary}] = gauge{weight, control.PhaseWord(phase)}
	}
}

func (m *Metrics) drop(service, canary string) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.held, label{service, canary})
}

func (m *Metrics) trip(service, canary string) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	bump(&m.trips, label{service, canary})
}

func (m *Metrics) transition(service, canary string, phase controlv1.Phase) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	bump(&m.transitions, transitionLabel{label{service, canary}, control.PhaseWord(phase)})
}

func bump[L comparable](counts *map[L]uint64, l L) {
	if *counts == nil {
		*counts = map[L]uint64{}
	}
	if (*counts)[l] > 0 || len(*counts) < maxLabels {
		(*counts)[l]++
	}
}

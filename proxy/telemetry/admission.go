package telemetry

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Shed is why an RPC was refused at its headers, before anything was done for it.
type Shed uint8

// The reasons. NumSheds is how many there are.
const (
	// ShedMaxRPCs: as many RPCs are under way as may be.
	ShedMaxRPCs Shed = iota
	// ShedConcurrency: the app has as many as it can have without becoming slow.
	ShedConcurrency

	NumSheds = iota
)

var shedNames = [NumSheds]string{ShedMaxRPCs: "max_rpcs", ShedConcurrency: "concurrency_limit"}

// String returns the reason as the metrics' label has it.
func (s Shed) String() string {
	if int(s) >= len(shedNames) {
		return ""
	}
	return shedNames[s]
}

// Admission holds what there is to count about which RPCs of one direction may
// begin. Who decides that keeps its state here, so that it is counted once.
type Admission struct {
	_ [cacheLine]byte // every RPC writes here; a neighbour is not on the line
	// InFlight is how many RPCs hold memory: those under way, and those that have
	// ended but whose caller has not taken the answer yet.
	InFlight atomic.Int64
	_        [cacheLine - 8]byte
	// Waiting is how many RPCs the adaptive limit counts: those that the app has
	// not begun to answer. Limit is that limit, 0 where there is none.
	Waiting, Limit atomic.Int64
	// Latency is what the app takes without a queue, in nanoseconds, as far as the
	// adaptive limit knows: 0 until it was measured.
	Latency atomic.Int64
	// Shed counts the RPCs that were refused.
	Shed [NumSheds]atomic.Uint64
	_    [cacheLine]byte
}

var (
	inFlightDesc = prometheus.NewDesc("pillion_rpcs_in_flight",
		"RPCs under way, and those that have ended but whose caller has not taken the answer yet.", []string{"side"}, nil)
	shedDesc = prometheus.NewDesc("pillion_rpcs_shed_total",
		"RPCs that were refused before they went on, by what was reached.", []string{"side", "reason"}, nil)
	limitDesc = prometheus.NewDesc("pillion_concurrency_limit",
		"How many RPCs the app may have at once that it has not begun to answer, as the adaptive limit finds it.", nil, nil)
	waitingDesc = prometheus.NewDesc("pillion_concurrency_waiting",
		"RPCs that the adaptive limit counts: those that the app has not begun to answer.", nil, nil)
	latencyDesc = prometheus.NewDesc("pillion_concurrency_latency_seconds",
		"What the app takes for an RPC without a queue, as the adaptive limit has measured it.", nil, nil)
)

var admissionDescs = []*prometheus.Desc{inFlightDesc, shedDesc, limitDesc, waitingDesc, latencyDesc}

// collect exports what is counted. That of the adaptive limit is there where the
// limit is.
func (a *Admission) collect(ch chan<- prometheus.Metric, side string) {
	gauge := func(desc *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, v, labels...)
	}
	gauge(inFlightDesc, float64(a.InFlight.Load()), side)
	for reason := range a.Shed {
		ch <- prometheus.MustNewConstMetric(shedDesc, prometheus.CounterValue,
			float64(a.Shed[reason].Load()), side, Shed(reason).String())
	}
	if limit := a.Limit.Load(); limit > 0 {
		gauge(limitDesc, float64(limit))
		gauge(waitingDesc, float64(a.Waiting.Load()))
		gauge(latencyDesc, time.Duration(a.Latency.Load()).Seconds())
	}
}

package experiment

import (
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

var (
	unitsDesc = prometheus.NewDesc("pillion_experiment_units",
		"Units that this sidecar keeps for the experiment, by variant.", []string{"service", "experiment", "variant"}, nil)
	crossedDesc = prometheus.NewDesc("pillion_experiment_crossed_units",
		"Units that this sidecar has seen in several variants of the experiment.", []string{"service", "experiment"}, nil)
	sampledDesc = prometheus.NewDesc("pillion_experiment_sampled_ratio",
		"The part of all units that is kept for the experiment.", []string{"service", "experiment"}, nil)
)

// Metrics returns the collector of
//
//	pillion_experiment_units{service,experiment,variant}   units that this sidecar keeps
//	pillion_experiment_crossed_units{service,experiment}   units that it has seen in several variants
//	pillion_experiment_sampled_ratio{service,experiment}   the part of all units that is kept
//
// of the experiments that run. What they come to is not among them: that is for
// `pillion experiment report`, which knows how sure it is.
func (a *Agent) Metrics() prometheus.Collector { return collector{a} }

type collector struct{ agent *Agent }

// Describe implements prometheus.Collector.
func (c collector) Describe(ch chan<- *prometheus.Desc) {
	ch <- unitsDesc
	ch <- crossedDesc
	ch <- sampledDesc
}

// Collect implements prometheus.Collector.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	type one struct {
		service, name string
		variants      []string
		counter       *counter
	}
	c.agent.mu.Lock()
	list := make([]one, 0, len(c.agent.runs))
	for name, r := range c.agent.runs {
		now := one{service: r.service, name: name, counter: r.counter}
		for _, v := range r.experiment.GetVariants() {
			now.variants = append(now.variants, v.GetName())
		}
		list = append(list, now)
	}
	c.agent.mu.Unlock()
	slices.SortFunc(list, func(a, b one) int { return strings.Compare(a.name, b.name) })
	for _, r := range list {
		units, crossed := r.counter.sizes()
		for i, variant := range r.variants {
			ch <- prometheus.MustNewConstMetric(unitsDesc, prometheus.GaugeValue, float64(units[i]), r.service, r.name, variant)
		}
		ch <- prometheus.MustNewConstMetric(crossedDesc, prometheus.GaugeValue, float64(crossed), r.service, r.name)
		ch <- prometheus.MustNewConstMetric(sampledDesc, prometheus.GaugeValue, sampled(r.counter.threshold.Load()), r.service, r.name)
	}
}

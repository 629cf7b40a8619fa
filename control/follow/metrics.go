package follow

import "github.com/prometheus/client_golang/prometheus"

var (
	documentsDesc = prometheus.NewDesc("pillion_control_documents",
		"Documents of the services in use, by kind and by how they stand: in_force, kept (an earlier version holds), refused.", []string{"kind", "state"}, nil)
	staleDesc = prometheus.NewDesc("pillion_control_stale",
		"Whether the store of the mesh's documents cannot be asked (1), so that what is obeyed may be out of date.", nil, nil)
)

// Describe implements prometheus.Collector.
func (f *Follower) Describe(ch chan<- *prometheus.Desc) {
	ch <- documentsDesc
	ch <- staleDesc
}

// Collect implements prometheus.Collector.
func (f *Follower) Collect(ch chan<- prometheus.Metric) {
	type label struct{ kind, state string }
	counts := map[label]int{}
	list, _ := f.Documents()
	for _, d := range list {
		state := "in_force"
		switch {
		case d.GetProblem() != "" && d.GetInForce() == 0:
			state = "refused"
		case d.GetProblem() != "":
			state = "kept"
		}
		counts[label{d.GetKind(), state}]++
	}
	for l, n := range counts {
		ch <- prometheus.MustNewConstMetric(documentsDesc, prometheus.GaugeValue, float64(n), l.kind, l.state)
	}
	stale := 0.0
	if f.Err() != nil {
		stale = 1
	}
	ch <- prometheus.MustNewConstMetric(staleDesc, prometheus.GaugeValue, stale)
}

package telemetry

import "github.com/prometheus/client_golang/prometheus"

// NewBuildInfo returns the collector of pillion_build_info{version,revision,go},
// which is always 1: its labels say what runs.
func NewBuildInfo(version, revision, goVersion string) prometheus.Collector {
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "pillion_build_info",
		Help:        "Always 1; the labels say which Pillion this is.",
		ConstLabels: prometheus.Labels{"version": version, "revision": revision, "go": goVersion},
	})
	info.Set(1)
	return info
}

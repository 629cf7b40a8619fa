package sidecar

import (
	"context"

	"github.com/pillion-proxy/pillion/control/kv"
	"github.com/pillion-proxy/pillion/control/mesh"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
)

// counting is all agents that count.
type counting []mesh.Counting

// Collect implements mesh.Counting.
func (c counting) Collect(service string, r *meshv1.ReportRequest, all bool) {
	for _, one := range c {
		one.Collect(service, r, all)
	}
}

// Urgent implements mesh.Counting.
func (c counting) Urgent(tell func(service string)) {
	for _, one := range c {
		one.Urgent(tell)
	}
}

// Obey implements mesh.Counting.
func (c counting) Obey(service string, states []*controlv1.RunState, thresholds map[string]uint64) {
	for _, one := range c {
		one.Obey(service, states, thresholds)
	}
}

// Hear implements mesh.Hearing.
func (c counting) Hear(service string, sources map[string]*meshv1.Sources) {
	for _, one := range c {
		if hearing, ok := one.(mesh.Hearing); ok {
			hearing.Hear(service, sources)
		}
	}
}

// leading decides on canaries and on experiments.
type leading struct{ canaries, experiments mesh.Leading }

// leadBoth has both led.
func leadBoth(canaries, experiments mesh.Lead) mesh.Lead {
	return func(ctx context.Context, service string, store kv.Store, publish func(*meshv1.ReportResponse)) mesh.Leading {
		return &leading{canaries(ctx, service, store, publish), experiments(ctx, service, store, publish)}
	}
}

// Take implements mesh.Leading.
func (l *leading) Take(from *meshv1.Hello, r *meshv1.ReportRequest) {
	l.canaries.Take(from, r)
	l.experiments.Take(from, r)
}

// Gone implements mesh.Leading.
func (l *leading) Gone(from *meshv1.Hello) {
	l.canaries.Gone(from)
	l.experiments.Gone(from)
}

// Evidence implements mesh.Leading.
func (l *leading) Evidence(name string) *meshv1.EvidenceResponse { return l.canaries.Evidence(name) }

// Results implements mesh.Leading.
func (l *leading) Results(name string) *meshv1.ResultsResponse { return l.experiments.Results(name) }

// Close implements mesh.Leading.
func (l *leading) Close() {
	l.canaries.Close()
	l.experiments.Close()
}

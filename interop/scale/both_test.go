package scale

import (
	"context"
	"log/slog"

	"github.com/pillion-proxy/pillion/control/canary"
	"github.com/pillion-proxy/pillion/control/experiment"
	"github.com/pillion-proxy/pillion/control/kv"
	"github.com/pillion-proxy/pillion/control/mesh"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
)

// Canaries and experiments together, as the command has them.

// counting is what a sidecar counts.
type counting struct {
	canaries    *canary.Agent
	experiments *experiment.Agent
}

func (c counting) Collect(service string, r *meshv1.ReportRequest, all bool) {
	c.canaries.Collect(service, r, all)
	c.experiments.Collect(service, r, all)
}

func (c counting) Urgent(tell func(service string)) { c.canaries.Urgent(tell) }

func (c counting) Obey(service string, states []*controlv1.RunState, thresholds map[string]uint64) {
	c.canaries.Obey(service, states, thresholds)
	c.experiments.Obey(service, states, thresholds)
}

func (c counting) Hear(service string, sources map[string]*meshv1.Sources) {
	c.experiments.Hear(service, sources)
}

// observer is who counts what RPCs of a group come to.
func (s *sidecar) observer(key telemetry.GroupKey) telemetry.Observer {
	if o := s.canaries.Observer(key); o != nil {
		return o
	}
	return s.experiments.Observer(key)
}

// leading is what an elected sidecar does.
type leading struct {
	mesh.Leading // of canaries

	experiments mesh.Leading
	talk        *talk
}

func leadBoth(s *sidecar, logger *slog.Logger) mesh.Lead {
	canaries := canary.Lead(canary.LeadOptions{ID: s.id, Known: s.canaries.Known, Logger: logger})
	experiments := experiment.Lead(experiment.LeadOptions{ID: s.id, Known: s.experiments.Known, Logger: logger})
	return func(ctx context.Context, service string, store kv.Store, publish func(*meshv1.ReportResponse)) mesh.Leading {
		return &leading{canaries(ctx, service, store, publish), experiments(ctx, service, store, publish), &s.fleet.talk}
	}
}

func (l *leading) Take(from *meshv1.Hello, r *meshv1.ReportRequest) {
	l.talk.reports.Add(1)
	l.Leading.Take(from, r)
	l.experiments.Take(from, r)
}

func (l *leading) Gone(from *meshv1.Hello) {
	l.Leading.Gone(from)
	l.experiments.Gone(from)
}

func (l *leading) Results(name string) *meshv1.ResultsResponse { return l.experiments.Results(name) }

func (l *leading) Close() {
	l.Leading.Close()
	l.experiments.Close()
}

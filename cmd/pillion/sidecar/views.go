package sidecar

import (
	"maps"
	"slices"
	"time"

	adminv1 "github.com/pillion-proxy/pillion/proto/pillion/admin/v1"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	"github.com/pillion-proxy/pillion/proxy/upstream"
)

// endpointsView shows the services in use to the admin API.
type endpointsView struct{ s *Sidecar }

// Endpoints implements server.Endpoints.
func (v endpointsView) Endpoints() []*adminv1.Service {
	var out []*adminv1.Service
	if v.s.outbound != nil {
		for _, c := range v.s.outbound.Clusters() {
			out = append(out, describe(c, adminv1.Side_SIDE_OUTBOUND))
		}
	}
	if v.s.inbound != nil {
		app := describe(v.s.inbound.Cluster(), adminv1.Side_SIDE_INBOUND)
		app.Grpc = slices.Clone(v.s.cfg.GetService().GetGrpc())
		if len(app.Grpc) == 0 {
			app.Grpc = v.s.app.answers()
		}
		slices.Sort(app.Grpc)
		for _, in := range app.GetInstances() {
			in.Meta, in.Tags = maps.Clone(v.s.cfg.GetService().GetMeta()), v.s.cfg.GetService().GetTags()
		}
		out = append(out, app)
	}
	return out
}

func describe(c *upstream.Cluster, side adminv1.Side) *adminv1.Service {
	st := c.Status()
	out := &adminv1.Service{Name: st.Service, Side: side, Grpc: st.GRPC, Stale: st.Stale, LoadBalancing: st.Policy}
	now := time.Now()
	for _, in := range st.Instances {
		shown := &adminv1.Instance{
			Id: in.Endpoint.ID, Address: in.Endpoint.Address, Weight: in.Endpoint.Weight,
			Meta: maps.Clone(in.Endpoint.Meta), Tags: slices.Clone(in.Endpoint.Tags),
			State: instanceState(in), InFlight: uint32(max(in.InFlight, 0)), Connections: uint32(in.Connections),
			LastError: in.LastError, RetryAt: timestamp(in.RetryAt), Security: in.Endpoint.Security.String(),
		}
		judgement(shown, &in.Verdicts, now)
		out.Instances = append(out.Instances, shown)
	}
	return out
}

func instanceState(in upstream.InstanceStatus) adminv1.InstanceState {
	switch {
	case !in.Reachable:
		return adminv1.InstanceState_INSTANCE_STATE_BACKOFF
	case in.Connections > 0:
		return adminv1.InstanceState_INSTANCE_STATE_READY
	case in.Waiting > 0:
		return adminv1.InstanceState_INSTANCE_STATE_CONNECTING
	default:
		return adminv1.InstanceState_INSTANCE_STATE_IDLE
	}
}

// configView shows the configuration in effect to the admin API.
type configView struct{ s *Sidecar }

// Config implements server.Config.
func (v configView) Config() *configv1.Bootstrap { return v.s.cfg }

// listenersView shows where the sidecar listens to the admin API.
type listenersView struct{ s *Sidecar }

// Listeners implements server.Listeners.
func (v listenersView) Listeners() []*adminv1.Listener {
	var out []*adminv1.Listener
	for _, side := range slices.Sorted(maps.Keys(v.s.listeners)) {
		out = append(out, &adminv1.Listener{Name: side, Address: address(v.s.listeners[side])})
	}
	return out
}

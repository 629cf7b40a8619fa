package sidecar

import (
	"context"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pillion-proxy/pillion/cmd/pillion/explain"
	adminv1 "github.com/pillion-proxy/pillion/proto/pillion/admin/v1"
	"github.com/pillion-proxy/pillion/proxy/balance"
	"github.com/pillion-proxy/pillion/proxy/policy"
	"github.com/pillion-proxy/pillion/proxy/routing"
	"github.com/pillion-proxy/pillion/proxy/upstream"
	"github.com/pillion-proxy/pillion/proxy/wire"
	"github.com/pillion-proxy/pillion/registry"
)

// policiesView shows the policies to the admin API.
type policiesView struct{ s *Sidecar }

// Policies implements server.Policies.
func (v policiesView) Policies() *adminv1.Policies { return v.s.policies.Policies() }

// Explain implements server.Policies.
func (v policiesView) Explain(ctx context.Context, request *adminv1.ExplainRequest) (*adminv1.ExplainResponse, error) {
	set, written := v.s.policies.inForce()
	out := v.s.cfg.GetOutbound()
	w := &explain.World{
		Set: set, Live: true, Now: time.Now(),
		Caller:         v.s.cfg.GetService().GetName(),
		DefaultTimeout: out.GetDefaultTimeout().AsDuration(), MaxTimeout: out.GetMaxTimeout().AsDuration(),
		Find: func(authority, path string) (service, by string) { return v.find(ctx, authority, path) },
		Cluster: func(ctx context.Context, service string) (*upstream.Cluster, string, func()) {
			return v.cluster(ctx, service, set)
		},
	}
	if v.s.who != nil {
		w.ServiceID = v.s.who.template
		if own := v.s.who.keeper.Current(); own != nil {
			w.From = own.ID
		}
	}
	if written != nil {
		w.Place = func(name string) string { return written.Places[name] }
		w.Locate = func(name, field string) string {
			at, _, _ := strings.Cut(written.Place(name, field), ": ")
			return at
		}
	}
	answer, err := explain.Explain(ctx, w, request)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, "admin: "+err.Error())
	}
	if v.s.outbound == nil {
		answer.Notes = append(answer.Notes, "this sidecar has no outbound side: it is only where RPCs arrive that its policies hold")
	}
	return answer, nil
}

// find says which service an RPC is addressed to. What nobody has called yet, the
// registry is asked for.
func (v policiesView) find(ctx context.Context, authority, path string) (service, by string) {
	if v.s.outbound == nil {
		return routing.ServiceName(authority), "authority"
	}
	found := v.s.outbound.Find(authority, path)
	switch {
	case !found.Wait:
		return found.Service, found.Route
	case found.Service != "" && found.Service == routing.ServiceName(authority):
		if known, answered := v.askRegistry(ctx, found.Service); known != nil || !answered {
			return found.Service, "authority"
		}
	case found.Service != "":
		return found.Service, found.Route
	}
	ctx, cancel := context.WithTimeout(ctx, registryPatience)
	defer cancel()
	grpcService, _, _ := wire.SplitPath(path)
	if answering, err := v.s.source.Answering(ctx, grpcService); err == nil && len(answering) == 1 {
		return answering[0], "grpc service"
	}
	if name := v.s.cfg.GetOutbound().GetDefaultService(); name != "" {
		return name, "default"
	}
	return routing.ServiceName(authority), "authority"
}

// cluster returns the instances of a service: those in use, or as the registry has them.
func (v policiesView) cluster(ctx context.Context, service string, set *policy.Set) (*upstream.Cluster, string, func()) {
	if v.s.outbound != nil {
		for _, c := range v.s.outbound.Clusters() {
			if c.Name() == service {
				return c, "", nil
			}
		}
	}
	known, answered := v.askRegistry(ctx, service)
	switch {
	case !answered:
		return nil, fmt.Sprintf("nobody has called service %q through this sidecar lately, and the registry does not say in time where it is", service), nil
	case known == nil:
		return nil, fmt.Sprintf("service %q is not in the registry", service), nil
	}
	way, _ := balance.ParsePolicy(v.s.cfg.GetOutbound().GetLoadBalancing())
	c, done := explain.Unused(service, known.Endpoints, set, way, v.s.cfg.GetService().GetMeta())
	return c, fmt.Sprintf("nobody has called service %q through this sidecar lately: its instances are as the registry has them, and none is connected to", service), done
}

// registryPatience is how long the registry may take to say where a service is.
const registryPatience = 2 * time.Second

// askRegistry asks once where a service is; nil: there is no such.
func (v policiesView) askRegistry(ctx context.Context, service string) (known *registry.Service, answered bool) {
	ctx, cancel := context.WithTimeout(ctx, registryPatience)
	defer cancel()
	v.s.source.Watch(ctx, service, func(s *registry.Service) {
		if !answered {
			known, answered = s, true
			cancel()
		}
	})
	return known, answered
}

package mesh

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/kv"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
)

// Evidence returns what the elected sidecar has counted of a canary, whichever that
// sidecar is. Its errors are statuses of one line: NOT_FOUND where there is no such
// canary, FAILED_PRECONDITION where nobody is elected, which is so while nothing runs.
func (m *Member) Evidence(ctx context.Context, service, name string) (*meshv1.EvidenceResponse, error) {
	if st := m.seat(service).led(); st != nil {
		return asked(st, name, "canary", Leading.Evidence)
	}
	return remote(ctx, m, service, func(c meshv1.MeshClient, ctx context.Context) (*meshv1.EvidenceResponse, error) {
		return c.Evidence(ctx, &meshv1.EvidenceRequest{Service: service, Name: name})
	})
}

// Results returns what the elected sidecar has counted of an experiment, as Evidence does.
func (m *Member) Results(ctx context.Context, service, name string) (*meshv1.ResultsResponse, error) {
	if st := m.seat(service).led(); st != nil {
		return asked(st, name, "experiment", Leading.Results)
	}
	return remote(ctx, m, service, func(c meshv1.MeshClient, ctx context.Context) (*meshv1.ResultsResponse, error) {
		return c.Results(ctx, &meshv1.ResultsRequest{Service: service, Name: name})
	})
}

// remote asks the elected sidecar.
func remote[T any](ctx context.Context, m *Member, service string, ask func(meshv1.MeshClient, context.Context) (*T, error)) (*T, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	leader, err := m.leaderOf(ctx, service)
	if err != nil {
		return nil, err
	}
	if leader.GetAddress() == "" {
		return nil, status.Errorf(codes.FailedPrecondition, "control: sidecar %s is elected for service %q, and others cannot reach it: ask it itself", leader.GetId(), service)
	}
	cc, err := m.connect(leader, nil)
	if err != nil {
		return nil, status.Error(codes.Unavailable, "control: "+err.Error())
	}
	defer func() { _ = cc.Close() }()
	found, err := ask(meshv1.NewMeshClient(cc), ctx)
	switch code := status.Code(err); code {
	case codes.OK, codes.NotFound:
		return found, err
	default:
		return nil, status.Errorf(code, "control: sidecar %s at %s, which is elected for service %q, cannot be asked: %s", leader.GetId(), leader.GetAddress(), service, because(err))
	}
}

// leaderOf returns who is elected for a service.
func (m *Member) leaderOf(ctx context.Context, service string) (*controlv1.Leader, error) {
	if !isName(service) {
		return nil, status.Errorf(codes.InvalidArgument, "control: %q is no service", service)
	}
	if s := m.seat(service); s != nil {
		if now, _ := s.look(); now.leader != nil {
			return now.leader, nil
		}
	}
	entry, err := m.o.Store.Get(ctx, control.LeaderKey(service))
	switch {
	case errors.Is(err, kv.ErrNotFound):
		return nil, status.Errorf(codes.FailedPrecondition, "control: no sidecar is elected for service %q: none of its canaries and experiments runs, or nobody follows it", service)
	case err != nil:
		return nil, status.Errorf(codes.Unavailable, "control: it is not known who is elected for service %q: %v", service, err)
	}
	leader := new(controlv1.Leader)
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(entry.Value, leader); err != nil {
		return nil, status.Errorf(codes.Internal, "control: who is elected for service %q cannot be read: %v", service, err)
	}
	return leader, nil
}

package sidecar

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/pillion-proxy/pillion/proto/pillion/admin/v1"
	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
)

// controlView shows what the mesh's documents come to here to the admin API.
type controlView struct{ s *Sidecar }

// errNoControl says that there is nothing to show.
var errNoControl = status.Error(codes.FailedPrecondition, "admin: this sidecar does not follow the mesh's documents: write control: {} into its bootstrap")

// Recorded implements server.Control.
func (v controlView) Recorded() *adminv1.ListRecordedResponse {
	out := &adminv1.ListRecordedResponse{}
	if v.s.outbound == nil || v.s.control == nil {
		return out
	}
	rpcs, oneIn := v.s.outbound.Recorded()
	out.OneIn = uint32(oneIn)
	for _, rpc := range rpcs {
		one := &adminv1.RecordedRPC{Time: timestamppb.New(rpc.Time), Service: rpc.Service, Path: rpc.Path, Caller: rpc.Caller}
		for _, f := range rpc.Fields {
			one.Metadata = append(one.Metadata, &adminv1.RecordedField{Key: f.Name, Value: []byte(f.Value)})
		}
		out.List = append(out.List, one)
	}
	return out
}

// Evidence implements server.Control.
func (v controlView) Evidence(ctx context.Context, service, name string) (*meshv1.EvidenceResponse, error) {
	if v.s.control == nil {
		return nil, errNoControl
	}
	return v.s.control.member.Evidence(ctx, service, name)
}

// Results implements server.Control.
func (v controlView) Results(ctx context.Context, service, name string) (*meshv1.ResultsResponse, error) {
	if v.s.control == nil {
		return nil, errNoControl
	}
	return v.s.control.member.Results(ctx, service, name)
}

package server

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/pillion-proxy/pillion/proto/pillion/admin/v1"
)

// admin answers pillion.admin.v1. The HTTP pages call the same methods.
type admin struct {
	adminv1.UnimplementedAdminServer
	Options
}

func (a *admin) GetStatus(context.Context, *adminv1.GetStatusRequest) (*adminv1.GetStatusResponse, error) {
	ready, draining, conditions := a.Readiness.state()
	answer := &adminv1.GetStatusResponse{
		Version:    a.Build.Version,
		Revision:   a.Build.Revision,
		GoVersion:  a.Build.Go,
		StartedAt:  timestamppb.New(a.Started),
		Ready:      ready,
		Draining:   draining,
		Conditions: conditions,
	}
	if a.Listeners != nil {
		answer.Listeners = a.Listeners.Listeners()
	}
	if a.LogLevel != nil {
		answer.LogLevel = levelName(a.LogLevel.Level())
	}
	return answer, nil
}

func (a *admin) GetConfig(context.Context, *adminv1.GetConfigRequest) (*adminv1.GetConfigResponse, error) {
	answer := &adminv1.GetConfigResponse{}
	if a.Config != nil {
		answer.Bootstrap = redacted(a.Config.Config())
	}
	if a.Sources != nil {
		for _, source := range a.Sources.Sources() {
			answer.Sources = append(answer.Sources, redacted(source))
		}
	}
	if a.Policies != nil {
		answer.Policies = a.Policies.Policies()
	}
	return answer, nil
}

func (a *admin) Explain(ctx context.Context, request *adminv1.ExplainRequest) (*adminv1.ExplainResponse, error) {
	if a.Policies == nil {
		return nil, status.Error(codes.Unimplemented, "admin: this sidecar has no policies")
	}
	return a.Policies.Explain(ctx, request)
}

func (a *admin) GetIdentity(context.Context, *adminv1.GetIdentityRequest) (*adminv1.GetIdentityResponse, error) {
	if a.Identity == nil {
		return &adminv1.GetIdentityResponse{}, nil
	}
	return a.Identity.Identity(), nil
}

func (a *admin) ListCallers(_ context.Context, request *adminv1.ListCallersRequest) (*adminv1.ListCallersResponse, error) {
	if a.Identity == nil {
		return &adminv1.ListCallersResponse{}, nil
	}
	answer := a.Identity.Callers()
	if request.GetPlaintextOnly() {
		answer.Callers = slices.DeleteFunc(answer.GetCallers(), func(c *adminv1.Caller) bool { return c.GetSpiffeId() != "" })
	}
	return answer, nil
}

func (a *admin) ListEndpoints(_ context.Context, request *adminv1.ListEndpointsRequest) (*adminv1.ListEndpointsResponse, error) {
	answer := &adminv1.ListEndpointsResponse{}
	if a.Endpoints == nil {
		return answer, nil
	}
	wanted := request.GetServices()
	for _, service := range a.Endpoints.Endpoints() {
		if len(wanted) > 0 && !slices.Contains(wanted, service.GetName()) {
			continue
		}
		slices.SortFunc(service.GetInstances(), func(a, b *adminv1.Instance) int {
			return strings.Compare(a.GetId(), b.GetId())
		})
		answer.Services = append(answer.Services, service)
	}
	slices.SortFunc(answer.Services, func(a, b *adminv1.Service) int {
		return cmp.Or(cmp.Compare(a.GetSide(), b.GetSide()), strings.Compare(a.GetName(), b.GetName()))
	})
	return answer, nil
}

// errNoControl is what is told of what only a sidecar with a control plane knows.
var errNoControl = status.Error(codes.Unimplemented, "admin: this sidecar does not do what the mesh's documents say: give its bootstrap the block control")

func (a *admin) ListRecorded(context.Context, *adminv1.ListRecordedRequest) (*adminv1.ListRecordedResponse, error) {
	if a.Control == nil {
		return nil, errNoControl
	}
	return a.Control.Recorded(), nil
}

func (a *admin) GetEvidence(ctx context.Context, request *adminv1.GetEvidenceRequest) (*adminv1.GetEvidenceResponse, error) {
	if err := a.asks(request.GetService(), request.GetName()); err != nil {
		return nil, err
	}
	evidence, err := a.Control.Evidence(ctx, request.GetService(), request.GetName())
	if err != nil {
		return nil, err
	}
	return &adminv1.GetEvidenceResponse{Evidence: evidence}, nil
}

func (a *admin) GetResults(ctx context.Context, request *adminv1.GetResultsRequest) (*adminv1.GetResultsResponse, error) {
	if err := a.asks(request.GetService(), request.GetName()); err != nil {
		return nil, err
	}
	results, err := a.Control.Results(ctx, request.GetService(), request.GetName())
	if err != nil {
		return nil, err
	}
	return &adminv1.GetResultsResponse{Results: results}, nil
}

// asks says why a canary or an experiment cannot be asked about.
func (a *admin) asks(service, name string) error {
	switch {
	case a.Control == nil:
		return errNoControl
	case service == "" || name == "":
		return status.Error(codes.InvalidArgument, "admin: say which service's canary or experiment is meant, and its name")
	}
	return nil
}

func (a *admin) SetLogLevel(ctx context.Context, request *adminv1.SetLogLevelRequest) (*adminv1.SetLogLevelResponse, error) {
	if a.LogLevel == nil {
		return nil, status.Error(codes.Unimplemented, "admin: the level of this sidecar's log cannot be changed")
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(request.GetLevel())); err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "admin: log level %q: use debug, info, warn or error", request.GetLevel())
	}
	previous := levelName(a.LogLevel.Level())
	a.LogLevel.Set(level)
	// Above every level: who changed it, and to what, must be in the log.
	a.Logger.Log(ctx, max(level, slog.LevelInfo), "admin: the log's level was changed", "from", previous, "to", levelName(level))
	return &adminv1.SetLogLevelResponse{Previous: previous}, nil
}

// levelName returns a level as the configuration writes it. A level between two
// named ones is the lower of them.
func levelName(level slog.Level) string {
	switch {
	case level < slog.LevelInfo:
		return "debug"
	case level < slog.LevelWarn:
		return "info"
	case level < slog.LevelError:
		return "warn"
	}
	return "error"
}

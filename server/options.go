package server

import (
	"context"
	"crypto/tls"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	adminv1 "github.com/pillion-proxy/pillion/proto/pillion/admin/v1"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
)

// Endpoints knows the services in use and their instances. Each call returns
// messages that the server may keep and change.
type Endpoints interface {
	Endpoints() []*adminv1.Service
}

// Config knows the configuration in effect. The server does not change the
// message, and takes secrets out of what it shows of it.
type Config interface {
	Config() *configv1.Bootstrap
}

// Sources knows how the sources of services and policies are doing. Each call
// returns messages that the server may keep.
type Sources interface {
	Sources() []*adminv1.Source
}

// Policies knows the policies, and what they make of an RPC. Each call returns messages
// that the server may keep.
type Policies interface {
	Policies() *adminv1.Policies
	// Explain answers a request that keeps the schema's rules. Its errors are statuses.
	Explain(ctx context.Context, request *adminv1.ExplainRequest) (*adminv1.ExplainResponse, error)
}

// Identity knows who the sidecar is and who calls. Each call returns messages that the
// server may keep.
type Identity interface {
	Identity() *adminv1.GetIdentityResponse
	Callers() *adminv1.ListCallersResponse
}

// Control knows what the mesh's control plane makes of the sidecar's services, and which
// RPCs it remembers. Each call returns messages that the server may keep. Errors are
// statuses of one line.
type Control interface {
	// Recorded returns the RPCs that are remembered for `pillion plan`, the oldest first.
	Recorded() *adminv1.ListRecordedResponse
	// Evidence returns what the elected sidecar has counted of a canary, wherever that
	// sidecar is.
	Evidence(ctx context.Context, service, name string) (*meshv1.EvidenceResponse, error)
	// Results returns the same of an experiment.
	Results(ctx context.Context, service, name string) (*meshv1.ResultsResponse, error)
}

// Listeners knows where the sidecar listens. Each call returns messages that
// the server may keep.
type Listeners interface {
	Listeners() []*adminv1.Listener
}

// Build says which Pillion this is.
type Build struct {
	Version  string // such as "v1.2.3"
	Revision string // the commit; may be empty
	Go       string // the Go release; runtime.Version() if empty
}

// Options says what a Server shows. What is nil is shown as empty.
type Options struct {
	Build   Build
	Started time.Time // when the process started; now, if zero

	// Readiness is what /ready and grpc.health.v1 tell. Without it the sidecar
	// is always ready.
	Readiness *Readiness
	Endpoints Endpoints
	Config    Config
	Sources   Sources
	Policies  Policies
	Identity  Identity
	Listeners Listeners
	// Control is nil where the sidecar does not do what the mesh's documents say.
	Control Control

	// TLS has the port speak TLS alone. It decides whom to let in, and must offer "h2"
	// and "http/1.1".
	TLS *tls.Config
	// MayUse is asked for each request that comes by TLS: what the client has proven may
	// hold no longer on a connection that stays open. Its error is what the client is
	// told. nil: nobody is refused.
	MayUse func(tls.ConnectionState) error

	// Metrics is what /metrics shows. New adds the collectors of the Go runtime
	// and of the process to it.
	Metrics *prometheus.Registry

	// Logger is for what goes wrong here. The default is slog.Default().
	Logger *slog.Logger
	// LogLevel is what SetLogLevel changes. Without it there is no such call.
	LogLevel *slog.LevelVar

	// Hosts are names, beside addresses and localhost, by which clients may call
	// the server: the host of admin.listen where that is a name.
	Hosts []string

	// Limits bound what clients may take.
	Limits Limits
}

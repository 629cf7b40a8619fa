// Package outbound is where the local app's gRPC clients dial: each of their
// RPCs is routed to a service of the mesh and handed to one of its instances.
package outbound

import (
	"context"
	"log/slog"
	"net"
	"time"

	"github.com/pillion-proxy/pillion/proxy/admission"
	"github.com/pillion-proxy/pillion/proxy/balance"
	"github.com/pillion-proxy/pillion/proxy/downstream"
	"github.com/pillion-proxy/pillion/proxy/h2"
	"github.com/pillion-proxy/pillion/proxy/inmemory"
	"github.com/pillion-proxy/pillion/proxy/policy"
	"github.com/pillion-proxy/pillion/proxy/recording"
	"github.com/pillion-proxy/pillion/proxy/relay"
	"github.com/pillion-proxy/pillion/proxy/routing"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
	"github.com/pillion-proxy/pillion/proxy/upstream"
	"github.com/pillion-proxy/pillion/registry"
)

// Options configure the outbound side.
type Options struct {
	Source         registry.Source
	DefaultService string
	// Caller is the local app's service, "" for none.
	Caller                     string
	Policy                     balance.Policy
	DefaultTimeout, MaxTimeout time.Duration
	ResolveTimeout             time.Duration
	RefusalTimeout             time.Duration // see [relay.Config]
	IdleTimeout                time.Duration // of services that no RPC asks for
	// LearnNames has services asked by reflection what they answer, where the
	// registry does not say. It is for registries whose services are few.
	LearnNames bool
	Limits     Limits

	// Recording says which RPCs are remembered; the zero value: none.
	Recording recording.Options

	HTTP2    *h2.Config
	Upstream upstream.Options
	// Security says how instances are spoken with; nil: in plaintext.
	Security *Security
	Retry    relay.Retry
	MaxConns int
	// ConnsPerSecond bounds how many callers may connect in a second; 0: no bound.
	ConnsPerSecond int
	Gate           *admission.Gate
	Metrics        *telemetry.Metrics
	Counters       *telemetry.Counters
	AccessLog      *telemetry.AccessLog
	Logger         *slog.Logger
}

// Proxy is the outbound side.
type Proxy struct {
	callers *downstream.Server
	own     *downstream.Server // of the mesh reflection's questions to services
	router  *routing.Router
	mesh    *meshReflection
	secure  *secure
	// recorded is nil where nothing is remembered.
	recorded *recording.Ring
}

// New returns an outbound proxy. It begins to watch the default destination.
func New(o Options) *Proxy {
	up := o.Upstream.WithDefaults()
	p := &Proxy{secure: newSecure(&o), recorded: recording.New(o.Recording)}
	up.Secure = p.secure.of
	newCluster := func(service string) *upstream.Cluster {
		return upstream.NewCluster(service, o.Policy, &up, o.Counters.Service(telemetry.Outbound, service))
	}
	inside := inmemory.Listen()
	p.mesh = newMeshReflection(&o, inside, up.HTTP2)
	ro := routing.Options{
		Source: o.Source, NewCluster: newCluster, Default: o.DefaultService,
		Reflection: p.mesh.cluster, ResolveTimeout: o.ResolveTimeout,
		IdleTimeout: o.IdleTimeout, Logger: o.Logger,
	}
	o.Limits.apply(&ro)
	if o.LearnNames {
		ro.Learn = p.mesh.mesh.Lists
	}
	p.router = routing.New(ro)
	rc := relay.Config{
		Side: telemetry.Outbound, Router: p.router, Caller: o.Caller, Metrics: o.Metrics,
		Unrouted: o.Counters.Service(telemetry.Outbound, ""), Log: o.AccessLog,
		DefaultTimeout: o.DefaultTimeout, MaxTimeout: o.MaxTimeout, RefusalTimeout: o.RefusalTimeout,
		Gate: o.Gate, Retry: o.Retry, Budget: o.HTTP2.Budget, Recording: p.recorded,
	}
	p.callers = downstream.New(downstream.Options{
		HTTP2: o.HTTP2, NewStream: relay.New(rc).NewStream, MaxConns: o.MaxConns, ConnsPerSecond: o.ConnsPerSecond, DeadAfter: up.DeadAfter,
		Open: &o.Counters.DownstreamConnections[telemetry.Outbound], Logger: o.Logger,
	})
	p.own = newOwn(rc, o.HTTP2, o.Logger)
	go func() { _ = p.own.Serve(inside) }()
	return p
}

// newOwn returns what carries the sidecar's own RPCs: as the app's are carried,
// but the app made none of them, so they are neither logged nor counted as RPCs
// or callers. They do count in a service's attempts and failures, which belong
// to the connections to it that both share. How many there are is bounded by
// who makes them.
func newOwn(rc relay.Config, http2 *h2.Config, logger *slog.Logger) *downstream.Server {
	rc.Metrics = telemetry.NewMetrics(telemetry.Outbound)
	rc.Unrouted = new(telemetry.Counters).Service(telemetry.Outbound, "")
	rc.Log, rc.Gate, rc.Recording = nil, nil, nil
	rc.Router = ungoverned{rc.Router}
	return downstream.New(downstream.Options{HTTP2: http2, NewStream: relay.New(rc).NewStream, Logger: logger})
}

// ungoverned is a router of RPCs that no policy is meant for.
type ungoverned struct{ relay.Router }

// Policies implements relay.Router.
func (ungoverned) Policies() *policy.Set { return nil }

// SetPolicies puts policies in force for the RPCs that come from now on.
func (p *Proxy) SetPolicies(set *policy.Set) {
	p.router.SetPolicies(set)
	if p.recorded != nil {
		p.recorded.SetMentions(set.Mentions())
	}
}

// Recorded returns the RPCs that are remembered, the oldest first, and one of how many
// was; 0: none is.
func (p *Proxy) Recorded() (rpcs []recording.RPC, oneIn int) {
	return p.recorded.Recorded(), p.recorded.OneIn()
}

// Serve accepts connections until Shutdown.
func (p *Proxy) Serve(l net.Listener) error { return p.callers.Serve(l) }

// HeldBack counts callers' connections, see [downstream.Server.HeldBack].
func (p *Proxy) HeldBack() uint64 { return p.callers.HeldBack() }

// Shutdown ends the callers' connections gracefully, and with ctx at once.
func (p *Proxy) Shutdown(ctx context.Context) error {
	p.mesh.stop()
	err := p.callers.Shutdown(ctx)
	// Only now: a caller's RPC may have waited for what a service answers.
	if e := p.own.Shutdown(ctx); err == nil {
		err = e
	}
	p.router.Close()
	p.recorded.Close()
	p.secure.strangers.Close()
	return err
}

// Clusters returns the services in use.
func (p *Proxy) Clusters() []*upstream.Cluster { return p.router.Clusters() }

// Package inbound is where the rest of the mesh reaches the local app: callers prove who
// they are, and each RPC that arrives, and may, is handed to the app.
//
// callers.go is about their connections, access.go about what they may do, mesh.go about
// what is not for the app but for the sidecar itself.
package inbound

import (
	"context"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/pillion-proxy/pillion/proxy/admission"
	"github.com/pillion-proxy/pillion/proxy/balance"
	"github.com/pillion-proxy/pillion/proxy/downstream"
	"github.com/pillion-proxy/pillion/proxy/h2"
	"github.com/pillion-proxy/pillion/proxy/policy"
	"github.com/pillion-proxy/pillion/proxy/relay"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
	"github.com/pillion-proxy/pillion/proxy/upstream"
	"github.com/pillion-proxy/pillion/proxy/wire"
	"github.com/pillion-proxy/pillion/registry"
)

// Options configure the inbound side.
type Options struct {
	// Service is the local app's name, Address where it listens.
	Service, Address string
	HTTP2            *h2.Config
	Upstream         upstream.Options
	Retry            relay.Retry
	MaxConns         int
	// ConnsPerSecond bounds how many callers may connect in a second; 0: no bound.
	ConnsPerSecond int
	RefusalTimeout time.Duration // see [relay.Config]
	// Security says how callers are spoken with; nil: in plaintext.
	Security *Security
	// AwaitIntentions has callers who have proven an identity pass Consul's intentions,
	// and refuses them until SetIntentions was called.
	AwaitIntentions bool
	// Mesh leads to the server within the process that answers other sidecars; nil: there
	// is none. See access.OwnPrefix.
	Mesh      func(context.Context) (net.Conn, error)
	Gate      *admission.Gate
	Metrics   *telemetry.Metrics
	Counters  *telemetry.Counters
	AccessLog *telemetry.AccessLog
	Logger    *slog.Logger
}

// Proxy is the inbound side.
type Proxy struct {
	callers *downstream.Server
	app     *upstream.Cluster
	to      *toApp
	mesh    *relay.Own
	relay   *relay.Proxy
	secure  *secure
	access  *accessControl
}

// New returns an inbound proxy.
func New(o Options) *Proxy {
	up := o.Upstream.WithDefaults()
	to := &toApp{}
	app := upstream.NewCluster(o.Service, balance.PickFirst, &up, o.Counters.Service(telemetry.Inbound, o.Service))
	app.Update([]registry.Endpoint{{ID: "app", Address: o.Address, Weight: 1}}, false)
	to.app = app
	p := &Proxy{app: app, to: to, mesh: meshOf(&o, o.Mesh), secure: newSecure(&o)}
	p.access = newAccessControl(p, &o)
	p.relay = relay.New(relay.Config{
		Side: telemetry.Inbound, Router: to, Metrics: o.Metrics,
		Unrouted: o.Counters.Service(telemetry.Inbound, ""), Log: o.AccessLog,
		Gate: o.Gate, Retry: o.Retry, Budget: o.HTTP2.Budget, Shield: true, RefusalTimeout: o.RefusalTimeout,
		Access: &p.access.gate, Audited: p.access.audited, Own: p.mesh,
	})
	p.callers = downstream.New(downstream.Options{
		HTTP2: o.HTTP2, NewStream: p.relay.NewStream, MaxConns: o.MaxConns, ConnsPerSecond: o.ConnsPerSecond, DeadAfter: up.DeadAfter,
		Open: &o.Counters.DownstreamConnections[telemetry.Inbound], Logger: o.Logger,
		Secure: p.secure.accept(), Silent: isSilent, Opened: p.secure.opened,
	})
	p.access.start(o.Security)
	return p
}

// Serve accepts connections until Shutdown.
func (p *Proxy) Serve(l net.Listener) error { return p.callers.Serve(l) }

// HeldBack counts callers' connections, see [downstream.Server.HeldBack].
func (p *Proxy) HeldBack() uint64 { return p.callers.HeldBack() }

// Shutdown ends the callers' connections gracefully, and with ctx at once.
func (p *Proxy) Shutdown(ctx context.Context) error {
	err := p.callers.Shutdown(ctx)
	p.app.Close()
	if p.mesh.Cluster != nil {
		p.mesh.Cluster.Close()
	}
	p.access.close()
	return err
}

// SetPolicies puts policies in force for the RPCs that come from now on. RPCs under way
// that the access policies among them refuse end within a second.
func (p *Proxy) SetPolicies(set *policy.Set) {
	p.to.policies.Store(set)
	p.access.setRules(set.Service(p.app.Name()).Access())
}

// RefuseFor has everybody refused in the name of access policies that are wrong, and of
// which no version holds; none: nobody is.
func (p *Proxy) RefuseFor(policies []string) { p.access.setBroken(policies) }

// SetIntentions puts Consul's intentions for calls of the app in force, also for RPCs
// that are under way; nil: none have to be passed, unless Options.AwaitIntentions says
// that some do.
func (p *Proxy) SetIntentions(in *registry.Intentions) { p.access.setIntentions(in) }

// Cluster returns the local app.
func (p *Proxy) Cluster() *upstream.Cluster { return p.app }

// toApp routes everything to the local app.
type toApp struct {
	app      *upstream.Cluster
	policies atomic.Pointer[policy.Set]
}

func (t *toApp) Policies() *policy.Set { return t.policies.Load() }

func (t *toApp) Find(*policy.Set, string, string) relay.Found {
	return relay.Found{Cluster: t.app, Service: t.app.Name(), Route: "local app"}
}

func (t *toApp) Service(string) relay.Found { return t.Find(nil, "", "") }

func (*toApp) Await(string, string, string, relay.Waiter, uint32) bool { return false }

func (*toApp) Explain(string, string, string) (codes.Code, wire.Flag, string) {
	return codes.Unimplemented, wire.FlagNoRoute, "there is no local app"
}

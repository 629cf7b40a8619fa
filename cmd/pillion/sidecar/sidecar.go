// Package sidecar assembles a sidecar from its configuration, runs it, and ends
// it in order. It is wiring: what the parts do is theirs to know.
package sidecar

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	"github.com/pillion-proxy/pillion/proxy/balance"
	"github.com/pillion-proxy/pillion/proxy/inbound"
	"github.com/pillion-proxy/pillion/proxy/outbound"
	"github.com/pillion-proxy/pillion/proxy/policy"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
	"github.com/pillion-proxy/pillion/server"
)

// Options are what a sidecar is given beside its configuration.
type Options struct {
	Build    server.Build
	Logger   *slog.Logger
	LogLevel *slog.LevelVar
	// Sockets are listening sockets that are open already. The first that has
	// one for a side is believed.
	Sockets []Sockets
	// Known is what a process knew which this one replaces.
	Known Known
	// Replaces says that this process is to take the place of one that serves.
	Replaces bool
}

// Sidecar is a sidecar that listens. It is made by New and lives until Run
// returns.
type Sidecar struct {
	cfg     *configv1.Bootstrap
	logger  *slog.Logger
	started time.Time

	source    *source
	policies  *policies
	who       *who        // nil: the sidecar has no identity
	control   *controlled // nil: it follows no documents of the mesh
	ready     *server.Readiness
	counters  telemetry.Counters
	accessLog *telemetry.AccessLog

	outbound *outbound.Proxy
	inbound  *inbound.Proxy
	admin    *server.Server
	app      *appReflection

	listeners map[string]*socket // by side: outbound, inbound, admin

	serving   chan struct{} // closed once all sides serve
	alone     chan struct{} // closed once the process is out of the way that this one replaces; nil: there is none
	succeeded chan struct{} // closed once a successor serves
	successor sync.Once
	leaving   atomic.Bool // it drains

	mu           sync.Mutex
	registration registration  // nil: there is none
	undecided    chan struct{} // closed when it is known whether a successor serves; nil: it is known
}

// The sides, as readiness and messages name them.
const (
	sideOutbound = "outbound"
	sideInbound  = "inbound"
	sideAdmin    = "admin"
)

// New makes a sidecar of an effective configuration (configyaml.Effective) and
// opens everything that may fail: the registry's file, the listeners. After an
// error nothing is left open.
func New(cfg *configv1.Bootstrap, o Options) (_ *Sidecar, err error) {
	s := &Sidecar{
		cfg: cfg, logger: o.Logger, started: time.Now(), listeners: map[string]*socket{},
		serving: make(chan struct{}), succeeded: make(chan struct{}),
	}
	if o.Replaces {
		s.alone = make(chan struct{})
	}
	defer func() {
		if err != nil {
			s.closeAll()
		}
	}()
	if s.source, err = openSource(cfg.GetRegistry(), cfg.GetIdentity().GetConsul() != nil, o.Known, o.Logger); err != nil {
		return nil, err
	}
	if err = s.source.addPolicies(cfg.GetPolicies(), o.Logger); err != nil {
		return nil, err
	}
	if err = s.listen(o.Sockets); err != nil {
		return nil, err
	}
	if s.accessLog, err = openAccessLog(cfg.GetAccessLog(), &s.counters, o.Logger); err != nil {
		return nil, err
	}
	if s.who, err = openIdentity(cfg, s.source, &s.counters, o.Logger); err != nil {
		return nil, err
	}
	if err = s.awaitIdentity(o.Replaces); err != nil {
		return nil, err
	}
	if s.control, err = openControl(s, o.Build.Version, o.Known.Documents, o.Replaces); err != nil {
		return nil, err
	}
	s.source.Source = s.control.follow(s.source.Source)
	s.counters.MaxServices = int(cfg.GetMetrics().GetMaxServices())
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(&s.counters, telemetry.NewBuildInfo(o.Build.Version, o.Build.Revision, o.Build.Go))
	s.ready = server.NewReadiness()
	for side := range s.listeners {
		s.ready.Set(side, "starting")
	}
	if s.listeners[sideAdmin] != nil {
		adminTLS, err := s.adminTLS()
		if err != nil {
			return nil, err
		}
		var mayUse func(tls.ConnectionState) error
		if adminTLS != nil {
			mayUse = s.who.mayAdminister(cfg.GetAdmin().GetAllow())
		}
		s.admin, err = server.New(server.Options{
			Build: o.Build, Started: time.Now(), Readiness: s.ready,
			Endpoints: endpointsView{s}, Config: configView{s}, Sources: s.source, Policies: policiesView{s}, Identity: identityView{s}, Control: controlView{s}, Listeners: listenersView{s},
			TLS: adminTLS, MayUse: mayUse,
			Metrics: metrics, Logger: o.Logger, LogLevel: o.LogLevel,
			Hosts: hostNames(cfg.GetAdmin().GetListen()), Limits: adminLimits(cfg.GetAdmin()),
		})
		if err != nil {
			return nil, err
		}
	}
	s.policies = newPolicies(policy.Env{Logger: o.Logger, Group: s.counters.Group, Observer: s.control.observer}, cfg.GetService().GetName(), o.Logger)
	metrics.MustRegister(policyMetrics{s.policies, int(cfg.GetMetrics().GetMaxMethods())})
	s.control.collect(metrics)
	s.policies.watch(s.control.sources(s.source.policies))
	if o.Replaces && s.listeners[sideInbound] != nil {
		if err = s.policies.brokenError(); err != nil {
			return nil, err
		}
	}
	// Last: the proxies begin their work when they are made.
	s.assemble(metrics)
	return s, nil
}

// assemble makes the proxies that have a listener.
func (s *Sidecar) assemble(metrics *prometheus.Registry) {
	settings := newSettings(s.cfg, &s.counters)
	retry := retryLimits(s.cfg.GetRetry())
	refusal := s.cfg.GetHttp2().GetRefusalTimeout().AsDuration()
	maxConns := s.connectionBound()
	connRate := int(s.cfg.GetHttp2().GetMaxConnectionRate())
	if s.listeners[sideOutbound] != nil {
		out := s.cfg.GetOutbound()
		balancing, _ := balance.ParsePolicy(out.GetLoadBalancing()) // the schema allows no other
		m := telemetry.NewLimitedMetrics(telemetry.Outbound, metricsLimits(s.cfg.GetMetrics()))
		metrics.MustRegister(m)
		s.outbound = outbound.New(outbound.Options{
			Source: s.source, DefaultService: out.GetDefaultService(), Policy: balancing,
			Caller:         s.cfg.GetService().GetName(),
			DefaultTimeout: out.GetDefaultTimeout().AsDuration(), MaxTimeout: out.GetMaxTimeout().AsDuration(),
			ResolveTimeout: out.GetResolveTimeout().AsDuration(), IdleTimeout: s.source.idleTimeout,
			LearnNames: s.source.small, HTTP2: settings.http2, Upstream: settings.instances, Retry: retry, Gate: settings.gates[telemetry.Outbound],
			MaxConns: maxConns, ConnsPerSecond: connRate, Metrics: m, Counters: &s.counters, AccessLog: s.accessLog, Logger: s.logger,
			Limits: outboundLimits(out), RefusalTimeout: refusal, Security: s.outboundSecurity(),
			Recording: recordingOptions(s.cfg.GetControl()),
		})
		s.policies.apply(s.outbound.SetPolicies)
	}
	if s.listeners[sideInbound] != nil {
		m := telemetry.NewLimitedMetrics(telemetry.Inbound, metricsLimits(s.cfg.GetMetrics()))
		metrics.MustRegister(m)
		service := s.cfg.GetService()
		s.inbound = inbound.New(inbound.Options{
			Service: service.GetName(), Address: service.GetAddress(),
			HTTP2: settings.http2, Upstream: settings.app, Retry: retry, MaxConns: maxConns, ConnsPerSecond: connRate, Gate: settings.gates[telemetry.Inbound],
			Metrics: m, Counters: &s.counters, AccessLog: s.accessLog, Logger: s.logger, RefusalTimeout: refusal,
			Security: s.inboundSecurity(), AwaitIntentions: s.needsIntentions(), Mesh: s.control.dialMesh(),
		})
		s.policies.applyBroken(s.inbound.RefuseFor)
		s.policies.apply(s.inbound.SetPolicies)
		if s.who != nil {
			s.who.intentions.apply(s.inbound.SetIntentions)
		}
		s.app = newAppReflection(service, m)
	}
}

// Run serves until ctx ends or a successor has taken over (see Succeeded), and then
// drains: it returns when all is over.
func (s *Sidecar) Run(ctx context.Context) error {
	var serving sync.WaitGroup
	failed := make(chan error, len(s.listeners))
	asking, stopAsking := context.WithCancel(ctx)
	defer stopAsking()
	serve := func(side string, f func(net.Listener) error) {
		l := s.listeners[side]
		if l == nil {
			return
		}
		serving.Go(func() {
			if err := f(l); err != nil {
				failed <- fmt.Errorf("%s: %w", side, err)
			}
		})
		s.logger.Info("listening", "side", side, "address", address(l))
		s.ready.Set(side, "")
	}
	if s.outbound != nil {
		serve(sideOutbound, s.outbound.Serve)
	}
	if s.inbound != nil {
		serve(sideInbound, s.inbound.Serve)
		serving.Go(func() { s.app.describe(asking) })
	}
	err := s.register()
	if err != nil {
		err = fmt.Errorf("the app cannot be registered: %w", err)
	}
	if s.admin != nil {
		// Last, so that whoever finds it open finds the rest open too.
		serve(sideAdmin, func(l net.Listener) error { return s.admin.Serve(context.WithoutCancel(ctx), l) })
	}

	if err == nil {
		s.control.start()
		close(s.serving)
		select {
		case <-ctx.Done():
		case <-s.succeeded:
		case err = <-failed:
		}
	}
	stopAsking()
	s.depart()
	s.control.leave()
	err = errors.Join(err, s.drain())
	serving.Wait()
	return err
}

// Serving is closed once all sides serve.
func (s *Sidecar) Serving() <-chan struct{} { return s.serving }

// drain ends the sidecar: it says that it goes, leaves the registry, lets the
// callers of the app finish, then the app's own calls. Where a successor has taken
// over nobody is told, and the registry is left to it. All that together is
// bounded; what is left then is cut off.
func (s *Sidecar) drain() error {
	timeout := s.cfg.GetDrain().GetTimeout().AsDuration()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	s.logger.Info("draining", "timeout", timeout.String())
	var errs []error
	note := func(what string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("draining: %s: %w", what, err))
		}
	}
	if s.hasSuccessor() {
		s.makeWay(ctx, note)
	} else {
		s.ready.Drain()
		if r := s.currentRegistration(); r != nil {
			note("leaving the registry", leave(r, leaveTimeout(timeout)))
		}
		s.shutInbound(ctx, note)
		s.shutOutbound(ctx, note)
	}
	s.policies.close()
	s.control.close()
	s.who.close()
	s.source.Close()
	last, cancelLast := context.WithTimeout(context.Background(), time.Second)
	defer cancelLast()
	if s.admin != nil {
		_ = s.admin.Shutdown(last) // whoever still looks is cut off
	}
	note("access log", s.accessLog.Close(last))
	s.logger.Info("stopped")
	return errors.Join(errs...)
}

func (s *Sidecar) shutInbound(ctx context.Context, note func(string, error)) {
	if s.inbound != nil {
		note("RPCs to the app were cut off", s.inbound.Shutdown(ctx))
	}
}

func (s *Sidecar) shutOutbound(ctx context.Context, note func(string, error)) {
	if s.outbound != nil {
		note("RPCs of the app were cut off", s.outbound.Shutdown(ctx))
	}
}

// leaveTimeout is how much of the drain's time leaving the registry may take: a
// registry that hangs must leave the rest to the RPCs. However short the time
// is, it is tried: what stays registered draws traffic.
func leaveTimeout(drain time.Duration) time.Duration {
	const least, most = 500 * time.Millisecond, 2 * time.Second
	return max(least, min(most, drain/4))
}

// leave takes the app out of the registry. It returns when that is done, or when
// the time is over, whatever the registry does.
func leave(r registration, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	left := make(chan error, 1)
	go func() {
		defer cancel()
		left <- r.Close(ctx)
	}()
	<-ctx.Done()
	select {
	case err := <-left:
		return err
	default:
		return fmt.Errorf("no answer within %v: the app stays registered until the registry finds it gone", timeout)
	}
}

// closeAll gives back what New has opened.
func (s *Sidecar) closeAll() {
	for _, l := range s.listeners {
		_ = l.Close()
	}
	s.policies.close()
	s.control.close()
	s.who.close()
	if s.source != nil {
		s.source.Close()
	}
	_ = s.accessLog.Close(context.Background())
}

// Reopen opens the access log's file anew, after it was rotated.
func (s *Sidecar) Reopen() error { return s.accessLog.Reopen() }

// Address returns where a side listens ("outbound", "inbound", "admin"), "" where
// it does not.
func (s *Sidecar) Address(side string) string {
	if l := s.listeners[side]; l != nil {
		return address(l)
	}
	return ""
}

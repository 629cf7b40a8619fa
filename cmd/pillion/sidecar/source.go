package sidecar

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/pillion-proxy/pillion/proto/pillion/admin/v1"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	"github.com/pillion-proxy/pillion/registry"
	"github.com/pillion-proxy/pillion/registry/consul"
	"github.com/pillion-proxy/pillion/registry/file"
	"github.com/pillion-proxy/pillion/registry/memory"
)

// source is the registry's source with what the rest wants to know of it.
type source struct {
	registry.Source
	consul   *consul.Source // nil: it is another
	policies []registry.PolicySource
	files    *file.PolicyFiles // among policies; nil: none
	// small says that the services are few enough to ask each of them by
	// reflection what it answers.
	small bool
	// idleTimeout is how long a service is watched that no RPC asks for; 0: the
	// router's default.
	idleTimeout time.Duration
	describe    func() *adminv1.Source
	close       func()
}

// openSource opens what the configuration names; without any, a source that
// knows no services. connect says that the identity is Consul's.
func openSource(cfg *configv1.Registry, connect bool, known Known, logger *slog.Logger) (*source, error) {
	switch r := cfg.GetSource().(type) {
	case *configv1.Registry_File:
		return openFile(r.File, logger)
	case *configv1.Registry_Consul:
		return openConsul(r.Consul, connect, known, logger)
	default:
		return openStatic(cfg.GetStatic()), nil
	}
}

func openFile(cfg *configv1.FileRegistry, logger *slog.Logger) (*source, error) {
	f, err := file.Open(cfg.GetPath(), int64(cfg.GetMaxSize()), logger)
	if err != nil {
		return nil, err
	}
	return &source{Source: f, policies: []registry.PolicySource{f}, small: true, close: f.Close, describe: func() *adminv1.Source {
		return describeFile("file", f.Status())
	}}, nil
}

func openConsul(cfg *configv1.ConsulRegistry, connect bool, known Known, logger *slog.Logger) (*source, error) {
	c, err := consul.New(consul.Config{
		Address: cfg.GetAddress(), Scheme: cfg.GetScheme(), TokenFile: cfg.GetTokenFile(),
		Datacenter: cfg.GetDatacenter(), Namespace: cfg.GetNamespace(), Partition: cfg.GetPartition(),
		CacheDir: cfg.GetCacheDir(), RequireSidecar: !cfg.GetAllowPlaintext(), Connect: connect,
		MaxConnections: int(cfg.GetMaxConnections()), Limits: consulLimits(cfg),
	}, consul.Deps{Log: logger, LastKnown: known.Services, Older: known.Older})
	if err != nil {
		return nil, err
	}
	return &source{Source: c, consul: c, idleTimeout: cfg.GetIdleTimeout().AsDuration(), close: c.CloseIdleConnections,
		describe: func() *adminv1.Source {
			st := c.Status()
			d := &adminv1.Source{Kind: "consul", Location: st.Agent, LastSuccess: timestamp(st.Contact)}
			d.Error, d.FailingSince = trouble(st)
			return d
		}}, nil
}

// trouble says what is wrong with Consul, in a line for each problem (that may
// also be a permission that the token lacks), and since when.
func trouble(st consul.Status) (string, *timestamppb.Timestamp) {
	var texts []string
	for _, problem := range st.Problems {
		texts = append(texts, problem.Text)
	}
	if len(texts) == 0 {
		return "", nil
	}
	return strings.Join(texts, "\n"), timestamp(st.Problems[0].Since)
}

func openStatic(cfg *configv1.StaticRegistry) *source {
	var services []*registry.Service
	for name, up := range cfg.GetUpstreams() {
		s := &registry.Service{Name: name}
		for _, addr := range up.GetAddresses() {
			s.Endpoints = append(s.Endpoints, registry.Endpoint{ID: addr, Address: addr, Weight: 1})
		}
		services = append(services, s)
	}
	opened := timestamppb.Now()
	return &source{Source: memory.New(services...), small: true, close: func() {}, describe: func() *adminv1.Source {
		return &adminv1.Source{Kind: "static", Location: fmt.Sprintf("%d services", len(services)), LastSuccess: opened}
	}}
}

// addPolicies opens files of policies beside the source's own. Without any nothing is
// opened.
func (s *source) addPolicies(cfg *configv1.PolicyFiles, logger *slog.Logger) error {
	if cfg == nil {
		return nil
	}
	f, err := file.OpenPolicies(cfg.GetPath(), int64(cfg.GetMaxSize()), logger)
	if err != nil {
		return err
	}
	s.policies, s.files = append(s.policies, f), f
	return nil
}

// Close ends the source's work.
func (s *source) Close() {
	s.close()
	if s.files != nil {
		s.files.Close()
	}
}

// Sources implements server.Sources.
func (s *source) Sources() []*adminv1.Source {
	sources := []*adminv1.Source{s.describe()}
	if s.files != nil {
		sources = append(sources, describeFile("policies", s.files.Status()))
	}
	return sources
}

func describeFile(kind string, st file.Status) *adminv1.Source {
	d := &adminv1.Source{Kind: kind, Location: st.Path, LastSuccess: timestamp(st.LoadedAt)}
	if st.Err != nil {
		d.Error, d.FailingSince = st.Err.Error(), timestamp(st.FailingSince)
	}
	return d
}

// registration is the local app's entry in a registry.
type registration interface {
	// Close takes the app out of the registry.
	Close(ctx context.Context) error
	// Release leaves the entry as it stands: another process goes on with it.
	Release()
}

// currentRegistration returns the local app's entry, nil for none.
func (s *Sidecar) currentRegistration() registration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.registration
}

// register enters the local app into the registry, where that can be written, as soon as
// this process is alone.
func (s *Sidecar) register() error {
	service := s.cfg.GetService()
	if s.source.consul == nil || service == nil {
		return nil
	}
	check := service.GetHealthCheck()
	r := consul.Registration{
		Name: service.GetName(), ID: service.GetId(), Address: service.GetAddress(),
		Meta: service.GetMeta(), Tags: service.GetTags(),
		Passing: int(service.GetWeights().GetPassing()), Warning: int(service.GetWeights().GetWarning()),
		GRPC: service.GetGrpc(), After: s.alone,
	}
	if s.app != nil && len(r.GRPC) == 0 {
		r.AskGRPC = s.app.services
	}
	if !check.GetDisabled() {
		r.Check = &consul.Check{
			Service: check.GetGrpcService(), Interval: check.GetInterval().AsDuration(),
			Timeout:         check.GetTimeout().AsDuration(),
			DeregisterAfter: check.GetDeregisterCriticalAfter().AsDuration(),
		}
	}
	if l := s.listeners[sideInbound]; l != nil {
		where, err := advertised(s.cfg.GetInbound().GetAdvertise(), l)
		if err != nil {
			return err
		}
		r.Sidecar = &consul.Sidecar{Address: where, CheckAddress: checked(l), Security: spoken[s.cfg.GetInbound().GetTls()]}
	}
	registrar, err := s.source.consul.Register(r)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.registration = registrar
	return nil
}

func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

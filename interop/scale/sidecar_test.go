package scale

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"runtime/pprof"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/pillion-proxy/pillion/control/canary"
	"github.com/pillion-proxy/pillion/control/experiment"
	"github.com/pillion-proxy/pillion/control/follow"
	"github.com/pillion-proxy/pillion/control/mesh"
	"github.com/pillion-proxy/pillion/control/status"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
	"github.com/pillion-proxy/pillion/proxy/policy"
	"github.com/pillion-proxy/pillion/registry"
	"github.com/pillion-proxy/pillion/registry/consul"
)

// sidecar is the control side of one, put together as the command does it.
type sidecar struct {
	fleet       *fleet
	id, own     string
	uses        []string
	door        *door
	source      *consul.Source
	canaries    *canary.Agent
	experiments *experiment.Agent
	member      *mesh.Member
	follower    *follow.Follower
	status      *status.Publisher
	started     *timestamppb.Timestamp

	cancel  context.CancelFunc
	running sync.WaitGroup

	mu      sync.Mutex
	set     *policy.Set
	refused []registry.RefusedPolicy
}

// newSidecar returns one that does nothing yet.
func newSidecar(f *fleet, id, own string, uses []string) (*sidecar, error) {
	s := &sidecar{fleet: f, id: id, own: own, uses: uses, door: f.wire.door(), started: timestamppb.New(time.Now().Truncate(time.Second))}
	logger := slog.New(slog.DiscardHandler)
	var err error
	s.source, err = consul.New(consul.Config{Address: f.agent.Address}, consul.Deps{Transport: s.door})
	if err != nil {
		return nil, err
	}
	store := s.source.Store()
	s.canaries = canary.NewAgent(canary.Options{Changed: func(service string) { s.follower.Changed(service) }, Logger: logger})
	s.experiments = experiment.NewAgent(experiment.Options{Changed: func(service string) { s.follower.Changed(service) }, Logger: logger})
	s.follower = follow.New(follow.Options{
		Store: store, Own: own, Agents: []follow.Agent{s.canaries, s.experiments}, Refused: s.refusals,
		Active: func(service string, active bool) { s.member.Set(service, active) }, Logger: logger,
	})
	s.member = mesh.New(mesh.Options{
		Store: store, ID: id, Service: own, Address: id + ":1", Candidacy: mesh.Candidate, Dial: f.dial,
		Counting: counting{s.canaries, s.experiments}, Lead: leadBoth(s, logger), Logger: logger,
	})
	s.status = status.NewPublisher(store, s.says, logger)
	s.follower.OnChange(s.status.Changed)
	return s, nil
}

// start has it work. Profiles tell its goroutines by its name.
func (s *sidecar) start() {
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	pprof.Do(ctx, pprof.Labels("sidecar", s.id), func(ctx context.Context) {
		s.running.Go(func() { s.follower.WatchPolicies(ctx, s.take) })
		s.running.Go(func() { s.status.Run(ctx) })
		services := s.follower.Source(s.source)
		for i, service := range s.uses {
			if i >= s.fleet.size.endpoints {
				s.follower.Follow(service)
				continue
			}
			s.running.Go(func() { services.Watch(ctx, service, func(*registry.Service) {}) })
		}
	})
}

func (s *sidecar) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	s.member.Close(ctx)
	s.cancel()
	s.running.Wait()
	s.canaries.Close()
	s.experiments.Close()
	s.door.base.CloseIdleConnections()
}

// take puts in force what the follower says.
func (s *sidecar) take(now *registry.Policies) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := registry.MergePolicies("", []*registry.Policies{now})
	all = registry.WithFallback(all, all.Generated...)
	refused := all.Refused
	set, wrong := policy.Compile(all.List, s.set, policy.Env{Observer: s.observer})
	for _, w := range wrong {
		refused = append(refused, registry.RefusedPolicy{Policy: w.Policy, Problem: all.Place(w.Policy, w.Field) + ": " + w.Message})
	}
	s.set, s.refused = set, refused
	s.fleet.looked(s, set)
}

func (s *sidecar) refusals() []registry.RefusedPolicy {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refused
}

// says is the status.
func (s *sidecar) says() *controlv1.SidecarStatus {
	st := &controlv1.SidecarStatus{Id: s.id, Service: s.own, Host: "simulated", Version: "v0", Started: s.started, MeshAddress: s.id + ":1"}
	s.mu.Lock()
	if s.set != nil {
		st.Policies = s.set.Version()
	}
	s.mu.Unlock()
	st.Documents, st.Services = s.follower.Documents()
	var left int
	st.Documents, left = status.Bounded(st.Documents)
	st.LeftOut = uint32(left)
	return st
}

// dial connects to another sidecar's server, within the process.
func (f *fleet) dial(ctx context.Context, address string) (net.Conn, error) {
	s := f.byAddress[address]
	if s == nil {
		return nil, errors.New("there is no such sidecar")
	}
	conn, err := s.member.Dial(ctx)
	if err != nil {
		return nil, err
	}
	return &countedConn{conn, &f.talk}, nil
}

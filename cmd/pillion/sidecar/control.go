package sidecar

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/pillion-proxy/pillion/control/canary"
	"github.com/pillion-proxy/pillion/control/experiment"
	"github.com/pillion-proxy/pillion/control/follow"
	"github.com/pillion-proxy/pillion/control/hooks"
	"github.com/pillion-proxy/pillion/control/kv"
	"github.com/pillion-proxy/pillion/control/kv/dirkv"
	"github.com/pillion-proxy/pillion/control/mesh"
	"github.com/pillion-proxy/pillion/control/status"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
	"github.com/pillion-proxy/pillion/registry"
)

// controlled is the sidecar's part in what all sidecars of the mesh do alike. A nil one
// has none.
type controlled struct {
	s           *Sidecar
	store       kv.Store
	follower    *follow.Follower
	canaries    *canary.Agent
	experiments *experiment.Agent
	member      *mesh.Member
	publisher   *status.Publisher
	address     string // where other sidecars reach this one; "": they do not
	metrics     canary.Metrics
	hooks       *hooks.Teller

	stop    context.CancelFunc
	running sync.WaitGroup
}

// openControl opens what the configuration says of the mesh's documents. It returns nil
// where it says nothing.
func openControl(s *Sidecar, build string, known *follow.Handed, replaces bool) (*controlled, error) {
	cfg := s.cfg.GetControl()
	if cfg == nil {
		return nil, nil
	}
	store, err := openControlStore(cfg, s.source, s.logger)
	if err != nil {
		return nil, fmt.Errorf("control: %w", err)
	}
	c := &controlled{s: s, store: store}
	c.hooks = hooks.New(hooks.Options{Store: store, Commands: cfg.GetCommands(), Dial: c.dialService, Logger: s.logger})
	own := s.cfg.GetService().GetName()
	id := sidecarID(s.cfg, s.listeners[sideOutbound])
	c.canaries = canary.NewAgent(canary.Options{
		Changed: func(service string) { c.follower.Changed(service) },
		Events:  c.events, Metrics: &c.metrics, Logger: s.logger,
	})
	counts := ""
	if dir := cfg.GetStateDir(); dir != "" {
		counts = filepath.Join(dir, "experiments")
	}
	c.experiments = experiment.NewAgent(experiment.Options{
		Changed: func(service string) { c.follower.Changed(service) },
		Dir:     counts, Owner: id, Logger: s.logger,
	})
	var cache *follow.Cache
	if dir := cfg.GetStateDir(); dir != "" {
		cache = follow.NewCache(filepath.Join(dir, "control"), s.logger)
	}
	var entries func(context.Context, string, func(*registry.Policies))
	if cfg.GetConsulEntries() && s.source.consul != nil {
		s.source.consul.CallAs(own)
		entries = s.source.consul.WatchEntries
	}
	c.follower = follow.New(follow.Options{
		Entries: entries,
		Store:   store, Own: own, Cache: cache, Handed: known, Agents: []follow.Agent{c.canaries, c.experiments},
		Refused: func() []registry.RefusedPolicy { return s.policies.refusals() }, Active: func(service string, active bool) { c.member.Set(service, active) },
		Unknown: c.unknown, Logger: s.logger,
	})
	if err := c.join(id, own); err != nil {
		c.canaries.Close()
		c.experiments.Close()
		return nil, fmt.Errorf("control: %w", err)
	}
	c.publisher = status.NewPublisher(store, func() *controlv1.SidecarStatus { return c.status(id, own, build) }, s.logger)
	c.publisher.AtOnce = replaces
	c.follower.OnChange(c.publisher.Changed)
	return c, nil
}

// unknown has everybody refused as long as policies for the app are not known, and says so.
func (c *controlled) unknown(names []string) {
	c.s.policies.setUnknown(names)
	if c.s.listeners[sideInbound] == nil {
		return
	}
	reason := ""
	if len(names) > 0 {
		reason = "access policies for the app are not known, so everybody is refused: " + strings.Join(names, ", ")
	}
	c.s.ready.Set("documents", reason)
}

// openControlStore opens the store of the mesh's documents.
func openControlStore(cfg *configv1.Control, source *source, logger *slog.Logger) (kv.Store, error) {
	if dir := cfg.GetDir(); dir != "" {
		return dirkv.Open(dir, dirkv.Options{Log: logger})
	}
	if source.consul == nil {
		return nil, errors.New("there is neither a folder nor Consul: write control.dir or registry.consul")
	}
	return source.consul.Store(), nil
}

// sidecarID is what the sidecar is called among the sidecars. It is the same after a
// restart, but of a client that listens at a port of the system's choosing (outbound is its
// listener): there may be several such on a machine.
func sidecarID(cfg *configv1.Bootstrap, outbound *socket) string {
	if id := cfg.GetService().GetId(); id != "" {
		return id
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	// Two clients on one machine listen at two places.
	where := strings.TrimPrefix(cfg.GetOutbound().GetListen(), "unix://")
	if _, port, err := net.SplitHostPort(where); err == nil && port == "0" && outbound != nil {
		where = outbound.Addr().String()
	}
	return host + "-" + strings.NewReplacer("/", "_", ":", "_").Replace(where)
}

// join makes the sidecar a member of those that elect one of them.
func (c *controlled) join(id, own string) error {
	s := c.s
	address, err := c.meshAddress()
	if err != nil {
		return err
	}
	o := mesh.Options{
		Store: c.store, ID: id, Service: own, Address: address, Candidacy: mesh.Reserve,
		Counting: counting{c.canaries, c.experiments}, Lead: c.lead(id), Logger: s.logger,
	}
	switch {
	case s.listeners[sideInbound] == nil: // others cannot report to it, but there may be none
	case s.cfg.GetControl().GetCandidate():
		o.Candidacy = mesh.Candidate
	default:
		o.Candidacy = mesh.Never
	}
	o.May = func(peer spiffeid.ID, about string) error {
		if about != own || s.inbound == nil {
			return nil
		}
		return s.inbound.MayReport(peer)
	}
	if s.who != nil {
		o.Security = &mesh.Security{
			TLS: s.who.tls, Keeper: s.who.keeper, ServiceID: s.who.template,
			Inbound: meshModes[s.cfg.GetInbound().GetTls()], Strict: s.cfg.GetOutbound().GetTls() == tlsStrict,
		}
	}
	c.address, c.member = address, mesh.New(o)
	return nil
}

// meshModes are what the inbound port speaks.
var meshModes = map[string]mesh.Mode{tlsOff: mesh.Plaintext, tlsPermissive: mesh.Permissive, tlsStrict: mesh.Strict}

// meshAddress is where other sidecars reach this one; "": they do not.
func (c *controlled) meshAddress() (string, error) {
	l := c.s.listeners[sideInbound]
	if l == nil {
		return "", nil
	}
	where, err := advertised(c.s.cfg.GetInbound().GetAdvertise(), l)
	if err != nil {
		return "", err
	}
	host, port, err := net.SplitHostPort(where)
	if err != nil {
		return "", nil //nolint:nilerr // a Unix socket, which others do not reach
	}
	if ip := net.ParseIP(host); host != "" && (ip == nil || !ip.IsUnspecified()) {
		return where, nil
	}
	if c.s.source.consul == nil {
		return net.JoinHostPort("127.0.0.1", port), nil // a folder is for one machine
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	host, err = c.s.source.consul.NodeAddress(ctx)
	if err != nil {
		if host = outwardAddress(); host == "" {
			c.s.logger.Warn("it is not known at which address other sidecars reach this one, so it can decide for itself alone; write inbound.advertise", "error", err)
			return "", nil
		}
	}
	return net.JoinHostPort(host, port), nil
}

// outwardAddress is the address that this machine has towards others; "": it has none. No
// packet is sent for it.
func outwardAddress() string {
	c, err := net.Dial("udp", "192.0.2.1:9") // of a network that is for examples (RFC 5737)
	if err != nil {
		return ""
	}
	defer func() { _ = c.Close() }()
	host, _, err := net.SplitHostPort(c.LocalAddr().String())
	if err != nil {
		return ""
	}
	return host
}

// events is what agents of canaries ask about a subset's instances.
func (c *controlled) events(service, subset string) (ejections uint64, instances int, ok bool) {
	if c.s.outbound == nil {
		return 0, 0, false
	}
	return c.s.outbound.SubsetEvents(service, subset)
}

// obstacle says why a canary of a service would divide nothing; "": it would. The policies
// are made after what leads.
func (c *controlled) obstacle(service string) string { return c.s.policies.obstacle(service) }

// observer is who is told of what comes of a group.
func (c *controlled) observer(key telemetry.GroupKey) telemetry.Observer {
	if c == nil {
		return nil
	}
	if o := c.canaries.Observer(key); o != nil {
		return o
	}
	return c.experiments.Observer(key)
}

// sources are where policies come from.
func (c *controlled) sources(others []registry.PolicySource) []registry.PolicySource {
	if c == nil {
		return others
	}
	return append(slices.Clip(others), c.follower)
}

// follow returns a source of services whose documents are followed.
func (c *controlled) follow(of registry.Source) registry.Source {
	if c == nil {
		return of
	}
	return c.follower.Source(of)
}

// dialMesh leads to the server of the member; nil: there is none.
func (c *controlled) dialMesh() func(context.Context) (net.Conn, error) {
	if c == nil {
		return nil
	}
	return c.member.Dial
}

// collect registers what there is to measure.
func (c *controlled) collect(metrics *prometheus.Registry) {
	if c != nil {
		metrics.MustRegister(c.follower, &c.metrics, c.experiments.Metrics())
	}
}

// start begins to say how the sidecar stands.
func (c *controlled) start() {
	if c == nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	c.stop = cancel
	c.running.Go(func() { c.publisher.Run(ctx) })
}

// leave gives up what only one process may hold, and what others are told of it. It comes
// before the inbound side is shut down, which waits for RPCs under way.
func (c *controlled) leave() {
	if c == nil {
		return
	}
	if c.s.hasSuccessor() {
		c.publisher.Succeeded()
	}
	if c.stop != nil {
		c.stop()
	}
	ctx, cancel := context.WithTimeout(context.Background(), leavePatience)
	defer cancel()
	c.member.Close(ctx)
}

// leavePatience is how long the store may take to hear that the sidecar goes.
const leavePatience = time.Second

// close ends it all, after the policies are watched no more.
func (c *controlled) close() {
	if c == nil {
		return
	}
	c.leave()
	c.running.Wait()
	c.hooks.Close()
	c.canaries.Close()
	c.experiments.Close()
}

// status is what the sidecar says of itself.
func (c *controlled) status(id, own, build string) *controlv1.SidecarStatus {
	s := c.s
	host, _ := os.Hostname()
	st := &controlv1.SidecarStatus{
		Id: id, Service: own, Host: host, Version: build, Started: timestamppb.New(s.started.Truncate(time.Second)),
		Problems: c.problems(),
	}
	st.Policies, _, _ = s.policies.count()
	var left int
	st.Documents, st.Services = c.follower.Documents()
	st.Documents, left = status.Bounded(st.Documents)
	st.LeftOut = uint32(left)
	st.MeshAddress = c.address
	if s.who != nil {
		if state := s.who.keeper.Current(); state != nil && !state.Expiry().IsZero() {
			st.CertificateExpires = timestamppb.New(state.Expiry())
		}
	}
	return st
}

// problems are what is wrong, a line each.
func (c *controlled) problems() (lines []string) {
	for _, source := range c.s.source.Sources() {
		if text := source.GetError(); text != "" {
			lines = append(lines, strings.Split(text, "\n")...)
		}
	}
	if err := c.follower.Err(); err != nil {
		lines = append(lines, err.Error())
	}
	return append(lines, c.member.Problems()...)
}

// lead begins to lead a service, its canaries and its experiments.
func (c *controlled) lead(id string) mesh.Lead {
	cfg := c.s.cfg.GetControl()
	dir := cfg.GetStateDir()
	if dir != "" {
		dir = filepath.Join(dir, "experiments")
	}
	canaries := canary.Lead(canary.LeadOptions{ID: id, Known: c.canaries.Known, Obstacle: c.obstacle, Hooks: c.hooks, Metrics: &c.metrics, Logger: c.s.logger})
	experiments := experiment.Lead(experiment.LeadOptions{ID: id, Known: c.experiments.Known, Dir: dir, Hooks: c.hooks, Logger: c.s.logger})
	return leadBoth(canaries, experiments)
}

// dialService connects to a service of the mesh by the sidecar's own outbound side.
func (c *controlled) dialService(_ context.Context, service string) (conn grpc.ClientConnInterface, release func(), err error) {
	l := c.s.listeners[sideOutbound]
	if l == nil {
		return nil, nil, errors.New("this sidecar has no outbound side, by which a service could be reached")
	}
	client, err := grpc.NewClient("passthrough:///"+service,
		grpc.WithTransportCredentials(insecure.NewCredentials()), // it is this process
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, l.Addr().Network(), l.Addr().String())
		}))
	if err != nil {
		return nil, nil, err
	}
	return client, func() { _ = client.Close() }, nil
}

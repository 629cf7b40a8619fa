package consul

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/pillion-proxy/pillion/registry"
)

// Registration is the local app, as it is to stand in Consul, and the sidecar
// beside it.
type Registration struct {
	// Name of the service, such as "greeter": letters, digits, '-' and '_'.
	Name string
	// ID of the instance, unique on its agent. Default: the name and the port
	// ("greeter-50051"), or the name and a hash of the socket's path.
	ID string
	// Address is where the app listens, as registry.ParseAddress takes it. Consul
	// is told the port with the agent's own address where the host is loopback or
	// unspecified: from elsewhere such an address means something else.
	Address string
	// Meta is copied to both registrations. At most 48 entries; "pillion" and
	// what begins with "grpc-services" is set by the Registrar.
	Meta map[string]string
	// Tags are copied to both registrations.
	Tags []string
	// Passing and Warning are the instance's weights for those standings of its
	// checks. Default: 1. At most 65535.
	Passing, Warning int
	// GRPC are the gRPC services that the app answers. Default: what AskGRPC says.
	GRPC []string
	// AskGRPC finds out which gRPC services the app answers, from its reflection
	// service. It is called every 2 s until it first succeeds and every 30 s then,
	// each time for at most 2 s; what it said last holds while it fails. It may be
	// nil.
	AskGRPC func(context.Context) ([]string, error)
	// Check is how Consul finds out that the app is well. Nil: it counts as well
	// as long as it is registered.
	Check *Check
	// Sidecar is the inbound side beside the app. Nil: there is none.
	Sidecar *Sidecar
	// After is closed when another process has let go of the registration, which had
	// it until then (see Registrar.Release): nothing is looked at, nor changed, before.
	// Nil: there is no other.
	After <-chan struct{}
}

// Check is the gRPC health check (grpc.health.v1, plaintext) that the agent makes.
type Check struct {
	// Target is the "host:port" to ask. Default: the app; for an app on a Unix
	// socket, which Consul cannot ask, its sidecar's inbound, which hands the
	// question on. Where that inbound speaks mTLS alone, which the agent does not, the
	// app counts as well as long as the inbound accepts connections.
	Target string
	// Service is asked about. Default: "", the whole server.
	Service string
	// Interval is how often. Default: 5s.
	Interval time.Duration
	// Timeout of each. Default: 2s, or the interval where that is shorter.
	Timeout time.Duration
	// DeregisterAfter is how long the app, or the inbound, may be critical until
	// the agent forgets it. Consul takes at least 1m. 0: never.
	DeregisterAfter time.Duration
}

// Sidecar is a Pillion's inbound side.
type Sidecar struct {
	// Address is where others reach the inbound, as registry.ParseAddress takes
	// it. An unspecified host (0.0.0.0, [::]) stands for the agent's own address.
	Address string
	// Security is what the inbound speaks, for others to know. Default: plaintext.
	Security registry.Security
	// CheckAddress is the "host:port" at which the agent checks that the inbound
	// accepts connections. Default: Address, with 127.0.0.1 where the host is
	// unspecified; none for a Unix socket.
	CheckAddress string
}

const (
	defaultCheckInterval = 5 * time.Second
	defaultCheckTimeout  = 2 * time.Second
	// maxMeta leaves room for our own keys among Consul's 64.
	maxMeta   = 48
	maxWeight = 65535
)

var (
	serviceName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9_-]{0,126}[A-Za-z0-9])?$`)
	serviceID   = regexp.MustCompile(`^[A-Za-z0-9_.:-]{1,255}$`)
	metaKey     = regexp.MustCompile(`^[A-Za-z0-9_-]{1,128}$`)
)

// aliasCheckID names the check by which a sidecar is as well as its app.
func aliasCheckID(sidecarID string) string { return sidecarID + ":alias" }

// endpoint is an address as Consul's registrations write it.
type endpoint struct {
	host   string // empty for the agent's own
	port   int
	socket string // path of a Unix socket, instead of the two
}

func parseEndpoint(address string) (endpoint, error) {
	network, where, err := registry.ParseAddress(address)
	if err != nil {
		return endpoint{}, err
	}
	if network == "unix" {
		return endpoint{socket: where}, nil
	}
	host, text, err := net.SplitHostPort(where)
	if err != nil {
		return endpoint{}, err
	}
	port, err := strconv.Atoi(text)
	if err != nil || port == 0 {
		return endpoint{}, fmt.Errorf("address %q: Consul needs the port that is really listened on", address)
	}

	return endpoint{host: host, port: port}, nil
}

func isUnspecified(host string) bool {
	ip, err := netip.ParseAddr(host)

	return host == "" || err == nil && ip.IsUnspecified()
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)

	return host == "localhost" || err == nil && ip.IsLoopback()
}

// local is the address to reach the endpoint at from the same machine.
func (e endpoint) local() string {
	host := e.host
	if isUnspecified(host) {
		host = "127.0.0.1"
	}

	return net.JoinHostPort(host, strconv.Itoa(e.port))
}

// plan is a checked Registration with its defaults filled in.
type plan struct {
	Registration

	app, inbound endpoint
	check        Check
	// connects says that the agent can only find out whether check.Target accepts
	// connections.
	connects bool
}

func (r Registration) plan() (*plan, error) {
	p := &plan{Registration: r}

	var err error
	switch {
	case !serviceName.MatchString(r.Name):
		return nil, fmt.Errorf("service name %q: want letters, digits, '-' and '_', at most 128", r.Name)
	case len(r.Meta) > maxMeta:
		return nil, fmt.Errorf("service %s: %d meta entries, more than %d", r.Name, len(r.Meta), maxMeta)
	case len(r.GRPC) > 0 && r.AskGRPC != nil:
		return nil, fmt.Errorf("service %s: either GRPC or AskGRPC", r.Name)
	}
	for key, value := range r.Meta {
		switch {
		case !metaKey.MatchString(key):
			return nil, fmt.Errorf("service %s: meta key %q: want letters, digits, '-' and '_', at most 128", r.Name, key)
		case key == metaPillion || isMetaGRPC(key):
			return nil, fmt.Errorf("service %s: meta key %q is set by the sidecar", r.Name, key)
		case len(value) > maxMetaValue:
			return nil, fmt.Errorf("service %s: meta %q is longer than %d", r.Name, key, maxMetaValue)
		}
	}
	for _, weight := range []*int{&p.Passing, &p.Warning} {
		if *weight < 0 || *weight > maxWeight {
			return nil, fmt.Errorf("service %s: weight %d: want 1 to %d", r.Name, *weight, maxWeight)
		}
		*weight = max(1, *weight)
	}

	if p.app, err = parseEndpoint(r.Address); err != nil {
		return nil, fmt.Errorf("service %s: %w", r.Name, err)
	}
	if r.Sidecar != nil {
		if p.inbound, err = parseEndpoint(r.Sidecar.Address); err != nil {
			return nil, fmt.Errorf("sidecar of service %s: %w", r.Name, err)
		}
	}
	if p.ID == "" {
		p.ID = p.defaultID()
	}
	if !serviceID.MatchString(p.ID) {
		return nil, fmt.Errorf("service %s: id %q: want letters, digits, '_', '.', ':' and '-', at most 255", r.Name, p.ID)
	}

	return p, p.fillCheck()
}

func (p *plan) defaultID() string {
	if p.app.socket == "" {
		return p.Name + "-" + strconv.Itoa(p.app.port)
	}
	sum := sha256.Sum256([]byte(p.app.socket))

	return p.Name + "-" + hex.EncodeToString(sum[:4])
}

func (p *plan) fillCheck() error {
	if p.Check != nil {
		p.check = *p.Check
	}
	if p.check.Interval <= 0 {
		p.check.Interval = defaultCheckInterval
	}
	if p.check.Timeout <= 0 {
		p.check.Timeout = min(defaultCheckTimeout, p.check.Interval)
	}
	if p.check.Target == "" {
		switch {
		case p.app.socket == "":
			p.check.Target = p.app.local()
		case p.Sidecar != nil && p.inbound.socket == "":
			p.check.Target = p.inbound.local()
			// The agent has no identity. Where plaintext is let in too, access rules that
			// name callers would refuse its question, and the app would count as critical.
			p.connects = p.Sidecar.Security == registry.SecurityMTLS || p.Sidecar.Security == registry.SecurityPermissive
		case p.Check != nil:
			return fmt.Errorf("service %s: Consul cannot check an app on a Unix socket that has no inbound on TCP: say what to check, or turn the check off", p.Name)
		}
	}

	return nil
}

func (p *plan) sidecarID() string { return p.ID + sidecarSuffix }

// ids are those of all registrations, the app's first.
func (p *plan) ids() []string {
	if p.Sidecar == nil {
		return []string{p.ID}
	}

	return []string{p.ID, p.sidecarID()}
}

// registrations are what to register, in this order: the sidecar first, so that
// nobody sees the app without it.
func (p *plan) registrations(grpc map[string]string) []*api.AgentServiceRegistration {
	meta := maps.Clone(p.Meta)
	if meta == nil {
		meta = map[string]string{}
	}
	maps.Copy(meta, grpc)

	app := &api.AgentServiceRegistration{
		ID: p.ID, Name: p.Name, Port: p.app.port, Address: p.app.host, SocketPath: p.app.socket,
		Meta: meta, Tags: p.Tags, Weights: &api.AgentWeights{Passing: p.Passing, Warning: p.Warning},
	}
	if isUnspecified(app.Address) || isLoopback(app.Address) {
		app.Address = ""
	}
	if p.Check != nil {
		app.Checks = append(app.Checks, p.appCheck())
	}
	if p.Sidecar == nil {
		return []*api.AgentServiceRegistration{app}
	}

	return []*api.AgentServiceRegistration{p.sidecar(app), app}
}

// appCheck is how the agent finds out that the app is well.
func (p *plan) appCheck() *api.AgentServiceCheck {
	check := &api.AgentServiceCheck{
		Interval: p.check.Interval.String(), Timeout: p.check.Timeout.String(),
		DeregisterCriticalServiceAfter: p.deregisterAfter(),
	}
	if p.connects {
		check.CheckID, check.Name, check.TCP = p.ID+":tcp", "Inbound of "+p.Name, p.check.Target

		return check
	}
	check.CheckID, check.Name, check.GRPC = p.ID+":grpc", "gRPC health of "+p.Name, p.check.Target
	if p.check.Service != "" {
		check.GRPC += "/" + p.check.Service
	}

	return check
}

// sidecar is the registration beside an app's. It says all that the app's says,
// because who looks for sidecars sees nothing else.
func (p *plan) sidecar(app *api.AgentServiceRegistration) *api.AgentServiceRegistration {
	meta := maps.Clone(app.Meta)
	meta[metaPillion] = spoken(p.Sidecar.Security)

	sidecar := &api.AgentServiceRegistration{
		Kind: api.ServiceKindConnectProxy, ID: p.sidecarID(), Name: p.Name + sidecarSuffix,
		Port: p.inbound.port, Address: p.inbound.host, SocketPath: p.inbound.socket,
		Meta: meta, Tags: p.Tags, Weights: app.Weights,
		Proxy: &api.AgentServiceConnectProxyConfig{
			DestinationServiceName: p.Name, DestinationServiceID: p.ID,
			LocalServicePort: p.app.port, LocalServiceSocketPath: p.app.socket,
		},
		Checks: api.AgentServiceChecks{{
			CheckID: aliasCheckID(p.sidecarID()), Name: "Health of " + p.Name, AliasService: p.ID,
		}},
	}
	if isUnspecified(sidecar.Address) {
		sidecar.Address = ""
	}
	address := p.Sidecar.CheckAddress
	if address == "" && p.inbound.socket == "" {
		address = p.inbound.local()
	}
	if address != "" {
		sidecar.Checks = append(sidecar.Checks, &api.AgentServiceCheck{
			CheckID: p.sidecarID() + ":inbound", Name: "Inbound of " + p.Name, TCP: address,
			Interval: p.check.Interval.String(), Timeout: p.check.Timeout.String(),
			// We listen, or would not register.
			Status:                         api.HealthPassing,
			DeregisterCriticalServiceAfter: p.deregisterAfter(),
		})
	}

	return sidecar
}

func (p *plan) deregisterAfter() string {
	if p.check.DeregisterAfter <= 0 {
		return ""
	}

	return p.check.DeregisterAfter.String()
}

// differs says in what the agent's view of a registration is not what was
// wanted, or that it has none; nil where it is the same. What Consul adds of its
// own does not count.
func differs(want *api.AgentServiceRegistration, have *api.AgentService, checks map[string]*api.AgentCheck) error {
	if have == nil {
		return errForgotten
	}
	field := ""
	switch {
	case have.Kind != want.Kind:
		field = "kind"
	case have.Service != want.Name:
		field = "name"
	case have.Port != want.Port || have.Address != want.Address || have.SocketPath != want.SocketPath:
		field = "address"
	case !maps.Equal(have.Meta, want.Meta):
		field = "meta"
	case !slices.Equal(have.Tags, want.Tags):
		field = "tags"
	case have.Weights != *want.Weights:
		field = "weights"
	case want.Proxy != nil && (have.Proxy == nil ||
		have.Proxy.DestinationServiceName != want.Proxy.DestinationServiceName ||
		have.Proxy.DestinationServiceID != want.Proxy.DestinationServiceID ||
		have.Proxy.LocalServicePort != want.Proxy.LocalServicePort):
		field = "proxy"
	}
	for _, check := range want.Checks {
		if checks[check.CheckID] == nil {
			field = "check " + check.CheckID
		}
	}
	if field == "" {
		return nil
	}

	return fmt.Errorf("the agent has another %s", field)
}

var errForgotten = errors.New("the agent does not know it")

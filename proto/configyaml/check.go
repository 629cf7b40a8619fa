package configyaml

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	"github.com/pillion-proxy/pillion/registry"
)

// checkBootstrap checks what no rule about a single field can say. The
// bootstrap is effective and keeps the schema's rules.
func checkBootstrap(b *configv1.Bootstrap) findings {
	var f findings
	checkPurpose(&f, b)
	checkListeners(&f, b)
	if b.GetService() != nil {
		checkService(&f, b.GetService())
	}
	if b.GetOutbound() != nil {
		checkOutbound(&f, b)
	}
	checkRegistry(&f, b.GetRegistry())
	checkIdentity(&f, b)
	checkRegistration(&f, b)
	checkConnections(&f, b.GetConnections())
	checkHTTP2(&f, b.GetHttp2())
	checkOverload(&f, b)
	checkControl(&f, b)
	return f
}

// checkPurpose checks that the sidecar has something to do and what it needs
// for it.
func checkPurpose(f *findings, b *configv1.Bootstrap) {
	if b.GetOutbound() == nil && b.GetInbound() == nil {
		f.addf("", "nothing to listen on: write outbound (for the clients beside this sidecar), inbound (for the mesh), or both")
	}
	if b.GetOutbound() != nil && b.GetRegistry() == nil {
		f.addf("registry", "is missing, but outbound needs to know where services are: write file or consul")
	}
	if b.GetInbound() != nil && b.GetService() == nil {
		f.addf("service", "is missing, but inbound needs an app to hand RPCs to: write its name and port")
	}
}

// listener is an address that something of ours or of the app's listens on.
type listener struct {
	field, address string
}

func checkListeners(f *findings, b *configv1.Bootstrap) {
	var listeners []listener
	add := func(field, address string) {
		if _, _, err := registry.ParseAddress(address); err != nil {
			f.addf(field, "%v", err)
			return
		}
		listeners = append(listeners, listener{field, address})
	}
	if b.GetService().GetAddress() != "" {
		add("service.address", b.GetService().GetAddress())
	}
	if b.GetOutbound() != nil {
		add("outbound.listen", b.GetOutbound().GetListen())
	}
	if b.GetInbound() != nil {
		add("inbound.listen", b.GetInbound().GetListen())
	}
	if b.GetAdmin() != nil {
		add("admin.listen", b.GetAdmin().GetListen())
	}
	for i, a := range listeners {
		for _, other := range listeners[:i] {
			if overlap(a.address, other.address) {
				f.addf(a.field, "%s is taken by %s (%s): choose another", a.address, other.field, other.address)
			}
		}
	}
	if advertise := b.GetInbound().GetAdvertise(); advertise != "" {
		checkAdvertise(f, advertise)
	}
}

func checkAdvertise(f *findings, advertise string) {
	network, address, err := registry.ParseAddress(advertise)
	if err != nil {
		f.addf("inbound.advertise", "%v", err)
		return
	}
	if network == "unix" {
		f.addf("inbound.advertise", "%q is a Unix socket: write the host:port that others reach it at, or remove the line", advertise)
		return
	}
	if host, _, _ := net.SplitHostPort(address); isWildcard(host) {
		f.addf("inbound.advertise", "%q is no address that others can dial: write this machine's", advertise)
	}
}

// overlap says whether two listeners cannot exist beside each other. Both
// addresses parse.
func overlap(a, b string) bool {
	networkA, addressA, _ := registry.ParseAddress(a)
	networkB, addressB, _ := registry.ParseAddress(b)
	if networkA != networkB {
		return false
	}
	if networkA == "unix" {
		return addressA == addressB
	}
	hostA, portA, _ := net.SplitHostPort(addressA)
	hostB, portB, _ := net.SplitHostPort(addressB)
	if portA != portB || portA == "0" {
		return false
	}
	return isWildcard(hostA) || isWildcard(hostB) || canonicalHost(hostA) == canonicalHost(hostB)
}

func isWildcard(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "" || err == nil && ip.IsUnspecified()
}

func canonicalHost(host string) string {
	if strings.EqualFold(host, "localhost") {
		return "127.0.0.1"
	}
	return strings.ToLower(host)
}

// checkDialled checks an address that is dialled, not listened on.
func checkDialled(f *findings, field, address string) {
	network, address, err := registry.ParseAddress(address)
	if err != nil {
		f.addf(field, "%v", err)
		return
	}
	if network == "unix" {
		return
	}
	switch host, port, _ := net.SplitHostPort(address); {
	case port == "0":
		f.addf(field, "%q has port 0, which nobody listens on: write the port", address)
	case host == "":
		f.addf(field, "%q has no host: write it, such as 127.0.0.1:%s", address, port)
	}
}

func checkService(f *findings, s *configv1.Service) {
	switch {
	case s.GetAddress() == "":
		f.addf("service", "says neither port nor address: write where the app listens")
		return
	case s.Port != nil && s.GetAddress() != fmt.Sprintf("127.0.0.1:%d", s.GetPort()):
		f.addf("service.address", "is written beside port: write one of them")
		return
	}
	if _, _, err := registry.ParseAddress(s.GetAddress()); err == nil { // else checkListeners says so
		checkDialled(f, "service.address", s.GetAddress())
	}
	for _, key := range slices.Sorted(maps.Keys(s.GetMeta())) {
		if key == "pillion" || strings.HasPrefix(key, "grpc-services") {
			f.addf(fmt.Sprintf("service.meta[%q]", key), "is the sidecar's own entry: choose another name (gRPC service names go into service.grpc)")
		}
	}
	check := s.GetHealthCheck()
	if check.GetTimeout().AsDuration() > check.GetInterval().AsDuration() {
		f.addf("service.health_check.timeout", "%s is longer than the interval, %s", text(check.GetTimeout()), text(check.GetInterval()))
	}
	checkOffOrAtLeast(f, "service.health_check.deregister_critical_after", check.GetDeregisterCriticalAfter(), time.Minute, "Consul's smallest")
}

func checkOutbound(f *findings, b *configv1.Bootstrap) {
	o := b.GetOutbound()
	if o.DefaultTimeout != nil && o.MaxTimeout != nil && o.GetDefaultTimeout().AsDuration() > o.GetMaxTimeout().AsDuration() {
		f.addf("outbound.default_timeout", "%s is longer than max_timeout, %s", text(o.GetDefaultTimeout()), text(o.GetMaxTimeout()))
	}
	if static := b.GetRegistry().GetStatic(); static != nil && o.GetDefaultService() != "" {
		if _, ok := static.GetUpstreams()[o.GetDefaultService()]; !ok {
			f.addf("outbound.default_service", "%q is not among the static upstreams (%s)", o.GetDefaultService(), strings.Join(slices.Sorted(maps.Keys(static.GetUpstreams())), ", "))
		}
	}
}

// checkRegistration checks whether the app can stand in Consul as configured.
func checkRegistration(f *findings, b *configv1.Bootstrap) {
	service, inbound := b.GetService(), b.GetInbound()
	if b.GetRegistry().GetConsul() == nil || service == nil {
		return
	}
	if _, port, err := net.SplitHostPort(inbound.GetAdvertise()); err == nil && port == "0" && isSocket(inbound.GetListen()) {
		f.addf("inbound.advertise", "%q has port 0, which stands for the listener's, but that is a Unix socket: write the port", inbound.GetAdvertise())
	}
	reachable := inbound != nil && (!isSocket(inbound.GetListen()) || inbound.GetAdvertise() != "")
	if isSocket(service.GetAddress()) && !service.GetHealthCheck().GetDisabled() && !reachable {
		f.addf("service.address", "Consul cannot check an app on a Unix socket that has no inbound on TCP: write inbound with a host:port, or health_check: {disabled: true}")
	}
}

func isSocket(address string) bool {
	network, _, err := registry.ParseAddress(address)
	return err == nil && network == "unix"
}

func checkRegistry(f *findings, r *configv1.Registry) {
	if consul := r.GetConsul(); consul != nil {
		checkAgentAddress(f, "registry.consul", consul.GetAddress(), consul.GetScheme())
	}
	upstreams := r.GetStatic().GetUpstreams()
	for _, name := range slices.Sorted(maps.Keys(upstreams)) {
		for i, address := range upstreams[name].GetAddresses() {
			checkDialled(f, fmt.Sprintf("registry.static.upstreams[%q].addresses[%d]", name, i), address)
		}
	}
}

// checkAgentAddress checks what says where Consul's agent is.
func checkAgentAddress(f *findings, block, address, byScheme string) {
	if address == "" {
		return
	}
	field := block + ".address"
	scheme, rest, ok := strings.Cut(address, "://")
	if !ok || scheme == "unix" {
		checkDialled(f, field, address)
		return
	}
	u, err := url.Parse(address)
	switch {
	case scheme != "http" && scheme != "https":
		f.addf(field, "%q: the scheme is not known: write http://%s or https://%s", address, rest, rest)
	case err != nil || u.Host == "":
		f.addf(field, "%q is not a URL with a host, such as http://127.0.0.1:8500", address)
	case byScheme != "" && byScheme != scheme:
		f.addf(block+".scheme", "%q contradicts the address, %s: write one of them", byScheme, address)
	}
}

func checkConnections(f *findings, c *configv1.Connections) {
	if backoff := c.GetBackoff(); backoff.GetMax().AsDuration() < backoff.GetInitial().AsDuration() {
		f.addf("connections.backoff.max", "%s is shorter than initial, %s", text(backoff.GetMax()), text(backoff.GetInitial()))
	}
	checkOffOrAtLeast(f, "connections.keepalive.interval", c.GetKeepalive().GetInterval(), 10*time.Second, "gRPC's smallest")
	checkOffOrAtLeast(f, "connections.idle_timeout", c.GetIdleTimeout(), time.Second, "the smallest that makes sense")
	checkOffOrAtLeast(f, "connections.max_age", c.GetMaxAge(), time.Second, "the smallest that makes sense")
}

func checkHTTP2(f *findings, h *configv1.HTTP2) {
	initial := h.GetInitialStreamWindow()
	if h.GetMaxStreamWindow() < initial {
		f.addf("http2.max_stream_window", "%d is smaller than initial_stream_window, %d", h.GetMaxStreamWindow(), initial)
	}
	if h.GetConnectionWindow() < initial {
		f.addf("http2.connection_window", "%d is smaller than initial_stream_window, %d: one stream could not use its own", h.GetConnectionWindow(), initial)
	}
	if h.GetMaxOutput() < h.GetOutputBuffer() {
		f.addf("http2.max_output", "%d is smaller than output_buffer, %d", h.GetMaxOutput(), h.GetOutputBuffer())
	}
}

func checkOverload(f *findings, b *configv1.Bootstrap) {
	c := b.GetOverload().GetAdaptiveConcurrency()
	if c == nil {
		return
	}
	if b.GetInbound() == nil {
		f.addf("overload.adaptive_concurrency", "limits what the inbound side hands to the app, but there is no inbound: write it, or remove the block")
	}
	if c.GetMaxLimit() < c.GetMinLimit() {
		f.addf("overload.adaptive_concurrency.max_limit", "%d is smaller than min_limit, %d", c.GetMaxLimit(), c.GetMinLimit())
	}
	if initial := c.GetInitialLimit(); initial < c.GetMinLimit() || initial > c.GetMaxLimit() {
		f.addf("overload.adaptive_concurrency.initial_limit", "%d is not within min_limit, %d, and max_limit, %d", initial, c.GetMinLimit(), c.GetMaxLimit())
	}
}

// checkOffOrAtLeast checks a duration of which 0 stands for never.
func checkOffOrAtLeast(f *findings, field string, d *durationpb.Duration, least time.Duration, why string) {
	if v := d.AsDuration(); v != 0 && v < least {
		f.addf(field, "%s is too short: write 0s for never, or at least %s (%s)", v, least, why)
	}
}

// checkMesh checks what no rule about a single field can say.
func checkMesh(mesh *configv1.MeshFile) findings {
	var f findings
	services := mesh.GetServices()
	for _, name := range slices.Sorted(maps.Keys(services)) {
		checkIdentities(&f, name, services[name])
		seen := make(map[string]int, len(services[name].GetEndpoints()))
		for i, endpoint := range services[name].GetEndpoints() {
			field := fmt.Sprintf("services[%q].endpoints[%d].address", name, i)
			checkDialled(&f, field, endpoint.GetAddress())
			if first, twice := seen[endpoint.GetAddress()]; twice {
				f.addf(field, "%q is endpoints[%d] already: remove one", endpoint.GetAddress(), first)
				continue
			}
			seen[endpoint.GetAddress()] = i
		}
	}
	checkNames(&f, mesh.GetPolicies())
	return f
}

func text(d *durationpb.Duration) string { return d.AsDuration().String() }

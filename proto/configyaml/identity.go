package configyaml

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/proto"

	"github.com/pillion-proxy/pillion/identity"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	"github.com/pillion-proxy/pillion/registry"
)

// The defaults of identity and access, as the schema's comments document them.
const (
	defaultMinTLSVersion    = "1.3"
	defaultHandshakeTimeout = 5 * time.Second
	defaultMaxHandshakes    = 1000
	defaultStartTimeout     = 10 * time.Second
	defaultDevTTL           = 24 * time.Hour

	tlsOff    = "off"
	tlsStrict = "strict"
)

// effectiveIdentity fills in who the sidecar is, and what follows from whether it is
// anybody.
func effectiveIdentity(b *configv1.Bootstrap) {
	tls := tlsOff
	if b.GetIdentity().GetSource() != nil {
		tls = tlsStrict
	}
	if b.Outbound != nil {
		setText(&b.Outbound.Tls, tls)
	}
	if b.Inbound != nil {
		setText(&b.Inbound.Tls, tls)
	}
	i := b.GetIdentity()
	if i.GetSource() == nil {
		return // nothing that is said of it would mean anything
	}
	setText(&i.MinTlsVersion, defaultMinTLSVersion)
	setDuration(&i.HandshakeTimeout, defaultHandshakeTimeout)
	setValue(&i.MaxHandshakes, defaultMaxHandshakes)
	setDuration(&i.StartTimeout, defaultStartTimeout)
	if consul := i.GetConsul(); consul != nil {
		effectiveConsulIdentity(consul, b)
	} else {
		setText(&i.ServiceId, identity.DefaultServiceID)
	}
	if dev := i.GetDev(); dev != nil {
		setDuration(&dev.Ttl, defaultDevTTL)
	}
}

// effectiveConsulIdentity takes what is not said from the registry. The token of one
// agent is not for another one.
func effectiveConsulIdentity(c *configv1.ConsulIdentity, b *configv1.Bootstrap) {
	setText(&c.Service, b.GetService().GetName())
	setValue(&c.Intentions, true)
	r := b.GetRegistry().GetConsul()
	if c.Address == "" || c.Address == r.GetAddress() {
		c.Address = r.GetAddress()
		setText(&c.Scheme, r.GetScheme())
		setText(&c.TokenFile, r.GetTokenFile())
	}
	setText(&c.Namespace, r.GetNamespace())
	setText(&c.Partition, r.GetPartition())
}

// effectiveAccess fills in the defaults of an access policy in place.
func effectiveAccess(a *configv1.AccessPolicy) {
	setText(&a.Mode, "enforce")
	for i, rule := range a.GetRules() {
		setText(&rule.Name, strconv.Itoa(i+1))
		setText(&rule.Mode, a.GetMode())
	}
}

// checkIdentity checks who the sidecar is, and that whatever needs that has it.
func checkIdentity(f *findings, b *configv1.Bootstrap) {
	const sources = "files, consul, spiffe or dev"
	i := b.GetIdentity()
	if i.GetSource() == nil {
		if proto.Size(i) > 0 {
			f.addf("identity", "has no source, so all would be plaintext: write %s, or remove the block", sources)
		}
		for _, side := range []struct{ field, tls string }{{"outbound.tls", b.GetOutbound().GetTls()}, {"inbound.tls", b.GetInbound().GetTls()}} {
			if side.tls != "" && side.tls != tlsOff {
				f.addf(side.field, "%q needs an identity: write identity with %s, or %q here", side.tls, sources, tlsOff)
			}
		}
	}
	checkAdminAccess(f, b)
	if text := i.GetServiceId(); text != "" {
		if _, err := identity.ExpandID(text, sampleDomain, "web"); err != nil {
			f.addf("identity.service_id", "%v", err)
		}
	}
	checkIdentitySource(f, b)
}

// sampleDomain stands for the own trust domain where that is not known yet.
var sampleDomain = spiffeid.RequireTrustDomainFromString("example.org")

func checkIdentitySource(f *findings, b *configv1.Bootstrap) {
	i, service := b.GetIdentity(), b.GetService().GetName()
	switch source := i.GetSource().(type) {
	case *configv1.Identity_Files:
		for _, domain := range slices.Sorted(maps.Keys(source.Files.GetFederatedRoots())) {
			if _, err := spiffeid.TrustDomainFromString(domain); err != nil {
				f.addf(fmt.Sprintf("identity.files.federated_roots[%q]", domain), "is not a trust domain, such as example.org: %v", err)
			}
		}
	case *configv1.Identity_Consul:
		c := source.Consul
		if c.GetService() == "" {
			f.addf("identity.consul.service", "is missing, and so is service.name: write the service whose certificate this sidecar is to have")
		}
		checkAgentAddress(f, "identity.consul", c.GetAddress(), c.GetScheme())
	case *configv1.Identity_Spiffe:
		checkID(f, "identity.spiffe.id", source.Spiffe.GetId())
		checkSocket(f, source.Spiffe.GetSocket())
	case *configv1.Identity_Dev:
		checkID(f, "identity.dev.id", source.Dev.GetId())
		if source.Dev.GetId() == "" && service == "" {
			f.addf("identity.dev.id", "is missing, and there is no service.name to make it of: write it, such as %q", "spiffe://example.org/svc/client")
		}
	}
}

// checkID checks a SPIFFE ID, if there is one.
func checkID(f *findings, field, text string) {
	if text == "" {
		return
	}
	if _, err := identity.ParseID(text); err != nil {
		f.addf(field, "%v", err)
	}
}

// checkSocket checks the address of a Workload API (SPIFFE Workload Endpoint, section
// 4).
func checkSocket(f *findings, socket string) {
	const field = "identity.spiffe.socket"
	scheme, rest, _ := strings.Cut(socket, ":")
	switch scheme {
	case "":
	case "unix":
		if file := strings.TrimPrefix(rest, "//"); !path.IsAbs(file) {
			f.addf(field, "%q has no absolute path: write it as unix:///run/spire/agent.sock", socket)
		}
	default:
		if _, err := netip.ParseAddrPort(strings.TrimPrefix(rest, "//")); err != nil {
			f.addf(field, "%q is not an IP address with a port, such as tcp://127.0.0.1:8082", socket)
		}
	}
}

// checkAdminAccess checks that an admin port that others can reach lets nobody in who is
// not named.
func checkAdminAccess(f *findings, b *configv1.Bootstrap) {
	admin := b.GetAdmin()
	for i, text := range admin.GetAllow() {
		if strings.Contains(text, "://") {
			if _, err := identity.ParsePattern(text); err != nil {
				f.addf(fmt.Sprintf("admin.allow[%d]", i), "%v", err)
			}
		}
	}
	if admin == nil || IsLocal(admin.GetListen()) {
		return
	}
	const instead = "or listen on 127.0.0.1 or a Unix socket"
	if b.GetIdentity().GetSource() == nil {
		f.addf("admin.listen", "%s can be reached from elsewhere, so it needs an identity for mutual TLS: write identity, %s", admin.GetListen(), instead)
	}
	if len(admin.GetAllow()) == 0 {
		f.addf("admin.allow", "is missing, but %s can be reached from elsewhere: write who may use it, %s", admin.GetListen(), instead)
	}
}

// IsLocal says whether an address can only be reached from this machine. What is no
// address at all is another check's business.
func IsLocal(address string) bool {
	network, address, err := registry.ParseAddress(address)
	if err != nil || network == "unix" {
		return true
	}
	host, _, _ := net.SplitHostPort(address)
	ip, err := netip.ParseAddr(canonicalHost(host))
	return err == nil && ip.IsLoopback()
}

// checkIdentities checks the SPIFFE IDs that a mesh file says instances prove.
func checkIdentities(f *findings, service string, m *configv1.MeshService) {
	for i, text := range m.GetIdentities() {
		if _, err := identity.ExpandID(text, sampleDomain, cmp.Or(service, "web")); err != nil {
			f.addf(fmt.Sprintf("services[%q].identities[%d]", service, i), "%v", err)
		}
	}
}

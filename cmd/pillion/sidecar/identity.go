package sidecar

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/pillion-proxy/pillion/identity"
	"github.com/pillion-proxy/pillion/identity/dev"
	"github.com/pillion-proxy/pillion/identity/files"
	"github.com/pillion-proxy/pillion/identity/spiffe"
	"github.com/pillion-proxy/pillion/proto/configyaml"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	"github.com/pillion-proxy/pillion/proxy/access"
	"github.com/pillion-proxy/pillion/proxy/inbound"
	"github.com/pillion-proxy/pillion/proxy/mtls"
	"github.com/pillion-proxy/pillion/proxy/outbound"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
	"github.com/pillion-proxy/pillion/registry"
	"github.com/pillion-proxy/pillion/registry/consul"
)

// who is who the sidecar is, and how it proves that. A nil one is nobody.
type who struct {
	keeper   *identity.Keeper
	tls      *mtls.TLS
	template string         // of services' SPIFFE IDs, as it is written; "": the default, or Consul's form
	consul   *consul.Source // where the identity is Consul's; nil: it is not
	unwatch  func()

	intentions intentions
}

// openIdentity opens the source that the configuration names. It returns nil where none
// is named.
func openIdentity(cfg *configv1.Bootstrap, source *source, counters *telemetry.Counters, logger *slog.Logger) (_ *who, err error) {
	id := cfg.GetIdentity()
	w := &who{template: id.GetServiceId()}
	var from identity.Source
	switch k := id.GetSource().(type) {
	case *configv1.Identity_Files:
		from, err = files.Open(files.Options{
			Certificate: k.Files.GetCertificate(), Key: k.Files.GetKey(), Roots: k.Files.GetRoots(),
			Federated: k.Files.GetFederatedRoots(), Logger: logger,
		})
	case *configv1.Identity_Consul:
		if w.consul, err = consulOf(k.Consul, cfg.GetRegistry().GetConsul(), source, logger); err == nil {
			from = w.consul.Identity(k.Consul.GetService())
		}
	case *configv1.Identity_Spiffe:
		from, err = openSpiffe(k.Spiffe, logger)
	case *configv1.Identity_Dev:
		from, err = openDev(k.Dev, id.GetServiceId(), cfg.GetService().GetName(), logger)
	default:
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	w.keeper = identity.Keep(from, identity.Options{Logger: logger})
	minVersion := uint16(tls.VersionTLS13)
	if id.GetMinTlsVersion() == "1.2" {
		minVersion = tls.VersionTLS12
	}
	w.tls = mtls.New(mtls.Options{
		Keeper: w.keeper, MinVersion: minVersion, HandshakeTimeout: id.GetHandshakeTimeout().AsDuration(),
		MaxHandshakes: int(id.GetMaxHandshakes()), Logger: logger,
		Inbound: &counters.Security[telemetry.Inbound], Outbound: &counters.Security[telemetry.Outbound],
	})
	w.unwatch = w.keeper.Watch(func(s *identity.State) { counters.CertificateExpiry.Set(s.Expiry()) })
	return w, nil
}

// openDev opens a CA for development.
func openDev(cfg *configv1.DevIdentity, template, service string, logger *slog.Logger) (identity.Source, error) {
	ca, err := dev.Open(cfg.GetCa())
	if err != nil {
		return nil, err
	}
	var id spiffeid.ID
	if cfg.GetId() != "" {
		id, err = identity.ParseID(cfg.GetId())
	} else {
		id, err = identity.ServiceID(template, ca.TrustDomain(), service)
	}
	if err != nil {
		return nil, err
	}
	return ca.Source(id, dev.Options{TTL: cfg.GetTtl().AsDuration(), Logger: logger})
}

// openSpiffe opens a SPIFFE Workload API.
func openSpiffe(cfg *configv1.SpiffeIdentity, logger *slog.Logger) (identity.Source, error) {
	o := spiffe.Options{Socket: cfg.GetSocket(), Logger: logger}
	if cfg.GetId() != "" {
		var err error
		if o.ID, err = identity.ParseID(cfg.GetId()); err != nil {
			return nil, err
		}
	}
	return spiffe.Open(o)
}

// consulOf returns the Consul that an identity is from: that of the registry, where it is
// the same.
func consulOf(cfg *configv1.ConsulIdentity, r *configv1.ConsulRegistry, source *source, logger *slog.Logger) (*consul.Source, error) {
	if source.consul != nil && cfg.GetAddress() == r.GetAddress() && cfg.GetScheme() == r.GetScheme() && cfg.GetTokenFile() == r.GetTokenFile() &&
		cfg.GetNamespace() == r.GetNamespace() && cfg.GetPartition() == r.GetPartition() {
		return source.consul, nil
	}
	return consul.New(consul.Config{
		Address: cfg.GetAddress(), Scheme: cfg.GetScheme(), TokenFile: cfg.GetTokenFile(),
		Namespace: cfg.GetNamespace(), Partition: cfg.GetPartition(), Connect: true,
	}, consul.Deps{Log: logger})
}

// spoken is what a side's `tls` means to who connects with it.
var spoken = map[string]registry.Security{
	tlsOff:        registry.SecurityPlaintext,
	tlsPermissive: registry.SecurityPermissive,
	tlsStrict:     registry.SecurityMTLS,
}

// close ends the watching of the source.
func (w *who) close() {
	if w == nil {
		return
	}
	w.intentions.close()
	w.unwatch()
	w.tls.Close()
	w.keeper.Close()
	if w.consul != nil {
		w.consul.CloseIdleConnections()
	}
}

// outboundSecurity is how instances are spoken with; nil: in plaintext.
func (s *Sidecar) outboundSecurity() *outbound.Security {
	mode := s.cfg.GetOutbound().GetTls()
	if s.who == nil || mode == tlsOff {
		return nil
	}
	return &outbound.Security{TLS: s.who.tls, Keeper: s.who.keeper, ServiceID: s.who.template, Strict: mode == tlsStrict}
}

// inboundSecurity is how callers are spoken with; nil: in plaintext.
func (s *Sidecar) inboundSecurity() *inbound.Security {
	mode := s.cfg.GetInbound().GetTls()
	if s.who == nil || mode == tlsOff {
		return nil
	}
	security := &inbound.Security{TLS: s.who.tls, Keeper: s.who.keeper, ServiceID: s.who.template, Mode: mtls.Strict}
	if mode == tlsPermissive {
		security.Mode = mtls.Permissive
	}
	return security
}

// adminTLS is what the admin port speaks; nil: plaintext, on this machine. A socket that
// somebody else has opened may be reached from further than the configuration says.
func (s *Sidecar) adminTLS() (*tls.Config, error) {
	admin, where := s.cfg.GetAdmin(), address(s.listeners[sideAdmin])
	isLocal := configyaml.IsLocal(where)
	switch {
	case isLocal && configyaml.IsLocal(admin.GetListen()):
		return nil, nil
	case s.who != nil && len(admin.GetAllow()) > 0:
		return s.who.adminTLS(admin.GetAllow()), nil
	case isLocal: // and whoever checks the configuration has refused it
		return nil, nil
	}
	return nil, fmt.Errorf("admin: the socket that this process was given listens on %s, which can be reached from elsewhere, so it needs identity and admin.allow: write both, or have it listen on 127.0.0.1 or a Unix socket", where)
}

// What the `tls` of a side may be.
const (
	tlsOff        = "off"
	tlsPermissive = "permissive"
	tlsStrict     = "strict"
)

// adminTLS is what the admin port speaks beyond this machine: it lets in those that the
// configuration names.
func (w *who) adminTLS(allow []string) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		state := w.keeper.Current()
		if state == nil || state.Certificate == nil {
			return nil, errors.New("this sidecar has no certificate yet")
		}
		return &tls.Config{
			MinVersion: tls.VersionTLS13, NextProtos: []string{"h2", "http/1.1"},
			Certificates: []tls.Certificate{*state.Certificate},
			// Whom to believe is found out in VerifyConnection.
			ClientAuth: tls.RequireAnyClientCert, SessionTicketsDisabled: true,
			VerifyConnection: w.mayAdminister(allow),
		}, nil
	}}
}

// mayAdminister says why a client may not use the admin port, by what is known at that
// moment.
func (w *who) mayAdminister(allow []string) func(tls.ConnectionState) error {
	return func(c tls.ConnectionState) error {
		state := w.keeper.Current() // there was one to shake hands with
		peer, err := state.Verify(c.PeerCertificates, x509.ExtKeyUsageClientAuth, time.Now())
		if err != nil {
			return fmt.Errorf("the certificate %w", err)
		}
		services := access.Names(w.template, state.ID, state.TrustDomain)
		for _, text := range allow {
			from, err := access.ParseFrom(text)
			if err == nil && slices.ContainsFunc(from.Patterns(services), func(p identity.Pattern) bool { return p.Matches(peer.ID) }) {
				return nil
			}
		}
		return fmt.Errorf("%s may not use the admin port: admin.allow does not name it", peer.ID)
	}
}

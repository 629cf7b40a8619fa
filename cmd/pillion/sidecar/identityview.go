package sidecar

import (
	"cmp"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"net"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/pillion-proxy/pillion/proto/pillion/admin/v1"
	"github.com/pillion-proxy/pillion/proxy/mtls"
)

// identityView shows who the sidecar is, and who calls, to the admin API.
type identityView struct{ s *Sidecar }

// maxShownPeers is how many peers are shown.
const maxShownPeers = 1000

// Identity implements server.Identity.
func (v identityView) Identity() *adminv1.GetIdentityResponse {
	s := v.s
	answer := &adminv1.GetIdentityResponse{InboundTls: s.cfg.GetInbound().GetTls(), OutboundTls: s.cfg.GetOutbound().GetTls()}
	if s.who == nil {
		return answer
	}
	status := s.who.keeper.Status()
	answer.Kind, answer.Location, answer.FailingSince = status.Kind, status.Location, timestamp(status.Since)
	if status.Err != nil {
		answer.Error = status.Err.Error()
	}
	if err := s.who.keeper.Stalled(); err != nil {
		answer.Stalled = err.Error()
	}
	if state := s.who.keeper.Current(); state != nil {
		answer.TrustDomain = state.TrustDomain.Name()
		if state.Certificate != nil {
			answer.Certificate, answer.ObtainedAt = certificate(state.Certificate.Leaf), timestamp(state.Obtained)
		}
		for td, bundle := range state.Bundles {
			shown := &adminv1.TrustBundle{TrustDomain: td.Name()}
			for _, root := range bundle.Roots {
				shown.Authorities = append(shown.Authorities, certificate(root))
			}
			answer.Bundles = append(answer.Bundles, shown)
		}
		slices.SortFunc(answer.Bundles, func(a, b *adminv1.TrustBundle) int {
			return strings.Compare(a.GetTrustDomain(), b.GetTrustDomain())
		})
	}
	answer.Peers = v.peers()
	return answer
}

// peers are who is connected by mutual TLS, one for each certificate that comes from a host.
func (v identityView) peers() []*adminv1.PeerIdentity {
	type key struct {
		side       adminv1.Side
		host, hash string
	}
	known := map[key]*adminv1.PeerIdentity{}
	add := func(side adminv1.Side, c mtls.Connected) {
		host, _, err := net.SplitHostPort(c.Address)
		if err != nil || side == adminv1.Side_SIDE_OUTBOUND {
			host = c.Address
		}
		shown := certificate(c.Peer.Leaf)
		k := key{side, host, shown.GetSha256()}
		if known[k] == nil {
			if len(known) >= maxShownPeers {
				return
			}
			known[k] = &adminv1.PeerIdentity{
				Side: side, Address: c.Address, Certificate: shown,
				TlsVersion: tls.VersionName(c.TLS.Version), ConnectedAt: timestamppb.New(c.Since),
			}
		}
		known[k].Connections++
		if c.Since.Before(known[k].GetConnectedAt().AsTime()) {
			known[k].ConnectedAt = timestamppb.New(c.Since)
		}
	}
	if v.s.outbound != nil {
		for _, p := range v.s.outbound.Peers() {
			add(adminv1.Side_SIDE_OUTBOUND, p)
		}
	}
	if v.s.inbound != nil {
		for _, p := range v.s.inbound.Peers() {
			add(adminv1.Side_SIDE_INBOUND, p)
		}
	}
	peers := make([]*adminv1.PeerIdentity, 0, len(known))
	for _, peer := range known {
		peers = append(peers, peer)
	}
	slices.SortFunc(peers, func(a, b *adminv1.PeerIdentity) int {
		return cmp.Or(cmp.Compare(a.GetSide(), b.GetSide()), strings.Compare(a.GetCertificate().GetSpiffeId(), b.GetCertificate().GetSpiffeId()),
			strings.Compare(a.GetAddress(), b.GetAddress()))
	})
	return peers
}

// certificate is what the admin API says of one.
func certificate(c *x509.Certificate) *adminv1.Certificate {
	hash := sha256.Sum256(c.Raw)
	shown := &adminv1.Certificate{
		Subject: c.Subject.String(), Issuer: c.Issuer.String(), SerialNumber: c.SerialNumber.Text(16),
		NotBefore: timestamppb.New(c.NotBefore), NotAfter: timestamppb.New(c.NotAfter), Sha256: hex.EncodeToString(hash[:]),
	}
	if len(c.URIs) == 1 {
		shown.SpiffeId = c.URIs[0].String()
	}
	return shown
}

// Callers implements server.Identity.
func (v identityView) Callers() *adminv1.ListCallersResponse {
	s := v.s
	answer := &adminv1.ListCallersResponse{Service: s.cfg.GetService().GetName(), Tls: s.cfg.GetInbound().GetTls(), Since: timestamp(s.started)}
	all, forgotten := s.counters.Callers.Report()
	answer.Forgotten = forgotten
	for _, c := range all {
		answer.Callers = append(answer.Callers, &adminv1.Caller{
			SpiffeId: c.ID, Host: c.Host, Rpcs: c.RPCs, Connections: uint32(c.Connections),
			FirstSeen: timestamp(c.First), LastSeen: timestamp(c.Last),
		})
	}
	return answer
}

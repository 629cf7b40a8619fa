package main

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/pillion-proxy/pillion/proto/pillion/admin/v1"
	"github.com/pillion-proxy/pillion/server"
)

// known is an identity, and callers, that a sidecar knows.
type known struct {
	identity *adminv1.GetIdentityResponse
	callers  *adminv1.ListCallersResponse
}

func (k known) Identity() *adminv1.GetIdentityResponse { return proto.CloneOf(k.identity) }
func (k known) Callers() *adminv1.ListCallersResponse  { return proto.CloneOf(k.callers) }

func TestIdentity(t *testing.T) {
	t.Parallel()
	now := time.Now()
	leaf := &adminv1.Certificate{
		SpiffeId: "spiffe://example.org/svc/greeter", Issuer: "CN=dev", SerialNumber: "2a",
		NotBefore: timestamppb.New(now.Add(-time.Hour)), NotAfter: timestamppb.New(now.Add(25*time.Hour + 30*time.Second)),
	}
	address := administered(t, nil, server.Options{Identity: known{identity: &adminv1.GetIdentityResponse{
		Certificate: leaf, Kind: "files", Location: "greeter.pem", TrustDomain: "example.org", InboundTls: "permissive",
		Error: "greeter.pem: no certificate in it", FailingSince: timestamppb.New(now), Stalled: "renewal is overdue",
		Bundles: []*adminv1.TrustBundle{{TrustDomain: "example.org", Authorities: []*adminv1.Certificate{
			{Subject: "CN=root", NotAfter: timestamppb.New(now.Add(-time.Second)), Sha256: "0123456789abcdef0123"},
		}}},
		Peers: []*adminv1.PeerIdentity{{
			Side: adminv1.Side_SIDE_INBOUND, Address: "10.0.0.7:4711", Connections: 2, TlsVersion: "TLS 1.3",
			Certificate: &adminv1.Certificate{SpiffeId: "spiffe://example.org/svc/web", NotAfter: timestamppb.New(now.Add(90*time.Second + time.Second/2))},
		}},
	}}})
	code, stdout, stderr := pillion(t, "identity", "--admin", address)
	if code != 0 || stderr != "" {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	for _, want := range []string{
		"spiffe://example.org/svc/greeter\n", "(in 25h00m)", "greeter.pem: no certificate in it", "renewal is overdue",
		"inbound        permissive\n", "outbound       -\n",
		"example.org   CN=root  expired  0123456789abcdef\n",
		"spiffe://example.org/svc/web  inbound  10.0.0.7:4711  2            -      in 1m30s  1.3\n",
	} {
		if !strings.Contains(stdout, want) {
			t.Errorf("there is no %q in\n%s", want, stdout)
		}
	}
	if _, stdout, _ = pillion(t, "identity", "--admin", address, "-o", "json"); !strings.Contains(stdout, `"spiffe_id": "spiffe://example.org/svc/web"`) {
		t.Errorf("JSON: got\n%s", stdout)
	}
	none := administered(t, nil, server.Options{})
	if _, stdout, _ = pillion(t, "identity", "--admin", none); !strings.HasPrefix(stdout, "this sidecar has no identity") {
		t.Errorf("without an identity: got\n%s", stdout)
	}
}

func TestReportPlaintext(t *testing.T) {
	t.Parallel()
	seen := timestamppb.New(time.Date(2026, 11, 1, 12, 0, 0, 0, time.Local))
	some := administered(t, nil, server.Options{Identity: known{callers: &adminv1.ListCallersResponse{Service: "greeter", Tls: "permissive", Forgotten: 3, Callers: []*adminv1.Caller{
		{SpiffeId: "spiffe://example.org/svc/web", Host: "10.0.0.6", Rpcs: 100},
		{Host: "10.0.0.7", Rpcs: 12, Connections: 1, FirstSeen: seen, LastSeen: seen},
	}}}})
	none := administered(t, nil, server.Options{Identity: known{callers: &adminv1.ListCallersResponse{Service: "orders", Tls: "strict", Since: seen}}})
	code, stdout, stderr := pillion(t, "report", "plaintext", "--admin", some, "--admin", none)
	want := `
SERVICE  INBOUND     CALLER    RPCS  CONNECTIONS  FIRST SEEN           LAST SEEN
greeter  permissive  10.0.0.7  12    1            2026-11-01 12:00:00  2026-11-01 12:00:00
greeter: 3 more callers were not remembered
orders: nobody came without TLS since its sidecar started, at 2026-11-01 12:00:00 (inbound.tls: strict)
`
	if code != 1 || stdout != want[1:] || stderr != "pillion: some callers still come without TLS\n" {
		t.Errorf("exit %d, %q, got\n%s\nwant%s", code, stderr, stdout, want)
	}
	if code, stdout, stderr := pillion(t, "report", "plaintext", "--admin", none); code != 0 || stderr != "" || !strings.HasPrefix(stdout, "orders: nobody") {
		t.Errorf("exit %d: %q %q", code, stdout, stderr)
	}
}

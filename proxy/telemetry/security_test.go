package telemetry

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestSecurityMetrics(t *testing.T) {
	t.Parallel()
	var c Counters
	s := &c.Security[Inbound]
	closed := s.Opened(false)
	if got := scrape(t, &c); strings.Contains(got, "handshakes") || strings.Contains(got, `"mtls"`) {
		t.Errorf("metrics of TLS in a sidecar without an identity:\n%s", got)
	}
	s.InForce.Store(true)
	s.Opened(true)
	s.Opened(true)()
	s.Handshaken(HandshakeOK)
	s.Handshaken(HandshakeWrongIdentity)
	s.Handshaken(NumHandshakes) // no result
	got := scrape(t, &c)
	wantLines(t, got,
		`pillion_mesh_connections{security="mtls",side="inbound"} 1`,
		`pillion_mesh_connections{security="plaintext",side="inbound"} 1`,
		`pillion_mesh_connections{security="plaintext",side="outbound"} 0`,
		`pillion_tls_handshakes_total{result="ok",side="inbound"} 1`,
		`pillion_tls_handshakes_total{result="wrong_identity",side="inbound"} 1`,
		`pillion_tls_handshakes_total{result="untrusted",side="inbound"} 0`,
	)
	if n := strings.Count(got, "pillion_tls_handshakes_total{"); n != NumHandshakes {
		t.Errorf("%d results of handshakes, want the %d of one side", n, NumHandshakes)
	}
	closed()
	wantLines(t, scrape(t, &c), `pillion_mesh_connections{security="plaintext",side="inbound"} 0`)
}

func TestCertificateExpiry(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var c Counters
		none := func() {
			t.Helper()
			if got := scrape(t, &c); strings.Contains(got, "expiry") {
				t.Errorf("a certificate that is not there expires:\n%s", got)
			}
		}
		none()
		c.CertificateExpiry.Set(time.Now().Add(time.Hour))
		time.Sleep(90 * time.Minute)
		wantLines(t, scrape(t, &c), `pillion_certificate_expiry_seconds -1800`)
		c.CertificateExpiry.Set(time.Time{})
		none()
	})
}

func TestAccessDenied(t *testing.T) {
	t.Parallel()
	var c Counters
	c.AccessDenied(DenialKey{ByPolicy, "orders", false})
	c.AccessDenied(DenialKey{ByPolicy, "orders", false})
	c.AccessDenied(DenialKey{ByPolicy, "orders", true})
	c.AccessDenied(DenialKey{ByIntention, "", false})
	wantLines(t, scrape(t, &c),
		`pillion_access_denied_total{by="policy",mode="enforce",policy="orders"} 2`,
		`pillion_access_denied_total{by="policy",mode="audit",policy="orders"} 1`,
		`pillion_access_denied_total{by="intention",mode="enforce",policy=""} 1`,
	)
	for range 2 {
		for i := range 2 * maxDenials {
			c.AccessDenied(DenialKey{ByPolicy, fmt.Sprint(i), false})
		}
	}
	if n := len(c.denials); n != maxDenials+1 {
		t.Errorf("%d policies are told apart, want %d and one for the others", n, maxDenials)
	}
	if n := c.denials[DenialKey{ByPolicy, "orders", false}]; n != 2 {
		t.Errorf("%d RPCs are counted for a policy that was known before, want 2", n)
	}
}

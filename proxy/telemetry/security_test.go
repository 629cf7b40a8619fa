package telemetry

import (
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
	if got := scrape(t, &c); strings.Contains(got, "denied") {
		t.Errorf("nothing is refused where there are no rules:\n%s", got)
	}
	c.ExportDenials(func() []Denials { return []Denials{{"orders", 2, 1}, {"all", 0, 0}} })
	wantLines(t, scrape(t, &c),
		`pillion_access_denied_total{mode="enforce",policy="orders"} 2`,
		`pillion_access_denied_total{mode="audit",policy="orders"} 1`,
		`pillion_access_denied_total{mode="enforce",policy="all"} 0`,
	)
}

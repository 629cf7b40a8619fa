package identity

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pillion-proxy/pillion/identity/identitytest"
	"github.com/pillion-proxy/pillion/interop/consul"
	"github.com/pillion-proxy/pillion/interop/harness"
	"github.com/pillion-proxy/pillion/interop/load"
)

// badLeaf is a certificate by which nobody proves anything.
type badLeaf struct {
	name  string
	issue func(t testing.TB, ca *identitytest.Authority, path string) *tls.Certificate
	// says is a part of what is said about it.
	says string
}

// badLeaves are no better in the hands of an instance than in those of a caller.
var badLeaves = []badLeaf{
	{"of another CA of the same trust domain", func(t testing.TB, _ *identitytest.Authority, path string) *tls.Certificate {
		t.Helper()

		return newAuthority(t).Issue(path)
	}, "does not chain to the roots"},
	{"of another trust domain", func(t testing.TB, _ *identitytest.Authority, path string) *tls.Certificate {
		t.Helper()

		return identitytest.CA(t, "evil.test").Issue(path)
	}, `trust domain "evil.test"`},
	{"of another trust domain, by the right CA", func(_ testing.TB, ca *identitytest.Authority, path string) *tls.Certificate {
		return ca.Issue("spiffe://evil.test" + path)
	}, `trust domain "evil.test"`},
	{"expired", func(_ testing.TB, ca *identitytest.Authority, path string) *tls.Certificate {
		return ca.Issue(path, identitytest.From(-time.Hour), identitytest.TTL(-time.Minute))
	}, "has expired"},
	{"not yet valid", func(_ testing.TB, ca *identitytest.Authority, path string) *tls.Certificate {
		return ca.Issue(path, identitytest.From(time.Hour), identitytest.TTL(2*time.Hour))
	}, "is not valid yet"},
	{"for signing certificates", func(_ testing.TB, ca *identitytest.Authority, path string) *tls.Certificate {
		return ca.Issue(path, func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign })
	}, "keyCertSign"},
	{"not for signatures", func(_ testing.TB, ca *identitytest.Authority, path string) *tls.Certificate {
		return ca.Issue(path, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment })
	}, "digitalSignature"},
	{"for signing code", func(_ testing.TB, ca *identitytest.Authority, path string) *tls.Certificate {
		return ca.Issue(path, identitytest.Usage(x509.ExtKeyUsageCodeSigning))
	}, "extended key usage"},
	{"a CA's own", func(_ testing.TB, ca *identitytest.Authority, path string) *tls.Certificate {
		return ca.Issue(path, func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true })
	}, "is a CA's own"},
	{"by a leaf that plays CA", func(t testing.TB, ca *identitytest.Authority, path string) *tls.Certificate {
		t.Helper()
		middle := ca.Intermediate(func(c *x509.Certificate) { c.IsCA, c.KeyUsage = false, x509.KeyUsageDigitalSignature })

		return middle.Issue(path)
	}, "does not chain to the roots"},
	{"with several URI SANs", func(_ testing.TB, ca *identitytest.Authority, path string) *tls.Certificate {
		id := "spiffe://" + harness.TrustDomain

		return ca.Issue(path, identitytest.URIs(id+path, id+"/svc/admin"))
	}, "URI"},
	{"with a DNS SAN only", func(_ testing.TB, ca *identitytest.Authority, path string) *tls.Certificate {
		return ca.Issue(path, identitytest.URIs(), identitytest.DNS("app", "localhost"))
	}, "URI"},
	{"with an ID that is none of SPIFFE", func(_ testing.TB, ca *identitytest.Authority, path string) *tls.Certificate {
		return ca.Issue(path, identitytest.URIs("https://"+harness.TrustDomain+path))
	}, "spiffe"},
}

// handshakes counts the handshakes of a side that are over, by how they ended.
func handshakes(t testing.TB, s *harness.Sidecar, side, result string) int {
	t.Helper()

	return int(s.Metric(t, "pillion_tls_handshakes_total", `side="`+side+`"`, `result="`+result+`"`))
}

// A strict port takes nobody who does not prove who it is: each of these callers is told
// that he has to go, is counted for what he did, and never gets to the app.
func TestAttackByCallers(t *testing.T) {
	t.Parallel()

	ca := newAuthority(t)
	app := load.StartApp(t, "app", "")
	strict, _ := startStrict(t, ca, app.Address, nil)
	lenient, _ := startStrict(t, ca, app.Address, map[string]any{"min_tls_version": "1.2"})

	type attack struct {
		name    string
		client  *tls.Config
		sidecar *harness.Sidecar
		result  string
	}
	good := ca.Issue(callerPath)
	versions := func(lowest, highest uint16) func(*tls.Config) {
		return func(c *tls.Config) { c.MinVersion, c.MaxVersion = lowest, highest }
	}
	attacks := []attack{
		{"no certificate", shows(nil), strict, "no_certificate"},
		{"no certificate, by TLS 1.2", shows(nil, versions(tls.VersionTLS12, tls.VersionTLS12)), lenient, "no_certificate"},
		{"TLS 1.2", shows(good, versions(tls.VersionTLS12, tls.VersionTLS12)), strict, "error"},
		{"TLS 1.1", shows(good, versions(tls.VersionTLS10, tls.VersionTLS11)), strict, "error"},
		{"TLS 1.1 where 1.2 will do", shows(good, versions(tls.VersionTLS10, tls.VersionTLS11)), lenient, "error"},
		{"no ALPN", shows(good, func(c *tls.Config) { c.NextProtos = nil }), strict, "error"},
		{"another protocol", shows(good, func(c *tls.Config) { c.NextProtos = []string{"http/1.1"} }), strict, "error"},
	}
	for _, leaf := range append(slices.Clone(badLeaves), badLeaf{name: "for servers", issue: func(_ testing.TB, ca *identitytest.Authority, path string) *tls.Certificate {
		return ca.Issue(path, identitytest.Usage(x509.ExtKeyUsageServerAuth))
	}}) {
		attacks = append(attacks,
			attack{leaf.name, shows(leaf.issue(t, ca, callerPath)), strict, "untrusted"},
			attack{leaf.name + ", by TLS 1.2", shows(leaf.issue(t, ca, callerPath), versions(tls.VersionTLS12, tls.VersionTLS12)), lenient, "untrusted"})
	}
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			before := handshakes(t, a.sidecar, "inbound", a.result)
			c, err := dialTLS(t, a.sidecar.Inbound, a.client)
			if err == nil { // by TLS 1.3 he is through before he is looked at
				_, err = c.Read(make([]byte, 1))
			}
			if err == nil || !strings.Contains(err.Error(), "remote error: tls: ") {
				t.Fatalf("the caller is told %v, want an alert", err)
			}
			_ = c.NetConn().Close() // for which it is waited a moment
			consul.Eventually(t, "it is counted as "+a.result, func() bool { return handshakes(t, a.sidecar, "inbound", a.result) == before+1 })
		})
	}
	t.Run("plaintext", func(t *testing.T) {
		before := handshakes(t, strict, "inbound", "plaintext")
		if _, err := load.Who(t.Context(), load.Dial(t, strict.Inbound)); status.Code(err) != codes.Unavailable {
			t.Errorf("the RPC ends %v, want UNAVAILABLE", err)
		}
		if handshakes(t, strict, "inbound", "plaintext") == before {
			t.Error("it is not counted")
		}
	})
	t.Run("plaintext after TLS", func(t *testing.T) {
		c, err := dialTLS(t, strict.Inbound, shows(good))
		if err != nil {
			t.Fatal(err)
		}
		// What is not sealed is not heard, however well the handshake went.
		if _, err := io.WriteString(c.NetConn(), http2.ClientPreface); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, c); err == nil || !strings.Contains(err.Error(), "remote error: tls: ") {
			t.Errorf("the caller is told %v, want an alert", err)
		}
	})
	if app.Calls() != 0 {
		t.Errorf("%d RPCs came through to the app", app.Calls())
	}

	// It is the attacks that are refused, and not everybody.
	for name, test := range map[string]struct {
		sidecar *harness.Sidecar
		client  *tls.Config
	}{
		"strict": {strict, shows(good)}, "TLS 1.2": {lenient, shows(good, versions(tls.VersionTLS12, tls.VersionTLS12))},
	} {
		if _, err := load.Who(t.Context(), rpcsOver(t, test.sidecar.Inbound, test.client)); err != nil {
			t.Errorf("%s: a caller who proves who he is: %v", name, err)
		}
	}
}

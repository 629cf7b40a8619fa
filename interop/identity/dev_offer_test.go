package identity

import (
	"crypto/tls"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/http2"

	"github.com/pillion-proxy/pillion/interop/harness"
	"github.com/pillion-proxy/pillion/interop/load"
)

// offered is how the table begins in docs/identity.md.
const offered = "| what | with `min_tls_version: \"1.3\"` | with `min_tls_version: \"1.2\"` |\n|---|---|---|\n"

// The page about identity says what the port offers, as a client finds it out that asks
// for one thing after the other.
func TestDevPortOffersWhatThePageSays(t *testing.T) {
	t.Parallel()

	ca := newAuthority(t)
	app := load.StartApp(t, "app", "")
	strict, _ := startStrict(t, ca, app.Address, nil)
	lenient, _ := startStrict(t, ca, app.Address, map[string]any{"min_tls_version": "1.2"})
	certificate := ca.Issue(callerPath)
	// ask says whether a client like that is heard. By TLS 1.3 he may be through before he is
	// looked at.
	ask := func(s *harness.Sidecar, changes ...func(*tls.Config)) (tls.ConnectionState, bool) {
		t.Helper()
		c, err := dialTLS(t, s.Inbound, shows(certificate, changes...))
		defer func() { _ = c.NetConn().Close() }()
		if err == nil {
			_, err = io.WriteString(c, http2.ClientPreface+"\x00\x00\x00\x04\x00\x00\x00\x00\x00") // and no settings
		}
		if err == nil {
			_, err = c.Read(make([]byte, 1))
		}

		return c.ConnectionState(), err == nil
	}
	version := func(v uint16) func(*tls.Config) {
		return func(c *tls.Config) { c.MinVersion, c.MaxVersion = v, v }
	}

	var rows strings.Builder
	row := func(what string, of func(s *harness.Sidecar) []string) {
		cells := []string{what}
		for _, s := range []*harness.Sidecar{strict, lenient} {
			found := of(s)
			if len(found) == 0 {
				found = []string{"none"}
			}
			cells = append(cells, strings.Join(found, ", "))
		}
		fmt.Fprintf(&rows, "| %s |\n", strings.Join(cells, " | "))
	}
	row("versions", func(s *harness.Sidecar) (found []string) {
		for v := uint16(tls.VersionTLS13); v >= tls.VersionTLS10; v-- {
			if _, ok := ask(s, version(v)); ok {
				found = append(found, tls.VersionName(v))
			}
		}

		return found
	})
	row("suites of TLS 1.2", func(s *harness.Sidecar) (found []string) {
		for _, suite := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
			if !slices.Contains(suite.SupportedVersions, tls.VersionTLS12) {
				continue
			}
			if _, ok := ask(s, version(tls.VersionTLS12), func(c *tls.Config) { c.CipherSuites = []uint16{suite.ID} }); ok {
				found = append(found, "`"+suite.Name+"`")
			}
		}

		return found
	})
	row("key exchanges", func(s *harness.Sidecar) (found []string) {
		for _, curve := range []tls.CurveID{
			tls.X25519MLKEM768, tls.SecP256r1MLKEM768, tls.SecP384r1MLKEM1024, tls.X25519, tls.CurveP256, tls.CurveP384, tls.CurveP521,
		} {
			if state, ok := ask(s, func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{curve} }); ok && state.CurveID == curve {
				found = append(found, curve.String())
			}
		}

		return found
	})
	row("key exchange with a client as new", func(s *harness.Sidecar) []string {
		state, _ := ask(s)

		return []string{state.CurveID.String()}
	})
	row("ALPN", func(s *harness.Sidecar) (found []string) {
		for _, protocol := range []string{"h2", "http/1.1", "h3", "grpc-exp"} {
			if _, ok := ask(s, func(c *tls.Config) { c.NextProtos = []string{protocol} }); ok {
				found = append(found, "`"+protocol+"`")
			}
		}
		if _, ok := ask(s, func(c *tls.Config) { c.NextProtos = nil }); ok {
			found = append(found, "without")
		}

		return found
	})
	row("a client without a certificate", func(s *harness.Sidecar) []string {
		if _, ok := ask(s, func(c *tls.Config) { c.GetClientCertificate = nil }); ok {
			return []string{"is heard"}
		}

		return []string{"is refused"}
	})
	row("resumption", func(s *harness.Sidecar) (found []string) {
		for v := uint16(tls.VersionTLS13); v >= tls.VersionTLS12; v-- {
			cache := tls.NewLRUClientSessionCache(1)
			resuming := func(c *tls.Config) { c.ClientSessionCache, c.ServerName = cache, "app" }
			ask(s, version(v), resuming)
			if state, ok := ask(s, version(v), resuming); ok && state.DidResume {
				found = append(found, tls.VersionName(v))
			}
		}

		return found
	})

	page, err := os.ReadFile("../../docs/identity.md")
	if err != nil {
		t.Fatal(err)
	}
	_, said, is := strings.Cut(string(page), offered)
	said, _, _ = strings.Cut(said, "\n\n")
	if found := rows.String(); !is || said != strings.TrimSuffix(found, "\n") {
		t.Errorf("docs/identity.md says\n%s\nbut the port offers\n%s%s", said, offered, found)
	}
}

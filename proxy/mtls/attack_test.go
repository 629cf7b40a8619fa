package mtls

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/pillion-proxy/pillion/identity/identitytest"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
)

// attack has client do to an instance's strict port what it likes, and returns what
// Accept says. client's connection is closed when that is known.
func attack(t *testing.T, db *sidecar, client func(nc net.Conn)) error {
	t.Helper()
	a, b := connectTCP(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		client(a)
		_ = a.Close()
	}()
	_, err := db.Accept(b, Strict)
	<-done
	if _, failed := b.Write([]byte("x")); err != nil && failed == nil {
		t.Error("the connection is open after an error")
	}
	return err
}

// refuses wants that error, and that it is counted as that.
func refuses(t *testing.T, err error, result telemetry.Handshake, text string) {
	t.Helper()
	failed, is := errors.AsType[*Error](err)
	if !is {
		t.Fatalf("it is not refused: %v", err)
	}
	if failed.Result != result || !strings.Contains(err.Error(), text) {
		t.Errorf("refused as %v: %v\nwant %v: %s", failed.Result, err, result, text)
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("more than one line: %q", err)
	}
}

// leaves are certificates that nobody may get through with.
var leaves = []struct {
	name   string
	issue  func(t *testing.T, ca *identitytest.Authority, id string) *tls.Certificate
	server bool // refused of an instance too
	result telemetry.Handshake
	text   string
}{
	{"of a stranger with the same trust domain", func(t *testing.T, _ *identitytest.Authority, id string) *tls.Certificate {
		return identitytest.CA(t, domain).Issue(id)
	}, true, telemetry.HandshakeUntrusted, "does not chain to the roots"},
	{"of another trust domain", func(t *testing.T, _ *identitytest.Authority, _ string) *tls.Certificate {
		return identitytest.CA(t, "evil.test").Issue("/svc/web")
	}, true, telemetry.HandshakeUntrusted, `trust domain "evil.test", for which there are no roots`},
	{"of another trust domain, issued by our authority", func(_ *testing.T, ca *identitytest.Authority, _ string) *tls.Certificate {
		return ca.Issue("spiffe://evil.test/svc/web")
	}, true, telemetry.HandshakeUntrusted, `trust domain "evil.test"`},
	{"expired", func(_ *testing.T, ca *identitytest.Authority, id string) *tls.Certificate {
		return ca.Issue(id, identitytest.From(-time.Hour), identitytest.TTL(-time.Minute))
	}, true, telemetry.HandshakeUntrusted, "has expired"},
	{"not yet valid", func(_ *testing.T, ca *identitytest.Authority, id string) *tls.Certificate {
		return ca.Issue(id, identitytest.From(time.Hour), identitytest.TTL(2*time.Hour))
	}, true, telemetry.HandshakeUntrusted, "is not valid yet"},
	{"for servers only", func(_ *testing.T, ca *identitytest.Authority, id string) *tls.Certificate {
		return ca.Issue(id, identitytest.Usage(x509.ExtKeyUsageServerAuth))
	}, false, telemetry.HandshakeUntrusted, "clientAuth"},
	{"with the key usage of a CA", func(_ *testing.T, ca *identitytest.Authority, id string) *tls.Certificate {
		return ca.Issue(id, func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign })
	}, true, telemetry.HandshakeUntrusted, "keyCertSign"},
	{"a CA's own", func(_ *testing.T, ca *identitytest.Authority, id string) *tls.Certificate {
		return ca.Issue(id, func(c *x509.Certificate) {
			c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign|x509.KeyUsageDigitalSignature
		})
	}, true, telemetry.HandshakeUntrusted, "CA"},
	{"with several URI SANs", func(_ *testing.T, ca *identitytest.Authority, id string) *tls.Certificate {
		return ca.Issue(id, identitytest.URIs(id, "spiffe://"+domain+"/svc/admin"))
	}, true, telemetry.HandshakeUntrusted, "URI"},
	{"with a DNS SAN only", func(_ *testing.T, ca *identitytest.Authority, id string) *tls.Certificate {
		return ca.Issue(id, identitytest.URIs(), identitytest.DNS("web.mesh.test"))
	}, true, telemetry.HandshakeUntrusted, "URI"},
}

func TestCallersThatAreRefused(t *testing.T) {
	ca := identitytest.CA(t, domain)
	db := newSidecar(t, ca, "db")
	const id = "spiffe://" + domain + "/svc/web"
	handshake := func(c *tls.Config) func(nc net.Conn) {
		return func(nc net.Conn) {
			client := tls.Client(nc, c)
			err := client.Handshake()
			if err == nil { // with TLS 1.3 he is through before he is looked at
				_, err = client.Read(make([]byte, 1))
			}
			if err == nil || !strings.Contains(err.Error(), "remote error: tls: ") {
				t.Errorf("the caller is told %v, want an alert", err)
			}
		}
	}
	for _, leaf := range leaves {
		for _, version := range []uint16{tls.VersionTLS13, tls.VersionTLS12} {
			t.Run(leaf.name+", "+tls.VersionName(version), func(t *testing.T) {
				db := newSidecar(t, ca, "db", lowest(tls.VersionTLS12))
				c := bare(leaf.issue(t, ca, id))
				c.MaxVersion = version
				refuses(t, attack(t, db, handshake(c)), leaf.result, leaf.text)
			})
		}
	}
	good := ca.Issue(id)
	for _, test := range []struct {
		name   string
		change func(c *tls.Config)
		result telemetry.Handshake
		text   string
	}{
		{"no certificate", func(c *tls.Config) { c.GetClientCertificate = nil }, telemetry.HandshakeNoCertificate, "shows no certificate"},
		{"TLS 1.2 where 1.3 is wanted", func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }, telemetry.HandshakeError, "unsupported versions: [303]"},
		{"TLS 1.1", func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }, telemetry.HandshakeError, "unsupported versions"},
		{"no ALPN", func(c *tls.Config) { c.NextProtos = nil }, telemetry.HandshakeError, "ALPN"},
		{"another protocol", func(c *tls.Config) { c.NextProtos = []string{"http/1.1"} }, telemetry.HandshakeError, "ALPN"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := bare(good)
			test.change(c)
			refuses(t, attack(t, db, handshake(c)), test.result, test.text)
		})
	}
	t.Run("TLS 1.1 where 1.2 is allowed", func(t *testing.T) {
		db := newSidecar(t, ca, "db", lowest(tls.VersionTLS12))
		c := bare(good)
		c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
		refuses(t, attack(t, db, handshake(c)), telemetry.HandshakeError, "unsupported versions")
	})
}

func TestInstancesThatAreRefused(t *testing.T) {
	ca := identitytest.CA(t, domain)
	web, db := newSidecar(t, ca, "web"), newSidecar(t, ca, "db")
	dial := func(serve func(nc net.Conn)) error {
		a, b := connectTCP(t)
		done := make(chan struct{})
		go func() {
			defer close(done)
			serve(b)
			_ = b.Close()
		}()
		_, err := web.Dial(t.Context(), a, Expected{IDs: ids(db)}, nil)
		<-done
		return err
	}
	server := func(cert *tls.Certificate, change ...func(*tls.Config)) func(nc net.Conn) {
		c := &tls.Config{Certificates: []tls.Certificate{*cert}, ClientAuth: tls.RequestClientCert, NextProtos: []string{"h2"}}
		for _, f := range change {
			f(c)
		}
		return func(nc net.Conn) { _ = tls.Server(nc, c).Handshake() }
	}
	for _, leaf := range leaves {
		if leaf.server {
			t.Run(leaf.name, func(t *testing.T) {
				refuses(t, dial(server(leaf.issue(t, ca, db.id.String()))), leaf.result, leaf.text)
			})
		}
	}
	good := ca.Issue(db.id.String())
	for _, test := range []struct {
		name   string
		serve  func(nc net.Conn)
		result telemetry.Handshake
		text   string
	}{
		{"of the right domain, but another service", server(ca.Issue("/svc/dc")), telemetry.HandshakeWrongIdentity, "proves to be spiffe://mesh.test/svc/dc, but spiffe://mesh.test/svc/db is wanted"},
		{"for clients only", server(ca.Issue(db.id.String(), identitytest.Usage(x509.ExtKeyUsageClientAuth))), telemetry.HandshakeUntrusted, "serverAuth"},
		{"TLS 1.2 where 1.3 is wanted", server(good, func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }), telemetry.HandshakeError, "protocol version"},
		{"no ALPN", server(good, func(c *tls.Config) { c.NextProtos = nil }), telemetry.HandshakeError, "ALPN"},
		{"plaintext", func(nc net.Conn) { _ = http2.NewFramer(nc, nc).WriteSettings(); _, _ = io.Copy(io.Discard, nc) }, telemetry.HandshakePlaintext, "speaks no TLS"},
		{"the end", func(net.Conn) {}, telemetry.HandshakeError, "the instance"},
	} {
		t.Run(test.name, func(t *testing.T) { refuses(t, dial(test.serve), test.result, test.text) })
	}
	t.Run("nobody is expected", func(t *testing.T) {
		s := shakeExpecting(t, connectTCP, web, db, Expected{})
		refuses(t, s.callerErr, telemetry.HandshakeWrongIdentity, "but nobody is wanted")
	})
}

// A caller in plaintext at a strict port is told in his own language.
func TestPlaintextIsTold(t *testing.T) {
	t.Parallel()
	ca := identitytest.CA(t, domain)
	db := newSidecar(t, ca, "db")
	err := attack(t, db, func(nc net.Conn) {
		_, _ = io.WriteString(nc, http2.ClientPreface)
		f := http2.NewFramer(nc, nc)
		_ = f.WriteSettings()
		if frame, err := f.ReadFrame(); err != nil || frame.Header().Type != http2.FrameSettings {
			t.Errorf("%v, %v", frame, err)
		}
		frame, err := f.ReadFrame()
		goAway, is := frame.(*http2.GoAwayFrame)
		if !is || goAway.ErrCode != http2.ErrCodeInadequateSecurity || !strings.Contains(string(goAway.DebugData()), "mutual TLS") {
			t.Errorf("%v, %v", frame, err)
		}
		if _, err := f.ReadFrame(); err != io.EOF {
			t.Errorf("then %v", err)
		}
	})
	refuses(t, err, telemetry.HandshakePlaintext, "plaintext")
	err = attack(t, db, func(nc net.Conn) {
		_, _ = io.WriteString(nc, "GET / HTTP/1.1\r\n\r\n")
		answer, err := io.ReadAll(nc)
		if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 400 ") || !strings.Contains(string(answer), "mutual TLS") {
			t.Errorf("%q, %v", answer, err)
		}
	})
	refuses(t, err, telemetry.HandshakePlaintext, "plaintext")
}

// What is no TLS, or only a part of it, does not get anywhere, and does not last.
func TestGarbageIsRefused(t *testing.T) {
	t.Parallel()
	ca := identitytest.CA(t, domain)
	patient := newSidecar(t, ca, "db")
	impatient := newSidecar(t, ca, "db", func(o *Options) { o.HandshakeTimeout = 300 * time.Millisecond })
	for _, test := range []struct {
		name, said string
		leave      bool
		result     telemetry.Handshake
		text       string
	}{
		{"nothing", "", true, telemetry.HandshakeError, "without a word"},
		{"nothing, and waits", "", false, telemetry.HandshakeTimeout, "did not begin"},
		{"a byte, and waits", "\x16", false, telemetry.HandshakeTimeout, "did not begin"},
		{"half a record, and waits", "\x16\x03\x01\x02\x00\x01\x00", false, telemetry.HandshakeTimeout, "did not begin"},
		{"half a message, and waits", "\x16\x03\x01\x00\x05\x01\x00\x10\x00\x00", false, telemetry.HandshakeTimeout, "in time"},
		{"half a record", "\x16\x03\x01\x02\x00\x01\x00", true, telemetry.HandshakeError, "handshake"},
		{"a huge record", "\x16\x03\x01\xff\xff" + strings.Repeat("x", 5000), true, telemetry.HandshakeError, "oversized record"},
		{"a huge message", "\x16\x03\x01\x00\x04\x01\xff\xff\xff", true, telemetry.HandshakeError, "exceeds maximum"},
		{"a message in pieces without end", "\x16\x03\x01\x00\x04\x01\x00\xff\xff" + strings.Repeat("\x16\x03\x01\x00\x01x", 40000), true, telemetry.HandshakeError, "longer than"},
		{"a message without an end", "\x16\x03\x01\x00\x04\x01\x00\xff\xff" + strings.Repeat("\x16\x03\x01\x10\x00"+strings.Repeat("x", 4096), 100), true, telemetry.HandshakeError, "handshake"},
		{"zeros", "\x16\x03\x01\x00\x10" + strings.Repeat("\x00", 16), true, telemetry.HandshakeError, "handshake"},
		{"another version", "\x16\x13\x37\x00\x01x", true, telemetry.HandshakeError, "handshake"},
		{"an alert", "\x16\x03\x01\x00\x02\x02\x28", true, telemetry.HandshakeError, "handshake"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			db := patient
			if test.result == telemetry.HandshakeTimeout {
				db = impatient
			}
			err := attack(t, db, func(nc net.Conn) {
				_, _ = io.WriteString(nc, test.said)
				if test.leave {
					_ = nc.(*net.TCPConn).CloseWrite()
				}
				_, _ = io.Copy(io.Discard, nc)
			})
			refuses(t, err, test.result, test.text)
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	}
	if !errors.Is(patient.silent(io.EOF), ErrNothingSaid) {
		t.Error("a probe cannot be told from others")
	}
}

// An instance that does not believe the caller says so in what the caller reads first.
func TestTheCallerLearnsThatHeIsRefused(t *testing.T) {
	t.Parallel()
	ca := identitytest.CA(t, domain)
	db := newSidecar(t, ca, "db")
	other := identitytest.CA(t, "other.test")
	web := withState(t, other, other.State(other.Issue("/svc/web"), ca))
	s := shake(t, connectTCP, web, db)
	refuses(t, s.instanceErr, telemetry.HandshakeUntrusted, "other.test")
	if s.callerErr != nil {
		t.Fatal(s.callerErr)
	}
	_, err := s.caller.Read(make([]byte, 1))
	if err == nil || !strings.Contains(err.Error(), "does not accept our certificate (spiffe://other.test/svc/web)") {
		t.Errorf("the caller reads %v", err)
	}
}

// What the port offers: nothing that is not as good as it gets.
func TestWhatThePortOffers(t *testing.T) {
	t.Parallel()
	ca := identitytest.CA(t, domain)
	cert := ca.Issue("/svc/web")
	for _, lowestVersion := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		db := newSidecar(t, ca, "db", lowest(lowestVersion))
		try := func(change func(*tls.Config)) (got tls.ConnectionState, ok bool) {
			err := attack(t, db, func(nc net.Conn) {
				c := bare(cert)
				change(c)
				client := tls.Client(nc, c)
				ok = client.Handshake() == nil
				got = client.ConnectionState()
			})
			return got, ok && err == nil
		}
		for version := uint16(tls.VersionTLS10); version <= tls.VersionTLS13; version++ {
			_, ok := try(func(c *tls.Config) { c.MinVersion, c.MaxVersion = version, version })
			if ok != (version >= lowestVersion) {
				t.Errorf("lowest %s: %s is spoken: %v", tls.VersionName(lowestVersion), tls.VersionName(version), ok)
			}
		}
		for _, curve := range []tls.CurveID{tls.X25519MLKEM768, tls.X25519, tls.CurveP256, tls.CurveP384, tls.CurveP521} {
			if got, ok := try(func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{curve} }); !ok || got.CurveID != curve {
				t.Errorf("%v is not offered", curve)
			}
		}
		for _, suite := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
			if suite.SupportedVersions[0] == tls.VersionTLS13 {
				continue
			}
			_, ok := try(func(c *tls.Config) {
				c.MinVersion, c.MaxVersion, c.CipherSuites = tls.VersionTLS12, tls.VersionTLS12, []uint16{suite.ID}
			})
			good := strings.HasPrefix(suite.Name, "TLS_ECDHE_ECDSA_") && (strings.Contains(suite.Name, "_GCM_") || strings.Contains(suite.Name, "CHACHA20"))
			if ok != (good && lowestVersion == tls.VersionTLS12) {
				t.Errorf("lowest %s: %s is offered: %v", tls.VersionName(lowestVersion), suite.Name, ok)
			}
		}
	}
}

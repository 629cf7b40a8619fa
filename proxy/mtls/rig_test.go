package mtls

import (
	"context"
	"crypto/tls"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/pillion-proxy/pillion/identity"
	"github.com/pillion-proxy/pillion/identity/identitytest"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
)

const domain = "mesh.test"

// sidecar is a TLS with what its identity depends on.
type sidecar struct {
	*TLS
	t        testing.TB
	ca       *identitytest.Authority
	source   *identitytest.Source
	keeper   *identity.Keeper
	in, out  *telemetry.Security
	id       spiffeid.ID
	sessions Sessions
}

// newSidecar returns one of a service, whose certificate is an authority's.
func newSidecar(t testing.TB, ca *identitytest.Authority, service string, change ...func(*Options)) *sidecar {
	t.Helper()
	return withState(t, ca, ca.State(ca.Issue("/svc/"+service)), change...)
}

func withState(t testing.TB, ca *identitytest.Authority, state *identity.State, change ...func(*Options)) *sidecar {
	t.Helper()
	s := &sidecar{t: t, ca: ca, in: new(telemetry.Security), out: new(telemetry.Security)}
	s.keeper, s.source = identitytest.Keeper(t, state)
	if state != nil {
		s.id = state.ID
	}
	o := Options{Keeper: s.keeper, Inbound: s.in, Outbound: s.out, HandshakeTimeout: 20 * time.Second}
	for _, f := range change {
		f(&o)
	}
	s.TLS = New(o)
	t.Cleanup(s.Close)
	return s
}

// set makes a state the current one, and returns when it is.
func (s *sidecar) set(state *identity.State) {
	s.t.Helper()
	taken := make(chan struct{})
	stop := s.keeper.Watch(func(now *identity.State) {
		if (state.Certificate == nil || now.SameCertificate(state)) && now.SameRoots(state) {
			select {
			case <-taken:
			default:
				close(taken)
			}
		}
	})
	defer stop()
	s.source.Set(state)
	<-taken
}

// network is a way to connect.
type network func(t testing.TB) (a, b net.Conn)

func connectTCP(t testing.TB) (a, b net.Conn) { return connect(t, "tcp", "127.0.0.1:0") }
func connectUnix(t testing.TB) (a, b net.Conn) {
	return connect(t, "unix", filepath.Join(t.TempDir(), "s"))
}
func connectPipe(t testing.TB) (a, b net.Conn) {
	a, b = net.Pipe()
	t.Cleanup(func() { _ = a.Close(); _ = b.Close() })
	return a, b
}

func ids(s *sidecar) []spiffeid.ID { return []spiffeid.ID{s.id} }

var networks = map[string]network{"TCP": connectTCP, "Unix": connectUnix, "pipe": connectPipe}

func connect(t testing.TB, kind, address string) (a, b net.Conn) {
	t.Helper()
	ln, err := net.Listen(kind, address)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if a, err = net.Dial(kind, ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close(); _ = b.Close() })
	return a, b
}

// shaken is what became of a handshake at both ends.
type shaken struct {
	caller, instance *Conn
	// errors of the caller's end and of the instance's
	callerErr, instanceErr error
}

// shake connects from to to.
func shake(t testing.TB, n network, from, to *sidecar) shaken {
	t.Helper()
	return shakeExpecting(t, n, from, to, Expected{IDs: []spiffeid.ID{to.id}, ServerName: "server.test"})
}

func shakeExpecting(t testing.TB, n network, from, to *sidecar, expected Expected) (s shaken) {
	t.Helper()
	a, b := n(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.instance, s.instanceErr = to.Accept(b, Strict)
	}()
	s.caller, s.callerErr = from.Dial(context.Background(), a, expected, &from.sessions)
	<-done
	return s
}

// must is a handshake that has to go well.
func must(t testing.TB, n network, from, to *sidecar) (caller, instance *Conn) {
	t.Helper()
	s := shake(t, n, from, to)
	if s.callerErr != nil || s.instanceErr != nil {
		t.Fatalf("no connection: the caller says %v, the instance %v", s.callerErr, s.instanceErr)
	}
	return s.caller, s.instance
}

// bare is a client of crypto/tls's own, to be spoilt.
func bare(cert *tls.Certificate) *tls.Config {
	c := &tls.Config{InsecureSkipVerify: true, DynamicRecordSizingDisabled: true, NextProtos: []string{"h2"}}
	if cert != nil {
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	return c
}

// handshakes is what is counted, by how it ended, where there is something.
func handshakes(s *telemetry.Security) map[string]uint64 {
	counts := make(map[string]uint64)
	for i := range s.Handshakes {
		if n := s.Handshakes[i].Load(); n > 0 {
			counts[telemetry.Handshake(i).String()] = n
		}
	}
	return counts
}

package spire

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/pillion-proxy/pillion/interop/consul"
	"github.com/pillion-proxy/pillion/interop/harness"
	"github.com/pillion-proxy/pillion/interop/load"
)

// Names of the services.
const (
	web     = "web"
	greeter = "greeter"
)

// pair is two sidecars whose identity is from SPIRE.
type pair struct {
	*spire

	web, greeter *harness.Sidecar
	conn         *grpc.ClientConn
	// peers are who the app was said to be called by.
	peers chan string
}

func startPair(t *testing.T, s *spire) *pair {
	t.Helper()

	p := &pair{spire: s, peers: make(chan string, 1)}
	app := load.StartApp(t, greeter, "", grpc.UnaryInterceptor(
		func(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
			head, _ := metadata.FromIncomingContext(ctx)
			select {
			case p.peers <- strings.Join(head["pillion-peer"], ","):
			default:
			}

			return handle(ctx, request)
		}))
	inbound, outbound := program(t, "pillion-greeter"), program(t, "pillion-web")
	s.entitle(t, inbound, greeter)
	// Of several the sidecar takes the one that it is told to.
	s.entitle(t, outbound, "another", web)

	p.greeter = harness.StartSidecar(t, harness.Config{
		Binary: inbound, Service: greeter, App: app.Address, Mesh: harness.NewMesh(t, nil),
		Settings: map[string]any{"identity": s.identity(nil)},
	})
	mesh := harness.NewMesh(t, map[string]harness.Service{greeter: {Endpoints: harness.Endpoints(p.greeter.Inbound)}})
	p.web = harness.StartSidecar(t, harness.Config{
		Binary: outbound, Outbound: true, Default: greeter, Mesh: mesh,
		Settings: map[string]any{"identity": s.identity(map[string]any{"id": idOf(web)})},
	})
	p.conn = load.Dial(t, p.web.Outbound)
	consul.Eventually(t, "the sidecars have certificates and talk", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := load.Who(ctx, p.conn)

		return err == nil
	})
	if who := <-p.peers; who != idOf(web) {
		t.Errorf("the app is told that it is called by %q, want %q", who, idOf(web))
	}

	return p
}

// shown is the certificate that the greeter's sidecar shows now.
func (p *pair) shown(t testing.TB) *x509.Certificate {
	t.Helper()

	var leaf *x509.Certificate
	looked := errors.New("that is enough")
	dialer := &tls.Dialer{Config: &tls.Config{
		InsecureSkipVerify: true, NextProtos: []string{"h2"},
		VerifyConnection: func(s tls.ConnectionState) error {
			leaf = s.PeerCertificates[0]

			return looked
		},
	}}
	if conn, err := dialer.DialContext(t.Context(), "tcp", p.greeter.Inbound); err == nil {
		_ = conn.Close()
	}
	if leaf == nil {
		t.Fatal("the sidecar shows no certificate")
	}

	return leaf
}

// awaitNew waits until another certificate than these is shown, and returns it.
func (p *pair) awaitNew(t testing.TB, olds ...*x509.Certificate) *x509.Certificate {
	t.Helper()

	var leaf *x509.Certificate
	consul.Eventually(t, "another certificate", func() bool {
		leaf = p.shown(t)

		return !slices.ContainsFunc(olds, leaf.Equal)
	})

	return leaf
}

// Certificates of 20s are renewed while RPCs run, and the server's authority is replaced:
// nobody notices.
func TestRotationUnderLoad(t *testing.T) {
	p := startPair(t, start(t))
	l := load.Start(t, p.conn, load.Options{PerSecond: 200, StreamEvery: 10})

	first := p.shown(t)
	if len(first.URIs) != 1 || first.URIs[0].String() != idOf(greeter) {
		t.Errorf("the sidecar shows a certificate of %v, want %s", first.URIs, idOf(greeter))
	}
	second := p.awaitNew(t, first)
	l.Check(t, "the first renewal")
	if third := p.awaitNew(t, first, second); third.NotAfter.Before(second.NotAfter) {
		t.Errorf("renewed to an earlier end: %v, then %v", second.NotAfter, third.NotAfter)
	}
	l.Check(t, "the second renewal")
	if left := p.greeter.Metric(t, "pillion_certificate_expiry_seconds"); left <= 0 || left > lifetime {
		t.Errorf("pillion_certificate_expiry_seconds is %v, want at most %d and more than nothing", left, lifetime)
	}

	p.replaceAuthority(t, l)
	l.End(t)
}

// authority is what `localauthority x509` shows of one.
type authority struct {
	ID string `json:"authority_id"`
}

// replaceAuthority has the server sign by a new authority, and take the old one's root
// out of the bundle.
func (p *pair) replaceAuthority(t *testing.T, l *load.Load) {
	t.Helper()

	var shown struct{ Active authority }
	p.decode(t, &shown, "localauthority", "x509", "show", "-output", "json")
	const told = "roots are in force"
	sidecars := []*harness.Sidecar{p.web, p.greeter}
	var before []int
	for _, sidecar := range sidecars {
		before = append(before, strings.Count(sidecar.Output(), told))
	}
	var prepared struct {
		Prepared authority `json:"prepared_authority"`
	}
	p.decode(t, &prepared, "localauthority", "x509", "prepare", "-output", "json")
	if shown.Active.ID == "" || prepared.Prepared.ID == "" {
		t.Fatalf("SPIRE's authorities: active %+v, prepared %+v", shown.Active, prepared.Prepared)
	}
	// An agent that is shown a certificate of a root that it has not heard of gives up.
	consul.Eventually(t, "the sidecars know the second root", func() bool {
		for i, sidecar := range sidecars {
			if strings.Count(sidecar.Output(), told) == before[i] {
				return false
			}
		}

		return true
	})
	l.Check(t, "a second root")

	old := p.shown(t)
	p.ask(t, "localauthority", "x509", "activate", "-authorityID", prepared.Prepared.ID)
	// It renews at once what the old one has signed.
	p.ask(t, "localauthority", "x509", "taint", "-authorityID", shown.Active.ID)
	fresh := p.awaitNew(t, old)
	for string(fresh.AuthorityKeyId) == string(old.AuthorityKeyId) {
		fresh = p.awaitNew(t, fresh)
	}
	l.More(t, lifetime*time.Second)
	l.Check(t, "a new authority")
	p.ask(t, "localauthority", "x509", "revoke", "-authorityID", shown.Active.ID)
	l.More(t, 5*time.Second)
	l.Check(t, "the old root is gone")
}

func (p *pair) decode(t testing.TB, into any, command ...string) {
	t.Helper()

	out := p.ask(t, command...)
	if err := json.Unmarshal(out, into); err != nil {
		t.Fatalf("%s: %v in %s", strings.Join(command, " "), err, out)
	}
}

// Whom SPIRE does not know gets no certificate, and neither calls nor is called.
func TestUnknownWorkloadsAreNobody(t *testing.T) {
	s := start(t)
	p := startPair(t, s)
	stranger := harness.StartSidecar(t, harness.Config{
		Binary: program(t, "pillion-stranger"), Outbound: true, Default: greeter,
		Mesh:     harness.NewMesh(t, map[string]harness.Service{greeter: {Endpoints: harness.Endpoints(p.greeter.Inbound)}}),
		Settings: map[string]any{"identity": mergeStart(s.identity(nil))},
	})

	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	name, err := load.Who(ctx, load.Dial(t, stranger.Outbound))
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a sidecar that SPIRE does not know called %q: %v", name, err)
	}
}

// mergeStart has a sidecar that gets no certificate begin without soon.
func mergeStart(identity map[string]any) map[string]any {
	identity["start_timeout"] = "1s"

	return identity
}

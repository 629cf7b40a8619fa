package spiffe

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pillion-proxy/pillion/identity"
	"github.com/pillion-proxy/pillion/identity/identitytest"
	"github.com/pillion-proxy/pillion/identity/spiffe/spiffetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fixture is a source that is watched.
type fixture struct {
	*Source
	states chan *identity.State
}

func watch(t *testing.T, o Options) *fixture {
	t.Helper()
	source, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	source.first = 5 * time.Millisecond
	f := &fixture{Source: source, states: make(chan *identity.State, 1000)}
	ctx, cancel := context.WithCancel(context.Background())
	var watching sync.WaitGroup
	watching.Go(func() { source.Watch(ctx, func(s *identity.State) { f.states <- s }) })
	t.Cleanup(func() {
		cancel()
		watching.Wait()
	})
	return f
}

// next is the next state with this leaf. The same may come again after an interruption.
func (f *fixture) next(t *testing.T, cert *tls.Certificate) *identity.State {
	t.Helper()
	for timeout := time.After(30 * time.Second); ; {
		select {
		case s := <-f.states:
			if s.Certificate.Leaf.Equal(cert.Leaf) {
				return s
			}
		case <-timeout:
			t.Fatalf("the state is not handed over; status: %+v", f.Status())
		}
	}
}

// failing waits until the status says so.
func (f *fixture) failing(t *testing.T, want string) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		err := f.Status().Err
		if want == "" && err == nil || want != "" && err != nil && strings.Contains(err.Error(), want) {
			if err != nil && (strings.Contains(err.Error(), "\n") || f.Status().Since.IsZero()) {
				t.Errorf("the status says %+v", f.Status())
			}
			return
		}
		if time.Now().After(end) {
			t.Fatalf("the status says %v, want %q", err, want)
		}
	}
}

func TestRotation(t *testing.T) {
	t.Parallel()
	ca, next, other := identitytest.CA(t, "example.org"), identitytest.CA(t, "example.org"), identitytest.CA(t, "other.org")
	api := spiffetest.New(t)
	f := watch(t, Options{Socket: api.Socket()})
	f.failing(t, "it refuses: no identity issued")
	if s := f.Status(); s.Kind != "spiffe" || s.Location != api.Socket() {
		t.Errorf("status %+v", s)
	}

	first := ca.Issue("/svc/web")
	api.Set([]*tls.Certificate{first, ca.Issue("/svc/other")}, ca, other)
	state := f.next(t, first)
	f.failing(t, "")
	if state.ID.String() != "spiffe://example.org/svc/web" || state.TrustDomain != ca.TrustDomain || time.Since(state.Obtained) > time.Minute {
		t.Errorf("the state is %+v", *state)
	}
	if !state.SameRoots(&identity.State{Bundles: ca.Bundles(other)}) {
		t.Errorf("the roots are %v", state.Bundles)
	}
	if _, err := state.Verify(identitytest.Chain(t, other.Issue("/x")), x509.ExtKeyUsageClientAuth, time.Now()); err != nil {
		t.Errorf("a certificate of the federated domain %v", err)
	}

	// A new leaf, new roots, and a leaf by an intermediate, on the same stream.
	streams := api.Streams()
	second := ca.Issue("/svc/web")
	api.Set([]*tls.Certificate{second}, ca, other)
	f.next(t, second)
	api.Set([]*tls.Certificate{second}, ca, next)
	if state := f.next(t, second); !state.SameRoots(&identity.State{Bundles: ca.Bundles(next)}) {
		t.Errorf("the roots are %v", state.Bundles)
	}
	third := next.Intermediate().Issue("/svc/web")
	api.Set([]*tls.Certificate{third}, ca, next)
	if state := f.next(t, third); len(state.Certificate.Certificate) != 2 {
		t.Errorf("the chain has %d certificates, want 2", len(state.Certificate.Certificate))
	}
	if got := api.Streams(); got != streams {
		t.Errorf("%d streams were opened, want %d", got, streams)
	}
}

func TestAPIRestarts(t *testing.T) {
	t.Parallel()
	ca := identitytest.CA(t, "example.org")
	api := spiffetest.New(t)
	first, second := ca.Issue("/svc/web"), ca.Issue("/svc/web")
	api.Set([]*tls.Certificate{first}, ca)
	f := watch(t, Options{Socket: api.Socket()})
	f.next(t, first)
	api.Stop()
	f.failing(t, "Unavailable: ")
	if n := len(f.states); n > 0 {
		t.Errorf("%d states are handed over while the API is away", n)
	}
	api.Set([]*tls.Certificate{second}, ca)
	api.Start()
	f.next(t, second)
	f.failing(t, "")
}

// The keeper goes on with what it had, whatever the API says.
func TestKeepsWhatItHad(t *testing.T) {
	t.Parallel()
	ca := identitytest.CA(t, "example.org")
	api := spiffetest.New(t)
	good := ca.Issue("/svc/web")
	api.Set([]*tls.Certificate{good}, ca)
	source, err := Open(Options{Socket: api.Socket()})
	if err != nil {
		t.Fatal(err)
	}
	source.first = 5 * time.Millisecond
	keeper := identity.Keep(source, identity.Options{})
	defer keeper.Close()
	if _, err := keeper.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	f := &fixture{Source: source}
	whole := func() *workload.X509SVID {
		key, err := x509.MarshalPKCS8PrivateKey(good.PrivateKey)
		if err != nil {
			t.Fatal(err)
		}
		return &workload.X509SVID{SpiffeId: "spiffe://example.org/svc/web", X509Svid: good.Leaf.Raw, X509SvidKey: key, Bundle: ca.Root.Raw}
	}
	key, err := x509.MarshalPKCS8PrivateKey(ca.Key)
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range []struct {
		do   func()
		want string
	}{
		{func() { api.Fail(status.Error(codes.PermissionDenied, "entry\nis gone")) }, "it refuses: entry is gone: does it have an entry"},
		{func() { api.Fail(status.Error(codes.InvalidArgument, "something is wrong")) }, "InvalidArgument: something is wrong"},
		{func() { api.Fail(status.Error(codes.Canceled, "not now")) }, "Canceled: not now"},
		{func() { api.Say(&workload.X509SVIDResponse{}) }, "no SVIDs in response"},
		{func() { s := whole(); s.X509Svid = []byte("junk"); api.Say(svids(s)) }, "x509"},
		{func() { s := whole(); s.X509SvidKey = key; api.Say(svids(s)) }, "does not match"},
		{func() { s := whole(); s.X509SvidKey = nil; api.Say(svids(s)) }, "private key"},
		{func() { s := whole(); s.Bundle = nil; api.Say(svids(s)) }, "no roots"},
		{func() { api.Set([]*tls.Certificate{ca.Issue("/svc/web", identitytest.URIs("https://x/y"))}, ca) }, "scheme"},
		{func() { api.Stop() }, "Unavailable: "},
	} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			c.do()
			f.failing(t, c.want)
			if state := keeper.Current(); !state.Certificate.Leaf.Equal(good.Leaf) || len(state.Bundles) != 1 {
				t.Errorf("the state is %v", state)
			}
		})
	}
	api.Start()
	second := ca.Issue("/svc/web")
	api.Set([]*tls.Certificate{second}, ca)
	f.failing(t, "")
	taken := make(chan struct{})
	var once sync.Once
	defer keeper.Watch(func(s *identity.State) {
		if s.Certificate.Leaf.Equal(second.Leaf) {
			once.Do(func() { close(taken) })
		}
	})()
	<-taken
}

func svids(s *workload.X509SVID) *workload.X509SVIDResponse {
	return &workload.X509SVIDResponse{Svids: []*workload.X509SVID{s}}
}

func TestChooses(t *testing.T) {
	t.Parallel()
	ca := identitytest.CA(t, "example.org")
	api := spiffetest.New(t)
	first, second := ca.Issue("/svc/first"), ca.Issue("/svc/second")
	api.Set([]*tls.Certificate{first}, ca)
	f := watch(t, Options{Socket: api.Socket(), ID: spiffeid.RequireFromString("spiffe://example.org/svc/second")})
	f.failing(t, "it hands out 1 SVIDs, and none is spiffe://example.org/svc/second, but spiffe://example.org/svc/first")
	api.Set([]*tls.Certificate{first, second}, ca)
	f.next(t, second)
	f.failing(t, "")
}

func TestOpen(t *testing.T) {
	for socket, want := range map[string]string{
		"":                      "no SPIFFE Workload API is named",
		"/run/agent.sock":       `address "/run/agent.sock"`,
		"http://127.0.0.1:1":    `address "http://127.0.0.1:1"`,
		"tcp://example.org:1":   "address",
		"unix:///run/api.sock":  "",
		"tcp://127.0.0.1:30000": "",
	} {
		t.Setenv("SPIFFE_ENDPOINT_SOCKET", "")
		if _, err := Open(Options{Socket: socket}); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", socket, err, want)
		}
	}
	t.Setenv("SPIFFE_ENDPOINT_SOCKET", "unix:///run/other.sock")
	if s, err := Open(Options{}); err != nil || s.Status().Location != "unix:///run/other.sock" {
		t.Errorf("by the variable: %v", err)
	}
}

func TestPauses(t *testing.T) {
	t.Parallel()
	p := retries{first: time.Second}.NewBackoff()
	var got []time.Duration
	for range 5 {
		got = append(got, p.Next())
	}
	p.Reset()
	if want := "[1s 2s 4s 5s 5s] 1s"; fmt.Sprint(got, p.Next()) != want {
		t.Errorf("pauses of %v, want %s", got, want)
	}
	if err := plain(errors.New("x")); err.Error() != "x" {
		t.Errorf("an error that is not gRPC's: %v", err)
	}
}

// Package spiffetest is a SPIFFE Workload API in the test's process, made with
// go-spiffe's own protocol. It hands out what the test sets. It is for tests alone.
package spiffetest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/pillion-proxy/pillion/identity/identitytest"
)

// API is a Workload API on a Unix socket.
type API struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	t    testing.TB
	path string

	mu       sync.Mutex
	response *workload.X509SVIDResponse
	err      error
	changed  chan struct{}
	server   *grpc.Server
	ended    chan struct{}
	streams  int
}

// New serves an API, which refuses workloads until something is set. It ends with
// the test.
func New(t testing.TB) *API {
	t.Helper()
	folder, err := os.MkdirTemp("", "api") //nolint:usetesting // t.TempDir's names may be too long for a socket
	if err != nil {
		t.Fatalf("spiffetest: %v", err)
	}
	a := &API{
		t: t, path: filepath.Join(folder, "api.sock"), changed: make(chan struct{}),
		err: status.Error(codes.PermissionDenied, "no identity issued"),
	}
	a.Start()
	t.Cleanup(func() {
		a.Stop()
		_ = os.RemoveAll(folder)
	})
	return a
}

// Socket is its address, as SPIFFE_ENDPOINT_SOCKET has it.
func (a *API) Socket() string { return "unix://" + a.path }

// Start serves again after Stop.
func (a *API) Start() {
	a.t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(context.Background(), "unix", a.path)
	if err != nil {
		a.t.Fatalf("spiffetest: %v", err)
	}
	server, ended := grpc.NewServer(), make(chan struct{})
	workload.RegisterSpiffeWorkloadAPIServer(server, a)
	a.mu.Lock()
	a.server, a.ended = server, ended
	a.mu.Unlock()
	go func() {
		defer close(ended)
		_ = server.Serve(listener)
	}()
}

// Stop takes the API away, and ends its streams.
func (a *API) Stop() {
	a.mu.Lock()
	server, ended := a.server, a.ended
	a.mu.Unlock()
	server.Stop()
	<-ended
}

// Set hands these SVIDs out, in this order: each by the authority whose bundle it comes
// with. Roots of one trust domain are one bundle; those of other domains are federated.
func (a *API) Set(svids []*tls.Certificate, authorities ...*identitytest.Authority) {
	a.t.Helper()
	roots := make(map[string][]byte)
	for _, authority := range authorities {
		name := authority.TrustDomain.IDString()
		roots[name] = append(roots[name], authority.Root.Raw...)
	}
	response := &workload.X509SVIDResponse{FederatedBundles: make(map[string][]byte)}
	for _, cert := range svids {
		id := cert.Leaf.URIs[0]
		key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
		if err != nil {
			a.t.Fatalf("spiffetest: %v", err)
		}
		response.Svids = append(response.Svids, &workload.X509SVID{
			SpiffeId: id.String(), X509Svid: slices.Concat(cert.Certificate...), X509SvidKey: key,
			Bundle: roots["spiffe://"+id.Host],
		})
	}
	for name, bundle := range roots {
		if !slices.ContainsFunc(svids, func(c *tls.Certificate) bool { return "spiffe://"+c.Leaf.URIs[0].Host == name }) {
			response.FederatedBundles[name] = bundle
		}
	}
	a.say(response, nil)
}

// Say hands out anything.
func (a *API) Say(response *workload.X509SVIDResponse) { a.say(response, nil) }

// Fail ends all streams with an error until something else is set.
func (a *API) Fail(err error) { a.say(nil, err) }

func (a *API) say(response *workload.X509SVIDResponse, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.response, a.err = response, err
	close(a.changed)
	a.changed = make(chan struct{})
}

// Streams is how many have been opened so far.
func (a *API) Streams() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.streams
}

// FetchX509SVID is the API's.
func (a *API) FetchX509SVID(_ *workload.X509SVIDRequest, stream workload.SpiffeWorkloadAPI_FetchX509SVIDServer) error {
	// SPIFFE Workload Endpoint, section 3.1: without it a request may come from anywhere.
	if md, _ := metadata.FromIncomingContext(stream.Context()); !slices.Equal(md.Get("workload.spiffe.io"), []string{"true"}) {
		return status.Error(codes.InvalidArgument, "security header missing from request")
	}
	a.mu.Lock()
	a.streams++
	a.mu.Unlock()
	for {
		a.mu.Lock()
		response, err, changed := a.response, a.err, a.changed
		a.mu.Unlock()
		if err != nil {
			return err
		}
		if err := stream.Send(response); err != nil {
			return err
		}
		select {
		case <-stream.Context().Done():
			return stream.Context().Err()
		case <-changed:
		}
	}
}

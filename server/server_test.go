package server

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	adminv1 "github.com/pillion-proxy/pillion/proto/pillion/admin/v1"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// shown is everything that a server asks for, as plain functions.
type shown struct {
	endpoints func() []*adminv1.Service
	config    func() *configv1.Bootstrap
	sources   func() []*adminv1.Source
	listeners func() []*adminv1.Listener
}

func (s shown) Endpoints() []*adminv1.Service  { return s.endpoints() }
func (s shown) Config() *configv1.Bootstrap    { return s.config() }
func (s shown) Sources() []*adminv1.Source     { return s.sources() }
func (s shown) Listeners() []*adminv1.Listener { return s.listeners() }

// running is a server that serves a listener of its own until the test ends.
type running struct {
	*Server
	network, address string
	served           chan error // what Serve returned
	log              *logBuffer
}

type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func start(t *testing.T, o Options) *running {
	t.Helper()
	return startOn(t, "tcp", "127.0.0.1:0", o)
}

func startOn(t *testing.T, network, address string, o Options) *running {
	t.Helper()
	log := &logBuffer{}
	o.Logger = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	r := &running{Server: s, network: network, address: l.Addr().String(), served: make(chan error, 1), log: log}
	ctx, cancel := context.WithCancel(context.Background())
	go func() { r.served <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		bounded, done := context.WithTimeout(context.Background(), 10*time.Second)
		defer done()
		_ = s.Shutdown(bounded) // a test may have cut requests off itself
		cancel()
	})
	return r
}

// client returns an HTTP client of one protocol that closes with the test.
func (r *running) client(t *testing.T, set func(*http.Protocols, bool)) *http.Client {
	protocols := new(http.Protocols)
	set(protocols, true)
	transport := &http.Transport{
		Protocols: protocols,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, r.network, r.address)
		},
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 20 * time.Second}
}

type answer struct {
	code   int
	header http.Header
	body   string
}

// do asks for a page over HTTP/1.1.
func (r *running) do(t *testing.T, method, path string) answer {
	t.Helper()
	return fetch(t, r.client(t, (*http.Protocols).SetHTTP1), method, "http://localhost"+path)
}

func fetch(t *testing.T, client *http.Client, method, url string) answer {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{response.StatusCode, response.Header, string(body)}
}

// dial returns a gRPC connection that closes with the test.
func (r *running) dial(t *testing.T, o ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	target := r.address
	if r.network == "unix" {
		target = "unix://" + r.address
	}
	conn, err := grpc.NewClient(target, append(o, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func wantCode(t *testing.T, err error, want codes.Code) {
	t.Helper()
	if got := status.Code(err); got != want {
		t.Errorf("status %v (%v), want %v", got, err, want)
	}
}

func TestBothProtocolsOnOnePort(t *testing.T) {
	t.Parallel()
	r := start(t, Options{})
	for name, set := range map[string]func(*http.Protocols, bool){
		"HTTP/1.1": (*http.Protocols).SetHTTP1,
		"HTTP/2":   (*http.Protocols).SetUnencryptedHTTP2,
	} {
		if got := fetch(t, r.client(t, set), "GET", "http://localhost/live"); got.code != 200 || got.body != "live\n" {
			t.Errorf("%s: %d %q", name, got.code, got.body)
		}
	}
	if _, err := adminv1.NewAdminClient(r.dial(t)).GetStatus(t.Context(), &adminv1.GetStatusRequest{}); err != nil {
		t.Error(err)
	}
}

func TestUnixSocket(t *testing.T) {
	t.Parallel()
	r := startOn(t, "unix", filepath.Join(t.TempDir(), "admin.sock"), Options{})
	if got := fetch(t, r.client(t, (*http.Protocols).SetHTTP1), "GET", "http://whatever.example/ready"); got.code != 200 {
		t.Errorf("HTTP: %d %q", got.code, got.body)
	}
	// Some gRPC libraries make the authority of the socket's path.
	conn := r.dial(t, grpc.WithAuthority("%2Frun%2Fadmin.sock"))
	if _, err := adminv1.NewAdminClient(conn).GetStatus(t.Context(), &adminv1.GetStatusRequest{}); err != nil {
		t.Error(err)
	}
}

func TestShutdownEndsStreams(t *testing.T) {
	t.Parallel()
	r := start(t, Options{})
	watch, err := healthpb.NewHealthClient(r.dial(t)).Watch(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil {
		t.Fatal(err)
	}
	if err := r.Shutdown(t.Context()); err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	if err := <-r.served; err != nil {
		t.Errorf("Serve: %v", err)
	}
	_, err = watch.Recv()
	wantCode(t, err, codes.Unavailable)
	if err := r.Shutdown(t.Context()); err != nil {
		t.Errorf("Shutdown again: %v", err)
	}
	if _, err := net.Dial(r.network, r.address); err == nil {
		t.Error("the listener is still open")
	}
}

// stuck is a server with a request under way that only release ends.
func stuck(t *testing.T, ask func(*running)) (r *running, release func()) {
	t.Helper()
	entered, end := make(chan struct{}), make(chan struct{})
	r = start(t, Options{Endpoints: shown{endpoints: func() []*adminv1.Service {
		close(entered)
		<-end
		return nil
	}}})
	var asking sync.WaitGroup
	asking.Go(func() { ask(r) })
	<-entered
	release = sync.OnceFunc(func() { close(end) })
	t.Cleanup(func() {
		release()
		asking.Wait()
	})
	return r, release
}

// overHTTP and overGRPC ask for the endpoints and forget the answer.
func overHTTP(t *testing.T) func(*running) {
	return func(r *running) {
		if response, err := r.client(t, (*http.Protocols).SetHTTP1).Get("http://localhost/endpoints"); err == nil {
			_ = response.Body.Close()
		}
	}
}

func overGRPC(t *testing.T) func(*running) {
	return func(r *running) {
		_, _ = adminv1.NewAdminClient(r.dial(t)).ListEndpoints(t.Context(), &adminv1.ListEndpointsRequest{})
	}
}

func TestShutdownIsBounded(t *testing.T) {
	t.Parallel()
	for name, ask := range map[string]func(*testing.T) func(*running){"HTTP": overHTTP, "gRPC": overGRPC} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, _ := stuck(t, ask(t))
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
			defer cancel()
			if err := r.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Shutdown: %v", err)
			}
			if err := <-r.served; err != nil {
				t.Errorf("Serve: %v", err)
			}
		})
	}
}

func TestHeadersAreBounded(t *testing.T) {
	t.Parallel()
	r := start(t, Options{})
	request, err := http.NewRequestWithContext(t.Context(), "GET", "http://localhost/live", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("X", strings.Repeat("x", 128<<10))
	response, err := r.client(t, (*http.Protocols).SetHTTP1).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("%s", response.Status)
	}
}

func TestShutdownWaitsForRequests(t *testing.T) {
	t.Parallel()
	r, release := stuck(t, overHTTP(t))
	done := make(chan error, 1)
	go func() { done <- r.Shutdown(context.Background()) }()
	select {
	case err := <-done:
		t.Errorf("Shutdown did not wait: %v", err)
	case <-r.stopping.Done(): // it has begun
	}
	select {
	case err := <-r.served:
		t.Errorf("Serve did not wait: %v", err)
	default:
	}
	release()
	if err := <-done; err != nil {
		t.Errorf("Shutdown: %v", err)
	}
}

func TestServeEndsWithItsContext(t *testing.T) {
	t.Parallel()
	s, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Serve(ctx, l); err != nil {
		t.Error(err)
	}
}

func TestServeSaysWhichListenerFailed(t *testing.T) {
	t.Parallel()
	s, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	err = s.Serve(t.Context(), l)
	if err == nil || !strings.Contains(err.Error(), l.Addr().String()) {
		t.Errorf("Serve: %v", err)
	}
	if err := s.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestNewTakesARegistryTwice(t *testing.T) {
	t.Parallel()
	metrics := prometheus.NewRegistry()
	for range 2 {
		s, err := New(Options{Metrics: metrics})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

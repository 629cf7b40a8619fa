package upstream

import (
	"context"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	ours "github.com/pillion-proxy/pillion/proxy/health"
)

// app is a grpc-go server in memory.
type app struct {
	*health.Server
	grpc  *grpc.Server
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newApp(withHealth bool) *app {
	a := &app{Server: health.NewServer(), grpc: grpc.NewServer(), conns: make(chan net.Conn), done: make(chan struct{})}
	if withHealth {
		healthpb.RegisterHealthServer(a.grpc, a.Server)
	}
	go func() { _ = a.grpc.Serve(a) }()
	return a
}

func (a *app) Accept() (net.Conn, error) {
	select {
	case c := <-a.conns:
		return c, nil
	case <-a.done:
		return nil, net.ErrClosed
	}
}
func (a *app) Close() error   { a.once.Do(func() { close(a.done) }); return nil }
func (a *app) Addr() net.Addr { return &net.UnixAddr{Name: "app", Net: "unix"} }

// dial is for Options.
func (a *app) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case a.conns <- there:
		return here, nil
	case <-a.done:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// grpc-go's own health server is understood, in either way of asking.
func TestHealthOfGRPCServer(t *testing.T) {
	for _, tc := range []struct {
		name string
		cfg  func() *ours.Config
		soon time.Duration // until a change is believed
	}{
		{"check", checks, 4 * interval},
		{"watch", watching, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				app := newApp(true)
				defer app.grpc.Stop()
				r := newRig(t, Options{Dial: app.dial}, "a:1")
				cfg := tc.cfg()
				cfg.Service = "helloworld.Greeter"
				app.SetServingStatus("helloworld.Greeter", healthpb.HealthCheckResponse_SERVING)
				app.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING) // another's
				r.cluster.Configure(&Policy{Health: cfg})
				a := r.instance("a:1")
				time.Sleep(6 * interval)
				a.want(t, 0, true)
				if h := r.cluster.Status().Instances[0].Health; h.Last.Text != "SERVING" || !h.Last.Told {
					t.Fatalf("the last answer is %+v", h.Last)
				}
				app.SetServingStatus("helloworld.Greeter", healthpb.HealthCheckResponse_NOT_SERVING)
				time.Sleep(tc.soon)
				a.want(t, Unhealthy, false)
				app.SetServingStatus("helloworld.Greeter", healthpb.HealthCheckResponse_SERVING)
				time.Sleep(tc.soon)
				a.want(t, 0, true)
				app.Shutdown() // NOT_SERVING, for good
				time.Sleep(tc.soon)
				a.want(t, Unhealthy, false)
			})
		})
	}
}

// Of a service that it does not know a server says so: that is not well. A server
// that knows no health checks is (gRFC A17).
func TestHealthOfGRPCServerThatDoesNotKnow(t *testing.T) {
	for _, tc := range []struct {
		name       string
		cfg        func() *ours.Config
		withHealth bool
		blocked    Reason
		text       string
	}{
		{"check, another service", checks, true, Unhealthy, "NOT_FOUND: unknown service"},
		{"watch, another service", watching, true, Unhealthy, "SERVICE_UNKNOWN"},
		{"check, no health checks", checks, false, 0, "UNIMPLEMENTED: it knows no health checks"},
		{"watch, no health checks", watching, false, 0, "UNIMPLEMENTED: it knows no health checks"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				app := newApp(tc.withHealth)
				defer app.grpc.Stop()
				r := newRig(t, Options{Dial: app.dial}, "a:1")
				cfg := tc.cfg()
				cfg.Service = "nobody.Knows"
				r.cluster.Configure(&Policy{Health: cfg})
				time.Sleep(6 * interval)
				r.instance("a:1").want(t, tc.blocked, tc.blocked == 0)
				if h := r.cluster.Status().Instances[0].Health; h.Last.Text != tc.text {
					t.Errorf("the last answer is %+v", h.Last)
				}
			})
		})
	}
}

// A server that ends gracefully waits for nobody who only watches it.
func TestWatchDoesNotHoldUpTheEnd(t *testing.T) {
	simulated(t, func(t *testing.T) {
		app := newApp(true)
		r := newRig(t, Options{Dial: app.dial}, "a:1")
		r.cluster.Configure(&Policy{Health: watching()})
		time.Sleep(2 * interval)
		if h := r.cluster.Status().Instances[0].Health; h.Last.Text != "SERVING" {
			t.Fatalf("the last answer is %+v", h.Last)
		}
		ended := make(chan struct{})
		go func() {
			app.grpc.GracefulStop()
			close(ended)
		}()
		time.Sleep(time.Second)
		synctest.Wait()
		select {
		case <-ended:
		default:
			t.Error("it is held up")
			app.grpc.Stop()
		}
	})
}

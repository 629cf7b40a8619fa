package main

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	adminv1 "github.com/pillion-proxy/pillion/proto/pillion/admin/v1"
	"github.com/pillion-proxy/pillion/server"
	"google.golang.org/protobuf/proto"
)

// answering starts something that answers HTTP, and returns its address.
func answering(t *testing.T, handler http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// administered starts an admin port, and returns its address.
func administered(t *testing.T, l net.Listener, o server.Options) string {
	t.Helper()
	if l == nil {
		var err error
		if l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
	}
	o.Logger = slog.New(slog.DiscardHandler)
	s, err := server.New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Serve(ctx, l); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return l.Addr().String()
}

// endpoints are those that a sidecar knows.
type endpoints []*adminv1.Service

func (e endpoints) Endpoints() (clones []*adminv1.Service) {
	for _, s := range e {
		clones = append(clones, proto.CloneOf(s))
	}
	return clones
}

var someEndpoints = server.Options{Endpoints: endpoints{
	{Name: "greeter", Side: adminv1.Side_SIDE_OUTBOUND, Instances: []*adminv1.Instance{
		{Address: "127.0.0.1:50051", Weight: 1, State: adminv1.InstanceState_INSTANCE_STATE_READY, InFlight: 12, Connections: 2, Meta: map[string]string{"version": "v1"}},
		{Address: "127.0.0.1:50052", Weight: 10, State: adminv1.InstanceState_INSTANCE_STATE_BACKOFF, LastError: "connect:\nconnection refused"},
		{
			Address: "127.0.0.1:50053", Weight: 1, State: adminv1.InstanceState_INSTANCE_STATE_READY, Connections: 1,
			Blocked:        []adminv1.BlockReason{adminv1.BlockReason_BLOCK_REASON_EJECTED, adminv1.BlockReason_BLOCK_REASON_UNHEALTHY},
			BlockedBecause: "ejected for 3s more: 5 failures in a row; unhealthy for 1s: NOT_SERVING",
		},
	}},
	{Name: "nobody", Side: adminv1.Side_SIDE_OUTBOUND, Stale: true},
}}

func TestEndpoints(t *testing.T) {
	t.Parallel()
	address := administered(t, nil, someEndpoints)
	code, stdout, stderr := pillion(t, "endpoints", "--admin", address)
	want := `
SERVICE  SIDE      INSTANCE         STATE               WEIGHT  RPCS  CONNECTIONS  VERSION  NOTE
greeter  outbound  127.0.0.1:50051  ready               1       12    2            v1
greeter  outbound  127.0.0.1:50052  backoff             10      0     0            -        connect: connection refused
greeter  outbound  127.0.0.1:50053  ejected, unhealthy  1       0     1            -        ejected for 3s more: 5 failures in a row; unhealthy for 1s: NOT_SERVING
nobody   outbound  -                -                   -       -     -            -        stale: the registry is out of reach; no instances
`
	if code != 0 || stderr != "" || stdout != want[1:] {
		t.Errorf("exit %d, %q, got\n%s\nwant%s", code, stderr, stdout, want)
	}
	if _, stdout, _ = pillion(t, "endpoints", "nobody", "--admin", address); strings.Contains(stdout, "greeter") || !strings.Contains(stdout, "nobody") {
		t.Errorf("one service: got\n%s", stdout)
	}
	if _, stdout, _ = pillion(t, "endpoints", "-o", "json", "--admin", address); !strings.HasPrefix(stdout, "{") {
		t.Errorf("JSON: got\n%s", stdout)
	}
}

func TestEndpointsOfUnknownServices(t *testing.T) {
	t.Parallel()
	some := administered(t, nil, someEndpoints)
	none := administered(t, nil, server.Options{})
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"one":  {[]string{"nosuch", "--admin", some}, "pillion: service \"nosuch\" is not known here; known: greeter, nobody\n"},
		"JSON": {[]string{"nosuch", "-o", "json", "--admin", some}, "pillion: service \"nosuch\" is not known here; known: greeter, nobody\n"},
		"some": {[]string{"x", "greeter", "y", "--admin", some}, "pillion: service \"x\" is not known here; known: greeter, nobody\n" +
			"pillion: service \"y\" is not known here; known: greeter, nobody\n"},
		"nothing is known": {[]string{"x", "--admin", none}, "pillion: service \"x\" is not known here; no services are known yet: they are looked up when the first RPC asks for them\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			code, stdout, stderr := pillion(t, append([]string{"endpoints"}, c.args...)...)
			if code != 1 || stdout != "" || stderr != c.want {
				t.Errorf("exit %d\n got %q %q\nwant %q", code, stdout, stderr, c.want)
			}
		})
	}
	if code, stdout, stderr := pillion(t, "endpoints", "--admin", none); code != 0 || !strings.HasPrefix(stdout, "no services are known yet") {
		t.Errorf("none named, none known: exit %d, %q %q", code, stdout, stderr)
	}
}

func TestEndpointsOverASocket(t *testing.T) {
	t.Parallel()
	folder, err := os.MkdirTemp("", "pillion") //nolint:usetesting // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	path := filepath.Join(folder, "admin.sock")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	administered(t, listener, someEndpoints)
	if code, stdout, stderr := pillion(t, "endpoints", "--admin", "unix://"+path); code != 0 || !strings.Contains(stdout, "127.0.0.1:50051") {
		t.Errorf("exit %d: %q %q", code, stdout, stderr)
	}
}

func TestEndpointsOfNoSidecar(t *testing.T) {
	t.Parallel()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refused := free.Addr().String()
	_ = free.Close()
	hung, err := net.Listen("tcp", "127.0.0.1:0") // nobody accepts
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = hung.Close() })
	silent := hung.Addr().String()
	page := answering(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>\nhello") })
	for name, c := range map[string]struct{ address, want string }{
		"refused": {refused, "no sidecar answers at " + refused + ": connection refused: is it running, and is this its admin.listen (--admin)?"},
		"hung":    {silent, "no sidecar answers at " + silent + ": no answer in time: is it running, and is this its admin.listen (--admin)?"},
		"a page":  {page, page + ": does not answer as a sidecar's admin port: "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			code, stdout, stderr := pillion(t, "endpoints", "--timeout", "300ms", "--admin", c.address)
			if code != 1 || stdout != "" || !strings.HasPrefix(stderr, "pillion: "+c.want) || strings.Count(stderr, "\n") != 1 {
				t.Errorf("exit %d\n got %q %q\nwant %q", code, stdout, stderr, c.want)
			}
		})
	}
}

package main

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"

	adminv1 "github.com/pillion-proxy/pillion/proto/pillion/admin/v1"
)

// answering starts an admin port that answers /endpoints, and returns its
// address.
func answering(t *testing.T, handler http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func someEndpoints(t *testing.T) http.HandlerFunc {
	t.Helper()
	all := &adminv1.ListEndpointsResponse{Services: []*adminv1.Service{
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
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/endpoints" {
			http.NotFound(w, r)
			return
		}
		answer := all
		if wanted := r.URL.Query()["service"]; len(wanted) > 0 {
			answer = &adminv1.ListEndpointsResponse{}
			for _, s := range all.GetServices() {
				if slices.Contains(wanted, s.GetName()) {
					answer.Services = append(answer.Services, s)
				}
			}
		}
		raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(answer)
		if err != nil {
			t.Error(err)
		}
		_, _ = w.Write(raw)
	}
}

func TestEndpoints(t *testing.T) {
	t.Parallel()
	address := answering(t, someEndpoints(t))
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
	some := answering(t, someEndpoints(t))
	none := answering(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "{}") })
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
	s := &httptest.Server{Listener: listener, Config: &http.Server{Handler: someEndpoints(t)}}
	s.Start()
	t.Cleanup(s.Close)
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
	hung := answering(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	page := answering(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>\nhello") })
	missing := answering(t, http.NotFound)
	other := answering(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"services": 1}`) })
	for name, c := range map[string]struct{ address, want string }{
		"refused":    {refused, "no sidecar answers at " + refused + ": connection refused: is it running, and is this its admin.listen (--admin)?"},
		"hung":       {hung, "no sidecar answers at " + hung + ": no answer in time: is it running, and is this its admin.listen (--admin)?"},
		"a page":     {page, page + `: does not answer as a sidecar's admin port: 200 OK: "<html>"`},
		"not found":  {missing, missing + `: does not answer as a sidecar's admin port: 404 Not Found: "404 page not found"`},
		"other JSON": {other, other + ": does not answer as a sidecar's admin port: "},
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

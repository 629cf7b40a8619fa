package sidecar

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/pillion-proxy/pillion/cmd/pillion/handover"
	"github.com/pillion-proxy/pillion/identity/identitytest"
	"github.com/pillion-proxy/pillion/proto/configyaml"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

// connectAgent is an agent that answers about Connect, and tells when it is asked for
// intentions: by the index of what the asker knows.
type connectAgent struct {
	address string
	asked   chan string // one for each question about intentions
	news    chan string // what lets a waiting one go, as the next index
}

func newConnectAgent(t *testing.T) *connectAgent {
	t.Helper()
	ca := identitytest.CA(t, "11111111-2222-3333-4444-555555555555.consul")
	leaf := ca.Issue("/ns/default/dc/dc1/svc/greeter")
	a := &connectAgent{asked: make(chan string, 100), news: make(chan string)}
	say := func(w http.ResponseWriter, index string, what any) {
		w.Header().Set("X-Consul-Index", index)
		w.Header().Set("X-Consul-Lastcontact", "0")
		w.Header().Set("X-Consul-Knownleader", "true")
		_ = json.NewEncoder(w).Encode(what)
	}
	once := func(what any) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Get("index") == "7" {
				<-r.Context().Done()
				return
			}
			say(w, "7", what)
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/v1/agent/connect/ca/roots", once(&api.CARootList{
		TrustDomain: "11111111-2222-3333-4444-555555555555.consul",
		Roots:       []*api.CARoot{{Name: "CA", RootCertPEM: string(identitytest.RootsPEM(ca)), Active: true}},
	}))
	mux.HandleFunc("/v1/agent/connect/ca/leaf/greeter", once(&api.LeafCert{
		CertPEM: string(identitytest.ChainPEM(leaf)), PrivateKeyPEM: string(identitytest.KeyPEM(t, leaf)), Service: "greeter",
	}))
	mux.HandleFunc("/v1/agent/connect/authorize", func(w http.ResponseWriter, _ *http.Request) {
		say(w, "7", map[string]any{"Authorized": true, "Reason": "Default behavior configured by ACLs"})
	})
	mux.HandleFunc("/v1/connect/intentions/match", func(w http.ResponseWriter, r *http.Request) {
		a.asked <- r.URL.Query().Get("index")
		select {
		case index := <-a.news:
			say(w, index, map[string]any{"greeter": []any{}})
		case <-r.Context().Done():
		}
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	t.Cleanup(server.CloseClientConnections)
	a.address = strings.TrimPrefix(server.URL, "http://")
	return a
}

// await waits for a question.
func (a *connectAgent) await(t *testing.T, index string) {
	t.Helper()
	select {
	case got := <-a.asked:
		if got != index {
			t.Fatalf("asked with index %q, want %q", got, index)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("nobody asks for intentions")
	}
}

// consulSidecar is the configuration of one whose identity is an agent's.
func consulSidecar(t *testing.T, agent, app string, timeout time.Duration) *configv1.Bootstrap {
	t.Helper()
	t.Setenv("CONSUL_HTTP_ADDR", "")
	cfg := configyaml.Effective(&configv1.Bootstrap{
		Service: &configv1.Service{Name: "greeter", Address: app},
		Inbound: &configv1.Inbound{Listen: anyPort, Tls: tlsPermissive},
		Identity: &configv1.Identity{
			StartTimeout: durationpb.New(timeout),
			Source:       &configv1.Identity_Consul{Consul: &configv1.ConsulIdentity{Address: agent}},
		},
	})
	cfg.Drain.Timeout = durationpb.New(20 * time.Second)
	return cfg
}

func silent() Options {
	return Options{Logger: slog.New(slog.DiscardHandler), LogLevel: new(slog.LevelVar)}
}

// A sidecar takes nobody's place, and no RPC, before it knows the intentions: callers
// would be refused. It follows them until its last RPC has ended.
func TestIntentionsFromBeforeTheFirstRPCToAfterTheLast(t *testing.T) {
	agent := newConnectAgent(t)
	app, l := grpc.NewServer(), listenAny(t)
	watched := make(chan struct{})
	healthpb.RegisterHealthServer(app, watchedHealth{watched: watched})
	go func() { _ = app.Serve(l) }()
	t.Cleanup(app.Stop)

	made := make(chan *Sidecar)
	cfg := consulSidecar(t, agent.address, l.Addr().String(), 20*time.Second)
	go func() {
		s, err := New(cfg, silent())
		if err != nil {
			t.Error(err)
		}
		made <- s
	}()
	agent.await(t, "")
	select {
	case <-made:
		t.Fatal("the sidecar is there before it knows the intentions")
	case agent.news <- "8":
	}
	s := <-made
	agent.await(t, "8")

	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Errorf("the sidecar ended with %v", err)
		}
	})
	caller, err := grpc.NewClient(s.Address(sideInbound), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = caller.Close() })
	rpc, err := healthpb.NewHealthClient(caller).Watch(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := rpc.Recv(); err != nil {
		t.Fatal(err)
	}
	stop()
	for !s.leaving.Load() {
		time.Sleep(time.Millisecond) // until it drains, which the RPC holds up
	}
	agent.news <- "9"
	agent.await(t, "9") // it wants to know what comes next
	close(watched)
	running.Wait()
}

// Without a certificate a sidecar begins all the same, but takes no other one's place.
func TestNoPlaceIsTakenWithoutCertificate(t *testing.T) {
	nobody := listenAny(t)
	cfg := consulSidecar(t, nobody.Addr().String(), "127.0.0.1:1", 50*time.Millisecond)
	_ = nobody.Close()
	o := silent()
	o.Replaces = true
	if s, err := New(cfg, o); err == nil || !strings.HasPrefix(err.Error(), "identity: there is no certificate yet: ") || !strings.HasSuffix(err.Error(), "(identity.start_timeout is 50ms)") {
		t.Errorf("got %v, %v", s, err)
	}
	s, err := New(cfg, silent())
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := s.Run(ctx); err != nil {
		t.Error(err)
	}
}

// opened is a socket that somebody else has opened.
type opened struct{ l net.Listener }

func (o opened) Take(side, listen string) *handover.Socket {
	if side != sideAdmin {
		return nil
	}
	return &handover.Socket{Name: side, Listen: listen, Borrowed: true, Listener: o.l}
}

// What the configuration says does not matter where the admin port's socket was opened by
// somebody else, for others to reach.
func TestAdminSocketThatOthersReachNeedsTLS(t *testing.T) {
	t.Setenv("CONSUL_HTTP_ADDR", "")
	l, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	o := silent()
	o.Sockets = []Sockets{opened{l}}
	_, err = New(configyaml.Effective(&configv1.Bootstrap{Admin: &configv1.Admin{Listen: anyPort}}), o)
	if err == nil || !strings.HasPrefix(err.Error(), "admin: the socket that this process was given listens on ") {
		t.Errorf("got %v", err)
	}
}

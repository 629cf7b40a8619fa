package entries

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// instance is a gRPC server that is an instance of many services: it answers any method,
// and proves by Consul's CA that it is of the service that it is asked for (Connect native),
// so that no sidecar stands beside it.
type instance struct {
	name, address string

	client *api.Client
	mu     sync.Mutex
	leafs  map[string]*tls.Certificate
	calls  map[string]int           // by x-id
	held   map[string]chan struct{} // by x-hold: closed to let it go
}

// seen is what an instance says of an RPC.
type seen struct {
	Service, Instance string
	Headers           map[string][]string
}

func startInstance(t testing.TB, name string, client *api.Client) *instance {
	t.Helper()
	i := &instance{name: name, client: client, leafs: map[string]*tls.Certificate{}, calls: map[string]int{}, held: map[string]chan struct{}{}}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	i.address = listener.Addr().String()
	server := grpc.NewServer(
		grpc.Creds(credentials.NewTLS(&tls.Config{
			NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS12, ClientAuth: tls.RequestClientCert,
			GetCertificate: i.certificate,
		})),
		grpc.UnknownServiceHandler(i.serve))
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(listener)
	}()
	t.Cleanup(func() {
		server.Stop()
		<-served
	})
	return i
}

func (i *instance) port(t testing.TB) int {
	t.Helper()
	_, text, _ := net.SplitHostPort(i.address)
	port, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// serviceOf is the service that a server name is for: [subset.]service.default.dc1.internal…
func serviceOf(sni string) string {
	front, _, _ := strings.Cut(sni, ".default.")
	return front[strings.LastIndexByte(front, '.')+1:]
}

func (i *instance) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	service := serviceOf(hello.ServerName)
	i.mu.Lock()
	defer i.mu.Unlock()
	if known := i.leafs[service]; known != nil {
		return known, nil
	}
	leaf, _, err := i.client.Agent().ConnectCALeaf(service, nil)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair([]byte(leaf.CertPEM), []byte(leaf.PrivateKeyPEM))
	if err != nil {
		return nil, err
	}
	i.leafs[service] = &pair
	return &pair, nil
}

// What RPCs ask an instance for.
const (
	askID    = "x-id"    // counts the RPC's attempts
	askFail  = "x-fail"  // how many attempts fail: "2"
	askCode  = "x-code"  // and with which status: "14"
	askAt    = "x-at"    // at which instance alone: "v1"
	askSleep = "x-sleep" // how long it takes: "1s"
	askHold  = "x-hold"  // that it waits to be let go by this name
)

func (i *instance) serve(_ any, stream grpc.ServerStream) error {
	ctx := stream.Context()
	head, _ := metadata.FromIncomingContext(ctx)
	one := func(key string) string { return strings.Join(head[key], ",") }
	if err := stream.RecvMsg(&emptypb.Empty{}); err != nil {
		return err
	}
	i.mu.Lock()
	i.calls[one(askID)]++
	times := i.calls[one(askID)]
	i.mu.Unlock()
	if fail, _ := strconv.Atoi(one(askFail)); times <= fail && (one(askAt) == "" || one(askAt) == i.name) {
		code, _ := strconv.Atoi(one(askCode))
		return status.Error(codes.Code(code), "as it was asked for")
	}
	if name := one(askHold); name != "" {
		select {
		case <-i.hold(name):
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
	}
	if d, _ := time.ParseDuration(one(askSleep)); d > 0 {
		select {
		case <-time.After(d):
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
	}
	said := seen{Instance: i.name, Headers: map[string][]string{}}
	if p, ok := peer.FromContext(ctx); ok {
		if info, ok := p.AuthInfo.(credentials.TLSInfo); ok {
			said.Service = serviceOf(info.State.ServerName)
		}
	}
	for key, values := range head {
		if strings.HasPrefix(key, "y-") {
			said.Headers[key] = values
		}
	}
	text, err := json.Marshal(said)
	if err != nil {
		return err
	}
	if err := stream.SendHeader(metadata.Pairs("y-answer", "plain", "y-internal", "secret")); err != nil {
		return err
	}
	return stream.SendMsg(wrapperspb.String(string(text)))
}

// hold is closed when RPCs that wait by a name are let go.
func (i *instance) hold(name string) chan struct{} {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.held[name] == nil {
		i.held[name] = make(chan struct{})
	}
	return i.held[name]
}

// attempts is how often an RPC came.
func (i *instance) attempts(id string) int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.calls[id]
}

// call makes an RPC and says what came of it.
func call(ctx context.Context, conn *grpc.ClientConn, method string, head map[string]string) (seen, metadata.MD, error) {
	ctx, cancel := context.WithTimeout(metadata.NewOutgoingContext(ctx, metadata.New(head)), time.Minute)
	defer cancel()
	var answer wrapperspb.StringValue
	var back metadata.MD
	if err := conn.Invoke(ctx, method, &emptypb.Empty{}, &answer, grpc.Header(&back)); err != nil {
		return seen{}, back, err
	}
	var said seen
	if err := json.Unmarshal([]byte(answer.GetValue()), &said); err != nil {
		return seen{}, back, err
	}
	return said, back, nil
}

package experiment

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// The experiments, as apps are told of them.
const (
	button  = "button"  // sends its variant green to the version v2
	wording = "wording" // only names its variants
)

// effect is by how much a unit in the variant green earns more, of about 10.
const effect = 1.5

// answer is what an app says of an RPC, so that its caller knows what was reported.
type answer struct {
	Version string
	// Variants are by experiment, as the app was told.
	Variants map[string]string
	Revenue  float64
	Failed   bool
}

// app is an instance of a version.
type app struct {
	testpb.UnimplementedTestServiceServer

	version, address string
	port             int
}

func startApp(t *testing.T, version string) *app {
	t.Helper()

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a := &app{version: version, address: l.Addr().String(), port: l.Addr().(*net.TCPAddr).Port}
	server := grpc.NewServer()
	testpb.RegisterTestServiceServer(server, a)
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(l)
	}()
	t.Cleanup(func() {
		server.Stop()
		<-served
	})

	return a
}

// UnaryCall reports what the user has earned, also where it fails.
func (a *app) UnaryCall(ctx context.Context, _ *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	number := uint64(0)
	_, _ = fmt.Sscanf(strings.Join(md.Get("x-number"), ""), "%d", &number)
	said := answer{Version: a.version, Variants: map[string]string{}}
	for _, experiment := range []string{button, wording} {
		if told := md.Get("pillion-experiment-" + experiment); len(told) > 0 {
			said.Variants[experiment] = strings.Join(told, ",")
		}
	}
	// What users earn is theirs, and always the same but for a little. So it is also always
	// the same who has luck: this cannot fail by chance.
	users := rand.New(rand.NewPCG(number, 3))
	said.Revenue = 10 + 2*users.NormFloat64() + 0.2*rand.NormFloat64()
	said.Failed = users.IntN(20) == 0
	if said.Variants[button] == "green" {
		said.Revenue += effect
	}
	_ = grpc.SetTrailer(ctx, metadata.Pairs(
		"pillion-measure-revenue", fmt.Sprint(said.Revenue),
		"pillion-measure-rpcs", "1",
		"app-trailer", "kept",
	))
	text, err := json.Marshal(said)
	if err != nil {
		return nil, err
	}
	if said.Failed {
		return nil, status.Error(codes.Internal, string(text))
	}

	return &testpb.SimpleResponse{Username: string(text)}, nil
}

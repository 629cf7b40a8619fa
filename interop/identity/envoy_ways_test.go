package identity

import (
	"context"
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/pillion-proxy/pillion/interop/consul"
	"github.com/pillion-proxy/pillion/interop/harness"
	"github.com/pillion-proxy/pillion/interop/load"
)

// The services of the mixed mesh.
const (
	webService     = "web"     // calls, beside an Envoy
	storeService   = "store"   // beside an Envoy
	greeterService = "greeter" // beside a Pillion; calls too
)

// Indexes of the ways.
const (
	envoyToEnvoy = iota
	envoyToPillion
	pillionToEnvoy
)

// way is how an app of one service reaches one of another.
type way struct {
	name     string
	from, to string
	conn     *grpc.ClientConn
}

// mixedMesh is an [envoyMesh] with the three services and all ways between them.
type mixedMesh struct {
	*envoyMesh

	// ways are in the order of their constants.
	ways []way
	// store and greeter are the apps that are called.
	store, greeter *meshApp
	// storeEnvoy and pillion are the sidecars beside them.
	storeEnvoy *envoy
	pillion    *harness.Sidecar
}

// startMixedMesh starts the services, as [startEnvoyMesh] says.
func startMixedMesh(t *testing.T, tls string, settings map[string]any) *mixedMesh {
	t.Helper()

	m := &mixedMesh{envoyMesh: startEnvoyMesh(t, tls, settings)}
	web := startMeshApp(t, webService)
	m.store, m.greeter = startMeshApp(t, storeService), startMeshApp(t, greeterService)
	caller := m.startEnvoy(t, webService, web.Address, storeService, greeterService)
	m.storeEnvoy = m.startEnvoy(t, storeService, m.store.Address)
	m.pillion = m.startPillion(t, greeterService, m.greeter.Address)
	m.ways = []way{
		envoyToEnvoy:   {"Envoy to Envoy", webService, storeService, load.Dial(t, caller.upstreams[storeService])},
		envoyToPillion: {"Envoy to Pillion", webService, greeterService, load.Dial(t, caller.upstreams[greeterService])},
		pillionToEnvoy: {"Pillion to Envoy", greeterService, storeService, load.Dial(t, m.pillion.Outbound, grpc.WithAuthority(storeService))},
	}
	// All have found each other, so that what fails from here on is about who may call.
	m.obey(t, intentionCase{of: allow, want: all(true)})

	return m
}

// meshApp is an app that remembers what its callers are said to be.
type meshApp struct {
	*load.App

	// heads are the metadata of RPCs, the newest alone.
	heads chan metadata.MD
}

func startMeshApp(t testing.TB, name string) *meshApp {
	t.Helper()

	a := &meshApp{heads: make(chan metadata.MD, 1)}
	a.App = load.StartApp(t, name, "", grpc.UnaryInterceptor(
		func(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
			head, _ := metadata.FromIncomingContext(ctx)
			select {
			case <-a.heads:
			default:
			}
			select {
			case a.heads <- head:
			default:
			}

			return handle(ctx, request)
		}))

	return a
}

// call is one of the RPCs whose verdicts intentions differ in.
type call struct {
	name string
	make func(context.Context, *grpc.ClientConn) error
}

// team is metadata that intentions look at.
const team = "x-team"

var calls = []call{
	{"UnaryCall", unaryCall},
	{"UnaryCall of team red", func(ctx context.Context, conn *grpc.ClientConn) error {
		return unaryCall(metadata.AppendToOutgoingContext(ctx, team, "Red-1"), conn)
	}},
	{"UnaryCall of two teams", func(ctx context.Context, conn *grpc.ClientConn) error {
		return unaryCall(metadata.AppendToOutgoingContext(ctx, team, "Red-1", team, "Red-2"), conn)
	}},
	{"FullDuplexCall", func(ctx context.Context, conn *grpc.ClientConn) error {
		_, err := load.Converse(ctx, conn, 2)

		return err
	}},
	// The apps do not have it, and say so.
	{"EmptyCall", func(ctx context.Context, conn *grpc.ClientConn) error {
		_, err := testpb.NewTestServiceClient(conn).EmptyCall(ctx, &testpb.Empty{})
		if status.Code(err) == codes.Unimplemented {
			return nil
		}

		return err
	}},
}

func unaryCall(ctx context.Context, conn *grpc.ClientConn) error {
	_, err := testpb.NewTestServiceClient(conn).UnaryCall(ctx, &testpb.SimpleRequest{})

	return err
}

// verdicts are which of calls are let through.
type verdicts [5]bool

func (v verdicts) String() string {
	text := ""
	for i, c := range calls {
		word := "refused"
		if v[i] {
			word = "allowed"
		}
		text += fmt.Sprintf("%s %s; ", c.name, word)
	}

	return text
}

// callTimeout bounds one call while a mesh changes.
const callTimeout = 10 * time.Second

// try makes all calls. An error is one that is no verdict, such as an instance that is
// not there yet.
func (w way) try(ctx context.Context) (verdicts, error) {
	var v verdicts
	for i, c := range calls {
		err := w.call(ctx, c)
		if err != nil && status.Code(err) != codes.PermissionDenied {
			return v, fmt.Errorf("%s: %w", c.name, err)
		}
		v[i] = err == nil
	}

	return v, nil
}

func (w way) call(ctx context.Context, c call) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()

	return c.make(ctx, w.conn)
}

// await waits until the calls have these verdicts.
func (w way) await(t testing.TB, want verdicts) {
	t.Helper()

	var got verdicts
	var err error
	defer func() {
		if t.Failed() {
			t.Logf("%s, last: %v, error %v", w.name, got, err)
		}
	}()
	consul.Eventually(t, w.name+": "+want.String(), func() bool {
		got, err = w.try(t.Context())

		return err == nil && got == want
	})
}

// all are verdicts that are the same for all calls.
func all(allowed bool) verdicts { return verdicts{allowed, allowed, allowed, allowed, allowed} }

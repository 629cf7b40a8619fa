package consulmesh

import (
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pillion-proxy/pillion/interop/consul"
	"github.com/pillion-proxy/pillion/interop/harness"
	"github.com/pillion-proxy/pillion/interop/load"
)

// resolveTimeout is the configuration's default, and what a busy machine takes.
const resolveTimeout = 2*time.Second + 8*time.Second

// Sidecars start before Consul does, with nothing to go on: they say so in one
// line, RPCs are told why they cannot be, and all works once Consul is there.
func TestConsulIsNotThereAtTheStart(t *testing.T) {
	t.Parallel()

	agent := consul.New(t)
	i := startInstance(t, agent, "greeter", "one", instanceOptions{})
	client := startClient(t, agent, nil)
	conns := map[string]*grpc.ClientConn{"by what it calls": load.Dial(t, client.Outbound), "by authority": dialGreeter(t, client.Outbound)}
	for how, conn := range conns {
		isToldWhy(t, how, conn)
	}
	for name, sidecar := range map[string]*harness.Sidecar{"the app's": i.sidecar, "the client's": client} {
		awaitLine(t, sidecar, "consul: no answer from the agent at http://"+agent.Address)
		if lines := warnings(sidecar); len(lines) != 1 {
			t.Errorf("%s sidecar warned %d times, want one line:\n%s", name, len(lines), strings.Join(lines, "\n"))
		}
	}

	agent.Start(t)
	began := time.Now()
	i.awaitHealth(t, agent, api.HealthPassing)
	t.Logf("registered, and passing, %v after Consul was there", time.Since(began).Round(time.Millisecond))
	for how, conn := range conns {
		consul.Eventually(t, "RPCs end well "+how, func() bool {
			_, err := load.Who(t.Context(), conn)

			return err == nil
		})
		t.Logf("%s, RPCs end well %v after Consul was there", how, time.Since(began).Round(time.Millisecond))
		l := load.Start(t, conn, usualLoad)
		l.More(t, time.Second)
		l.End(t)
	}
}

// An agent that takes connections and never answers is as good as none: RPCs are
// not held for longer.
func TestConsulNeverAnswers(t *testing.T) {
	t.Parallel()

	// The kernel accepts for it.
	silent := harness.Listen(t)
	for how, dialled := range map[string]func(testing.TB, string) *grpc.ClientConn{
		"by authority":     dialGreeter,
		"by what it calls": func(t testing.TB, address string) *grpc.ClientConn { t.Helper(); return load.Dial(t, address) },
	} {
		// Each the first RPC of its sidecar.
		client := harness.StartSidecar(t, harness.Config{
			Outbound: true, Settings: map[string]any{"registry": consulRegistry(silent.Addr().String(), nil)},
		})
		isToldWhy(t, how, dialled(t, client.Outbound))
	}
}

// isToldWhy makes an RPC that cannot be routed because the registry says nothing.
func isToldWhy(t *testing.T, how string, conn *grpc.ClientConn) {
	t.Helper()

	began := time.Now()
	_, err := load.Who(t.Context(), conn)
	took := time.Since(began)
	t.Logf("%s, after %v: %v", how, took.Round(time.Millisecond), err)
	message := status.Convert(err).Message()
	if status.Code(err) != codes.Unavailable || !strings.Contains(message, "registry") || strings.Contains(message, "\n") {
		t.Errorf("%s, an RPC ended with %v, want UNAVAILABLE and what is wrong", how, err)
	}
	if took > resolveTimeout {
		t.Errorf("%s, an RPC waited for %v", how, took)
	}
}

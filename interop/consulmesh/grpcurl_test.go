package consulmesh

import (
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/consul/api"

	"github.com/pillion-proxy/pillion/interop/consul"
	"github.com/pillion-proxy/pillion/interop/harness"
	"github.com/pillion-proxy/pillion/interop/load"
)

// grpcurl at the sidecar sees the gRPC services of two Consul services, and
// calls each by its name.
func TestGrpcurlAcrossTheMesh(t *testing.T) {
	t.Parallel()

	tool := harness.Tool(t, "grpcurl")
	agent := consul.Start(t)
	shop := startInstance(t, agent, "shop", "shop", instanceOptions{})
	mill := startInstance(t, agent, "mill", "mill", instanceOptions{answers: benchmarkService})
	for service, i := range map[string]*instance{testService: shop, benchmarkService: mill} {
		i.awaitHealth(t, agent, api.HealthPassing)
		awaitAnswer(t, agent, i.service, service)
	}

	client := startClient(t, agent, nil)
	l := load.Start(t, load.Dial(t, client.Outbound), usualLoad)
	grpcurl := func(args ...string) string {
		t.Helper()

		code, output := harness.Run(t, harness.Command{Path: tool, Args: append([]string{"-plaintext"}, args...)})
		if code != 0 {
			t.Fatalf("grpcurl %q: exit %d\n%s", args, code, output)
		}

		return output
	}

	if listed := strings.Fields(grpcurl(client.Outbound, "list")); !slices.Contains(listed, testService) || !slices.Contains(listed, benchmarkService) {
		t.Errorf("list: got %q", listed)
	}
	if listed := strings.Fields(grpcurl("-authority", "mill", client.Outbound, "list")); slices.Contains(listed, testService) || !slices.Contains(listed, benchmarkService) {
		t.Errorf("list with authority mill: got %q", listed)
	}
	for name, service := range map[string]string{testService: "shop", benchmarkService: "mill"} {
		if described := grpcurl(client.Outbound, "describe", name+".UnaryCall"); !strings.Contains(described, "rpc UnaryCall ( .grpc.testing.SimpleRequest )") {
			t.Errorf("describe %s: got %q", name, described)
		}
		if answer := grpcurl(client.Outbound, name+"/UnaryCall"); !strings.Contains(answer, `"`+service+`"`) {
			t.Errorf("call %s: got %q", name, answer)
		}
		if answer := grpcurl("-authority", service, client.Outbound, name+"/UnaryCall"); !strings.Contains(answer, `"`+service+`"`) {
			t.Errorf("call %s with authority %s: got %q", name, service, answer)
		}
	}
	l.End(t)
}

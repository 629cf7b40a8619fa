package consulmesh

import (
	"net"
	"strconv"
	"testing"

	"github.com/hashicorp/consul/api"

	"github.com/pillion-proxy/pillion/interop/consul"
)

// awaitAnswer waits until the catalogue says that a service answers a gRPC
// service, and nothing else.
func awaitAnswer(t testing.TB, agent *consul.Agent, service, grpcService string) {
	t.Helper()

	consul.Eventually(t, service+" says that it answers "+grpcService, func() bool {
		entries, _, err := agent.Client.Catalog().Service(service, "", nil)

		return err == nil && len(entries) > 0 && entries[0].ServiceMeta["grpc-services"] == grpcService
	})
}

// registered is what an agent has registered under an id, nil for nothing.
func registered(t testing.TB, agent *consul.Agent, id string) *api.AgentService {
	t.Helper()

	services, err := agent.Client.Agent().Services()
	if err != nil {
		t.Fatal(err)
	}

	return services[id]
}

// addressOf is where a service is registered. The agents of these tests are on
// loopback.
func addressOf(service *api.AgentService) string {
	host := service.Address
	if host == "" {
		host = "127.0.0.1"
	}

	return net.JoinHostPort(host, strconv.Itoa(service.Port))
}

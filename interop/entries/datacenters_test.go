package entries

import (
	"fmt"
	"testing"

	"github.com/hashicorp/consul/api"
	"google.golang.org/grpc"

	"github.com/pillion-proxy/pillion/interop/consul"
	"github.com/pillion-proxy/pillion/interop/harness"
)

// RPCs fail over to another datacentre, which is another Consul, and come back.
func TestFailoverToAnotherDatacentre(t *testing.T) {
	datacenter := func(name, node string, wan int) consul.Option {
		return func(config map[string]any) {
			config["datacenter"], config["primary_datacenter"], config["node_name"] = name, "dc1", node
			config["connect"] = map[string]any{"enabled": true}
			config["ports"].(map[string]int)["serf_wan"] = wan
		}
	}
	wan := harness.FreePort(t)
	m := startMesh(t, datacenter("dc1", "node1", wan))
	far := consul.Start(t, datacenter("dc2", "node2", harness.FreePort(t)))
	if err := far.Client.Agent().Join(fmt.Sprintf("127.0.0.1:%d", wan), true); err != nil {
		t.Fatal(err)
	}
	for _, agent := range []*consul.Agent{m.agent, far} {
		consul.Eventually(t, "both datacentres know of each other, and trust the same CA", func() bool {
			known, err := agent.Client.Catalog().Datacenters()
			if err != nil || len(known) != 2 {
				return false
			}
			_, _, err = agent.Client.Agent().ConnectCALeaf("store", nil)
			return err == nil
		})
	}
	there := startInstance(t, "there", far.Client)
	m.register(t, "store", v1, api.HealthPassing, m.apps[v1].port(t))
	register(t, far, "store", "there", api.HealthPassing, there.port(t))
	m.write(t, resolver("store", func(r *api.ServiceResolverConfigEntry) {
		r.Failover = map[string]api.ServiceResolverFailover{"*": {Datacenters: []string{"dc2"}}}
	}))
	m.call(t, []string{"store"})

	goes := func(want string) {
		t.Helper()
		for name, conn := range map[string]*grpc.ClientConn{"Envoy": m.envoy["store"], "Pillion": m.pillion["store"]} {
			last := ""
			consul.Eventually(t, name+" goes to "+want, func() bool {
				said, _, err := call(t.Context(), conn, hello, nil)
				if last = said.Service + "/" + said.Instance; err != nil {
					last = err.Error()
				}
				return last == want
			})
		}
	}
	stand := func(status string) {
		t.Helper()
		if err := m.agent.Client.Agent().UpdateTTL("service:store-"+v1, "", status); err != nil {
			t.Fatal(err)
		}
	}
	goes("store/" + v1)
	stand(api.HealthCritical)
	goes("store/there")
	stand(api.HealthPassing)
	goes("store/" + v1)
}

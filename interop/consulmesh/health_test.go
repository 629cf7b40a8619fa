package consulmesh

import (
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pillion-proxy/pillion/interop/consul"
	"github.com/pillion-proxy/pillion/interop/load"
)

// Traffic leaves an instance whose health is NOT_SERVING, and returns when it is
// well again.
func TestTrafficFollowsHealth(t *testing.T) {
	t.Parallel()

	agent := consul.Start(t)
	sick := startInstance(t, agent, "greeter", "sick", instanceOptions{})
	well := startInstance(t, agent, "greeter", "well", instanceOptions{})
	for _, i := range []*instance{sick, well} {
		i.awaitHealth(t, agent, api.HealthPassing)
	}

	conn := dialGreeter(t, startClient(t, agent, nil).Outbound)
	l := load.Start(t, conn, usualLoad)
	sick.takesTraffic(t)
	well.takesTraffic(t)

	sick.app.serving(false)
	critical := sick.awaitHealth(t, agent, api.HealthCritical)
	within(t, "traffic leaves an instance that is critical", critical, sick.fallsSilent(t))

	sick.app.serving(true)
	passing := sick.awaitHealth(t, agent, api.HealthPassing)
	sick.takesTraffic(t)
	within(t, "traffic returns to an instance that passes again", passing, time.Now())

	// An operator takes it out for a while.
	if err := agent.Client.Agent().EnableServiceMaintenance(sick.id(t), "a test"); err != nil {
		t.Fatal(err)
	}
	maintained := sick.awaitHealth(t, agent, api.HealthMaint)
	within(t, "traffic leaves an instance under maintenance", maintained, sick.fallsSilent(t))
	if err := agent.Client.Agent().DisableServiceMaintenance(sick.id(t)); err != nil {
		t.Fatal(err)
	}
	passing = sick.awaitHealth(t, agent, api.HealthPassing)
	sick.takesTraffic(t)
	within(t, "traffic returns to an instance after maintenance", passing, time.Now())
	l.End(t)

	// With nobody left who is well, a caller is told so.
	sick.app.serving(false)
	well.app.serving(false)
	well.awaitHealth(t, agent, api.HealthCritical)
	var err error
	consul.Eventually(t, "an RPC is refused", func() bool {
		_, err = load.Who(t.Context(), conn)

		return err != nil
	})
	t.Logf("with no healthy instance: %v", err)
	if status.Code(err) != codes.Unavailable || !strings.Contains(status.Convert(err).Message(), `service "greeter" has no healthy instance`) {
		t.Errorf("with no healthy instance: %v", err)
	}

	well.app.serving(true)
	passing = well.awaitHealth(t, agent, api.HealthPassing)
	consul.Eventually(t, "RPCs end well again", func() bool {
		_, err = load.Who(t.Context(), conn)

		return err == nil
	})
	within(t, "RPCs end well when somebody passes again", passing, time.Now())
}

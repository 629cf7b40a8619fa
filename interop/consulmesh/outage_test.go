package consulmesh

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"google.golang.org/grpc"

	"github.com/pillion-proxy/pillion/interop/consul"
	"github.com/pillion-proxy/pillion/interop/harness"
	"github.com/pillion-proxy/pillion/interop/load"
)

// The agent is killed and comes back with its data, while RPCs run. Meanwhile
// what was known goes on to serve, and is shown to be stale; an instance dies,
// and a sidecar is restarted, with nothing to go on but its disk.
func TestConsulIsAwayForAWhile(t *testing.T) {
	t.Parallel()

	agent := consul.Start(t)
	staying := startInstance(t, agent, "greeter", "staying", instanceOptions{})
	dying := startInstance(t, agent, "greeter", "dying", instanceOptions{})
	for _, i := range []*instance{staying, dying} {
		i.awaitHealth(t, agent, api.HealthPassing)
	}
	awaitAnswer(t, agent, "greeter", testService)

	client := startClient(t, agent, nil)
	l := load.Start(t, dialGreeter(t, client.Outbound), usualLoad)
	staying.takesTraffic(t)
	dying.takesTraffic(t)

	// A sidecar that keeps what it learns, beside a client that knows no names.
	kept := map[string]any{"cache_dir": t.TempDir()}
	restarted := startClient(t, agent, kept)
	if _, err := load.Who(t.Context(), load.Dial(t, restarted.Outbound)); err != nil {
		t.Fatalf("before Consul goes away: %v", err)
	}
	restarted.Signal(t, syscall.SIGTERM)
	restarted.Wait(t)

	killed := time.Now()
	agent.Kill()
	consul.Eventually(t, "the endpoints are shown as stale", func() bool { return knows(t, client, "greeter").Stale })
	t.Logf("shown as stale %v after the agent was killed", time.Since(killed).Round(time.Millisecond))
	if shown := knows(t, client, "greeter"); len(shown.Instances) != 2 {
		t.Errorf("stale, it knows %+v", shown)
	}
	began := sourceOf(t, client).FailingSince
	if shown := sourceOf(t, client); !strings.Contains(shown.Error, agent.Address) || strings.Contains(shown.Error, "\n") || shown.FailingSince.Before(killed) {
		t.Errorf("/config shows the source as %+v", shown)
	}
	awaitLine(t, client, "consul: no answer from the agent at http://"+agent.Address)
	l.More(t, time.Second)
	l.Check(t, "the agent is gone")

	// The sidecar comes back while the agent is away.
	restarted = harness.StartSidecar(t, harness.Config{
		Outbound: true, OutboundListen: restarted.Outbound,
		Settings: map[string]any{"registry": consulRegistry(agent.Address, kept)},
	})
	for _, authority := range []string{"", "greeter"} {
		var options []grpc.DialOption
		if authority != "" {
			options = append(options, grpc.WithAuthority(authority))
		}
		began := time.Now()
		if _, err := load.Who(t.Context(), load.Dial(t, restarted.Outbound, options...)); err != nil {
			t.Errorf("a sidecar that was restarted while the agent is away, authority %q: %v", authority, err)
		}
		t.Logf("a restarted sidecar's first RPC, authority %q, from its disk, took %v", authority, time.Since(began).Round(time.Millisecond))
	}
	if shown := knows(t, restarted, "greeter"); shown == nil || !shown.Stale {
		t.Errorf("a restarted sidecar knows %+v, want it stale", shown)
	}

	// An instance goes, with no Consul to tell.
	dying.sidecar.Signal(t, syscall.SIGTERM)
	dying.sidecar.Wait(t)
	dying.app.stop()
	l.More(t, time.Second)
	l.Check(t, "an instance goes while the agent is gone")

	if since := sourceOf(t, client).FailingSince; !since.Equal(began) {
		t.Errorf("/config says that it began at %v, and later that at %v", began, since)
	}

	agent.Start(t)
	back := time.Now()
	consul.Eventually(t, "the endpoints are fresh again", func() bool { return !knows(t, client, "greeter").Stale })
	t.Logf("fresh again %v after the agent was back", time.Since(back).Round(time.Millisecond))
	consul.Eventually(t, "the source is well", func() bool { return sourceOf(t, client).Error == "" })
	awaitLine(t, client, "consul: over: no answer from the agent")
	l.Check(t, "the agent is back")

	// What stands there of the instance that went is critical by and by.
	dying.awaitHealth(t, agent, api.HealthCritical)
	staying.awaitHealth(t, agent, api.HealthPassing)
	coming := startInstance(t, agent, "greeter", "coming", instanceOptions{})
	passing := coming.awaitHealth(t, agent, api.HealthPassing)
	coming.takesTraffic(t)
	within(t, "after the outage, a new instance takes traffic", passing, time.Now())
	if _, err := load.Who(t.Context(), load.Dial(t, restarted.Outbound)); err != nil {
		t.Errorf("after the outage, by what it calls: %v", err)
	}
	l.End(t)
	if lines := warnings(client); len(lines) > 3 {
		t.Errorf("the client's sidecar warned %d times:\n%s", len(lines), strings.Join(lines, "\n"))
	}
}

// An agent loses what it knew, as one in development mode does at each restart.
// The only instance keeps its place until it is registered again, and passes.
func TestConsulComesBackWithNothing(t *testing.T) {
	t.Parallel()

	data := filepath.Join(t.TempDir(), "data")
	agent := consul.Start(t, func(config map[string]any) { config["data_dir"] = data })
	// It is critical at first, for up to as long as its check waits.
	i := startInstance(t, agent, "greeter", "one", instanceOptions{service: map[string]any{"health_check": map[string]any{"interval": "5s"}}})
	i.awaitHealth(t, agent, api.HealthPassing)
	awaitAnswer(t, agent, "greeter", testService)
	client := startClient(t, agent, nil)
	loads := startBothLoads(t, client.Outbound)
	loads.more(t, time.Second)

	agent.Kill()
	if err := os.RemoveAll(data); err != nil {
		t.Fatal(err)
	}
	// Who tries to register again waits a while between its attempts by then.
	loads.more(t, 8*time.Second)
	agent.Start(t)
	back := time.Now()
	i.awaitHealth(t, agent, api.HealthPassing)
	t.Logf("registered again, and passing, %v after the agent was back", time.Since(back).Round(time.Millisecond))
	awaitAnswer(t, agent, "greeter", testService)
	loads.more(t, 2*time.Second)
	loads.end(t)
	consul.Eventually(t, "the endpoints are fresh again", func() bool { return !knows(t, client, "greeter").Stale })
}

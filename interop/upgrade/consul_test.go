package upgrade

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"google.golang.org/grpc"

	"github.com/pillion-proxy/pillion/cmd/pillion/handover"
	"github.com/pillion-proxy/pillion/interop/consul"
	"github.com/pillion-proxy/pillion/interop/harness"
	"github.com/pillion-proxy/pillion/interop/load"
)

// registered has the sidecar register an app at an agent, and says so in its meta.
func registered(agent *consul.Agent, version string) map[string]any {
	return map[string]any{
		"registry": map[string]any{"consul": map[string]any{"address": agent.Address}},
		"drain":    map[string]any{"timeout": "60s"},
		"service": map[string]any{
			"name": "app", "meta": map[string]any{"version": version}, "grpc": []string{"grpc.testing.TestService"},
			// The app has no health service: Consul must not find out.
			"health_check": map[string]any{"disabled": true},
		},
	}
}

// withApp is options of a sidecar beside an app in Consul.
func withApp(agent *consul.Agent, app *load.App, version, inbound string) options {
	settings := registered(agent, version)
	settings["service"].(map[string]any)["address"] = app.Address

	return options{service: "app", app: app.Address, inbound: inbound, settings: settings}
}

// watchConsul looks at what Consul has of the app again and again, until the
// returned function is called. It has to be so many instances of the app, and as many
// sidecars, at all times, and with well all have to pass.
func watchConsul(t *testing.T, agent *consul.Agent, count int, well bool) (stop func()) {
	t.Helper()

	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for looks := 0; ; looks++ {
			for _, name := range []string{"app", "app-sidecar-proxy"} {
				entries, _, err := agent.Client.Health().Service(name, "", false, (&api.QueryOptions{}).WithContext(ctx))
				if ctx.Err() != nil {
					t.Logf("Consul was looked at %d times", looks)

					return
				}
				if err != nil || len(entries) != count || well && strings.Contains(describe(entries), api.HealthCritical) {
					t.Errorf("Consul has %d of %s, error %v: %s", len(entries), name, err, describe(entries))

					return
				}
			}
			<-tick.C
		}
	}()

	return func() {
		cancel()
		<-done
	}
}

func describe(entries []*api.ServiceEntry) (text string) {
	for _, entry := range entries {
		text += fmt.Sprintf("%s %s; ", entry.Service.ID, entry.Checks.AggregatedStatus())
	}

	return text
}

// inConsul is what Consul has in the app's meta, and where its sidecar listens.
func inConsul(t *testing.T, agent *consul.Agent) (version string, port int) {
	t.Helper()

	for name, read := range map[string]func(*api.AgentService){
		"app":               func(s *api.AgentService) { version = s.Meta["version"] },
		"app-sidecar-proxy": func(s *api.AgentService) { port = s.Port },
	} {
		entries, _, err := agent.Client.Health().Service(name, "", false, nil)
		if err != nil || len(entries) != 1 {
			t.Fatalf("Consul has %d of %s: %v", len(entries), name, err)
		}
		read(entries[0].Service)
	}

	return version, port
}

// An upgrade neither doubles the registration nor drops it, not for a moment; what
// the new configuration says of the app is in Consul then, and the port, which the
// system had chosen, is the same.
func TestTheRegistrationPassesOn(t *testing.T) {
	t.Parallel()

	agent := consul.Start(t)
	app := load.StartApp(t, "app", "")
	o := withApp(agent, app, "v1", "127.0.0.1:0")
	behind := start(t, o)
	o.admin = behind.Admin
	consul.Eventually(t, "the app is in Consul", func() bool {
		entries, _, err := agent.Client.Health().Service("app-sidecar-proxy", "", true, nil)

		return err == nil && len(entries) == 1
	})
	_, port := inConsul(t, agent)
	before := start(t, options{outbound: harness.FreeAddress(t), settings: map[string]any{
		"registry": map[string]any{"consul": map[string]any{"address": agent.Address}},
	}})
	conn := load.Dial(t, before.Outbound, grpc.WithAuthority("app"))
	l := load.Start(t, conn, load.Options{PerSecond: 100, StreamEvery: 5, AtOnce: 40, MayBeSlow: true})
	l.More(t, 300*time.Millisecond)
	long := openStream(t, conn)

	stop := watchConsul(t, agent, 1, true)
	for _, version := range []string{"v2", "v3"} {
		next := withApp(agent, app, version, "127.0.0.1:0")
		next.admin = behind.Admin
		behind.configure(t, bootstrap(t, next))
		drains := behind.upgrade(t)
		consul.Eventually(t, "what the new process says is in Consul", func() bool {
			said, now := inConsul(t, agent)
			if now != port {
				t.Fatalf("the inbound port was %d and is %d", port, now)
			}

			return said == version
		})
		l.More(t, 300*time.Millisecond)
		long.roundTrip(t, "after an upgrade")
		switch {
		case version == "v3":
			eventually(t, "the second process ends: the stream is in the first", func() bool { return gone(drains) })
		case gone(drains):
			t.Error("the first process is gone while a stream is under way in it")
		}
	}
	behind.script(t, "exit 1")
	behind.signal(t, syscall.SIGHUP)
	behind.Await(t, "the upgrade failed")

	// Without an agent, the new process knows what the old one knew.
	stop()
	agent.Kill()
	before.upgrade(t)
	if _, err := load.Who(t.Context(), load.Dial(t, before.Outbound, grpc.WithAuthority("app"))); err != nil {
		t.Errorf("Consul is away, and the sidecar was replaced: %v", err)
	}
	l.More(t, 300*time.Millisecond)
	long.finish(t)
	l.End(t)
}

// The new process serves before it registers: as long as the old one may still be
// connected to, Consul must not say of it what is true of the new one alone, such as that
// it speaks TLS.
func TestTheRegistrationComesLast(t *testing.T) {
	t.Parallel()

	agent := consul.Start(t)
	app := load.StartApp(t, "app", "")
	listener := harness.Listen(t)
	s := prepare(t, withApp(agent, app, "v2", listener.Addr().String()))
	said := filepath.Join(t.TempDir(), "log")
	s.script(t, `exec `+harness.Pillion(t)+` "$@" >`+said+` 2>&1`)
	t.Cleanup(func() {
		if text, _ := os.ReadFile(said); t.Failed() {
			t.Logf("the new process said:\n%s", text)
		}
	})
	registrations := func() (count int) {
		for _, name := range []string{"app", "app-sidecar-proxy"} {
			entries, _, err := agent.Client.Health().Service(name, "", false, nil)
			if err != nil {
				t.Fatal(err)
			}
			count += len(entries)
		}

		return count
	}

	// The test is the old process, which accepts nothing any more.
	successor, err := handover.Start(handover.Command{Path: s.program, Args: []string{s.program, "run", "-c", s.config}},
		handover.Estate{Sockets: []handover.Socket{{Name: "inbound", Listen: listener.Addr().String(), Listener: listener}}})
	if err != nil {
		t.Fatal(err)
	}
	defer successor.Kill()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := successor.AwaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	if err := successor.Begin(ctx); err != nil {
		t.Fatal(err)
	}
	conn := load.Dial(t, listener.Addr().String())
	// The new process waits for 30 s at most.
	for began := time.Now(); time.Since(began) < time.Second; {
		if _, err := load.Who(t.Context(), conn); err != nil {
			t.Fatalf("the new process has begun: %v", err)
		}
		if count := registrations(); count > 0 {
			t.Fatalf("%d registrations, and the old process has not said yet that it accepts nothing any more", count)
		}
	}
	successor.Leave()
	consul.Eventually(t, "the new process registers", func() bool { return registrations() == 2 })
	if err := syscall.Kill(successor.PID(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new process ends", func() bool { return gone(successor.PID()) })
	if count := registrations(); count != 0 {
		t.Errorf("%d registrations after its end", count)
	}
}

// SIGTERM while an upgrade is half done, when the registration is let go of and nobody
// serves in this process's place yet: the app leaves Consul all the same.
func TestTheRegistrationEndsWithAnUpgradeHalfDone(t *testing.T) {
	t.Parallel()

	agent := consul.Start(t)
	app := load.StartApp(t, "app", "")
	s := start(t, withApp(agent, app, "v1", harness.FreeAddress(t)))
	has := func(count int) func() bool {
		return func() bool {
			for _, name := range []string{"app", "app-sidecar-proxy"} {
				entries, _, err := agent.Client.Health().Service(name, "", false, nil)
				if err != nil || len(entries) != count {
					return false
				}
			}

			return true
		}
	}
	consul.Eventually(t, "the app is in Consul", has(1))

	begin := filepath.Join(t.TempDir(), "begin")
	s.script(t, `dd bs=65536 count=1 <&3 >/dev/null 2>&1; printf '{"say":"ready"}' >&3
dd bs=65536 count=1 <&3 >`+begin+` 2>/dev/null; exec sleep 100`)
	s.signal(t, syscall.SIGHUP)
	eventually(t, "the new process is told to begin", func() bool {
		said, _ := os.ReadFile(begin)

		return len(said) > 0
	})
	if !has(1)() {
		t.Error("the app is not in Consul during an upgrade")
	}
	s.signal(t, syscall.SIGTERM)
	eventually(t, "SIGTERM ends the process", func() bool { return gone(s.pid) })
	if !has(0)() { // Consul's index of one agent is up to date at once
		t.Error("the app is in Consul after its sidecar's end")
	}
	s.Await(t, "the upgrade was given up, because this process is to end")
}

// Kill -9 under load, of the sidecar beside the client and of one beside an app, each
// restarted at once: nobody is told anything but those in flight at that moment, and
// Consul has each of them once all the time.
func TestAKilledSidecar(t *testing.T) {
	t.Parallel()

	agent := consul.Start(t)
	app, other := load.StartApp(t, "app", ""), load.StartApp(t, "other", "")
	o := withApp(agent, app, "v1", harness.FreeAddress(t))
	behind := start(t, o)
	start(t, withApp(agent, other, "v1", harness.FreeAddress(t)))
	client := options{outbound: harness.FreeAddress(t), settings: map[string]any{
		"registry": map[string]any{"consul": map[string]any{
			"address": agent.Address, "cache_dir": filepath.Join(t.TempDir(), "cache"),
		}},
	}}
	before := start(t, client)
	conn := load.Dial(t, before.Outbound, grpc.WithAuthority("app"))
	takesTraffic := func(a *load.App) {
		t.Helper()

		calls := a.Calls()
		consul.Eventually(t, a.Name+" takes traffic", func() bool {
			_, err := load.Who(t.Context(), conn)

			return err == nil && a.Calls() > calls
		})
	}
	takesTraffic(app)
	takesTraffic(other)
	stop := watchConsul(t, agent, 2, false)

	// The client's: connections are refused until it is back, which is what gRPC's
	// wait-for-ready is for.
	a := startAttempts(t, conn, true)
	killed := a.during(t, func() { before.kill(t) })
	before.run(t, client)
	a.more(t, 20)
	a.judge(t, "the client's sidecar was killed", killed)

	// The app's: what was not sent there yet goes to the other one.
	a = startAttempts(t, conn, false)
	killed = a.during(t, func() { behind.kill(t) })
	a.more(t, 20)
	behind.run(t, o)
	behind.AwaitReady(t)
	takesTraffic(app)
	a.judge(t, "the app's sidecar was killed", killed)
	stop()

	// With no Consul to ask, the last that was known is used at once.
	agent.Kill()
	before.kill(t)
	before.run(t, client)
	before.AwaitReady(t)
	began := time.Now()
	if _, err := load.Who(t.Context(), load.Dial(t, before.Outbound, grpc.WithAuthority("app"))); err != nil {
		t.Errorf("restarted while Consul is away: %v", err)
	}
	t.Logf("the first RPC after a restart while Consul is away took %v", time.Since(began).Round(time.Millisecond))
}

package upgrade

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/interop/harness"
	"github.com/pillion-proxy/pillion/interop/load"
)

// mesh is a registry whose one service has one instance.
func mesh(t testing.TB, instance string) map[string]any {
	t.Helper()

	services := map[string]harness.Service{"app": {Endpoints: harness.Endpoints(instance)}}

	return map[string]any{"file": map[string]any{"path": harness.NewMesh(t, services).Path}}
}

// Both sidecars of an RPC's way are replaced under load, again and again, the next
// one while the last one still drains. No RPC fails, whether it is short or spans
// all of that, and the old processes end by themselves.
func TestNoRPCFails(t *testing.T) {
	t.Parallel()

	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			listen := func() string { return harness.FreeAddress(t) }
			if network == "unix" {
				folder, count := harness.SocketFolder(t), 0
				listen = func() string {
					count++

					return fmt.Sprintf("unix://%s/%d", folder, count)
				}
			}
			noRPCFails(t, listen)
		})
	}
}

func noRPCFails(t *testing.T, listen func() string) {
	t.Helper()

	app := load.StartApp(t, "app", "")
	accessLog := filepath.Join(t.TempDir(), "access.json")
	settings := func(further map[string]any) map[string]any {
		further["drain"] = map[string]any{"timeout": "60s"}

		return further
	}
	behind := start(t, options{
		service: "app", app: app.Address, inbound: listen(),
		settings: settings(map[string]any{"access_log": map[string]any{"path": accessLog}}),
	})
	before := start(t, options{outbound: listen(), settings: settings(map[string]any{"registry": mesh(t, behind.Inbound)})})
	services := map[string]*service{"the client's": before, "the app's": behind}

	var stops []func()
	for _, s := range services {
		stops = append(stops, watchAdmin(t, s))
	}
	conn := load.Dial(t, before.Outbound)
	l := load.Start(t, conn, load.Options{PerSecond: 100, StreamEvery: 5, AtOnce: 40, MayBeSlow: true})
	l.More(t, 500*time.Millisecond)
	long := []longStream{openStream(t, conn)}

	next := nextVersion(t)
	var drains []int
	for _, program := range []string{next, harness.Pillion(t)} {
		for whose, s := range services {
			s.install(t, program)
			drains = append(drains, s.upgrade(t))
			if !s.runs(t, program) {
				t.Errorf("%s sidecar does not run the program that was installed", whose)
			}
			l.More(t, 300*time.Millisecond)
			l.Check(t, whose+" sidecar was replaced")
			for _, stream := range long {
				stream.roundTrip(t, whose+" sidecar was replaced")
			}
			long = append(long, openStream(t, conn))
		}
	}
	for _, pid := range drains[:2] { // of the first round: the first stream is in both
		if gone(pid) {
			t.Errorf("process %d has gone while a stream is under way in it", pid)
		}
	}
	for _, stream := range long {
		stream.roundTrip(t, "in the end")
		stream.finish(t)
	}
	for _, pid := range drains {
		eventually(t, fmt.Sprintf("process %d ends when its last stream has", pid), func() bool { return gone(pid) })
	}
	result := l.End(t)
	for _, stop := range stops {
		stop()
	}

	// What ends at the end removes its sockets, and nobody before; and it has
	// written all lines of the access log, together with those before it.
	for whose, s := range services {
		s.signal(t, syscall.SIGTERM)
		eventually(t, whose+" sidecar ends", func() bool { return gone(s.pid) })
		for _, address := range []string{s.Outbound, s.Inbound} {
			path, isSocket := strings.CutPrefix(address, "unix://")
			if _, err := os.Lstat(path); isSocket && err == nil {
				t.Errorf("%s sidecar has left %s behind", whose, path)
			}
		}
		if said := s.Output(); strings.Contains(said, "cut off") || strings.Contains(said, `"level":"ERROR"`) {
			t.Errorf("%s sidecar said:\n%s", whose, said)
		}
	}
	logged, err := os.ReadFile(accessLog)
	if err != nil {
		t.Fatal(err)
	}
	if lines, rpcs := strings.Count(string(logged), "\n"), result.OK+len(long); lines != rpcs {
		t.Errorf("%d RPCs were made, and %d lines are in the access log", rpcs, lines)
	}
}

// Whatever goes wrong with the new process, the old one goes on as if nothing had
// been, and says so in one line. A good upgrade can follow.
func TestAFailedUpgradeChangesNothing(t *testing.T) {
	t.Parallel()

	app := load.StartApp(t, "app", "")
	taken := harness.Listen(t).Addr().String()
	for name, failure := range map[string]struct {
		spoil func(s *service, config map[string]any)
		says  string
	}{
		"bad configuration": {func(s *service, config map[string]any) {
			config["outbuond"] = map[string]any{}
			s.configure(t, config)
		}, `pillion.yaml.*outbuond`},
		"an address that is taken": {func(s *service, config map[string]any) {
			config["outbound"] = map[string]any{"listen": taken}
			s.configure(t, config)
		}, `already in use`},
		"it ends":           {func(s *service, _ map[string]any) { s.script(t, "exit 7") }, `ended with exit status 7`},
		"it crashes":        {func(s *service, _ map[string]any) { s.script(t, "kill -SEGV $$") }, `ended with signal: segmentation fault`},
		"it is never ready": {func(s *service, _ map[string]any) { s.script(t, "exec sleep 100") }, `not ready in time: upgrade.timeout is 1s`},
		"it is no program":  {func(s *service, _ map[string]any) { s.install(t, app.Address) }, `cannot be started`},
		"it is another pillion": {func(s *service, _ map[string]any) {
			s.script(t, `unset PILLION_HANDOVER; exec `+harness.Pillion(t)+` "$@"`)
		}, `ended with exit status 1`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			timeout := "60s"
			if strings.Contains(failure.says, "in time") {
				timeout = "1s"
			}
			o := options{
				outbound: "unix://" + filepath.Join(harness.SocketFolder(t), "outbound"), service: "app", app: app.Address,
				inbound:  harness.FreeAddress(t),
				settings: map[string]any{"registry": mesh(t, app.Address), "upgrade": map[string]any{"timeout": timeout}},
			}
			s := start(t, o)
			o.admin = s.Admin
			conn := load.Dial(t, s.Outbound)
			long := openStream(t, conn)
			l := load.Start(t, conn, load.Options{PerSecond: 50, AtOnce: 20, MayBeSlow: true})

			failure.spoil(s, bootstrap(t, o))
			s.signal(t, syscall.SIGHUP)
			s.Await(t, `"level":"ERROR","msg":"the upgrade failed, this process goes on as before: .*`+failure.says)
			l.More(t, 300*time.Millisecond)
			long.roundTrip(t, "after a failed upgrade")
			if _, err := load.Who(t.Context(), load.Dial(t, s.Outbound)); err != nil {
				t.Errorf("a new client: %v", err)
			}
			s.AwaitReady(t)
			if count := s.lines(`"level":"ERROR"`); count != 1 {
				t.Errorf("%d lines of errors", count)
			}

			if timeout == "1s" {
				l.End(t)
				long.finish(t)

				return // a second may be too short for a good one
			}
			s.install(t, nextVersion(t))
			s.configure(t, bootstrap(t, o))
			s.signal(t, syscall.SIGHUP)
			eventually(t, "the upgrade that is good", func() bool { return len(s.upgrades()) == 1 })
			l.More(t, 300*time.Millisecond)
			long.roundTrip(t, "after the upgrade that is good")
			long.finish(t)
			l.End(t)
		})
	}
}

// SIGHUP means nothing while an upgrade is under way, nor after it; SIGTERM ends
// the process also then, and what it has started.
func TestSignalsDuringAnUpgrade(t *testing.T) {
	t.Parallel()

	app := load.StartApp(t, "app", "")
	s := start(t, options{outbound: harness.FreeAddress(t), settings: map[string]any{
		"registry": mesh(t, app.Address), "drain": map[string]any{"timeout": "60s"},
	}})
	conn := load.Dial(t, s.Outbound)
	long := openStream(t, conn)

	first := s.upgrade(t)
	if err := syscall.Kill(first, syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	s.Await(t, "SIGHUP does nothing: another process has taken over from this one")

	pids := filepath.Join(t.TempDir(), "pid")
	s.script(t, "echo $$ > "+pids+"; exec sleep 100")
	s.signal(t, syscall.SIGHUP)
	var started string
	eventually(t, "the new process starts", func() bool {
		text, _ := os.ReadFile(pids)
		started = strings.TrimSpace(string(text))

		return started != ""
	})
	s.signal(t, syscall.SIGHUP)
	s.Await(t, "SIGHUP does nothing: an upgrade is under way")
	long.roundTrip(t, "during an upgrade")

	s.signal(t, syscall.SIGTERM)
	eventually(t, "SIGTERM ends the process", func() bool { return gone(s.pid) })
	var successor int
	if _, err := fmt.Sscan(started, &successor); err != nil {
		t.Fatal(err)
	}
	eventually(t, "SIGTERM ends what it has started", func() bool { return gone(successor) })
	// The one before drains on.
	long.roundTrip(t, "after the end of the process that has taken over")
	long.finish(t)
	eventually(t, "the first process ends with its last stream", func() bool { return gone(first) })
}

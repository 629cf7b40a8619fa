package abuse

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/interop/abuse/attack"
	"github.com/pillion-proxy/pillion/interop/harness"
	"github.com/pillion-proxy/pillion/interop/load"
)

// open makes connections that greet and stay, and returns them.
func open(t *testing.T, address string, count int) []net.Conn {
	t.Helper()

	conns := make([]net.Conn, count)
	for i := range conns {
		conn, err := net.DialTimeout("tcp", address, patience)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		if _, err := conn.Write(attack.Greeting()); err != nil {
			t.Logf("a connection that was closed at once: %v", err)
		}
		conns[i] = conn
	}

	return conns
}

// Above http2.max_connections callers are told that there are too many, those that
// are connected notice nothing, and when somebody leaves there is room again.
func TestTooManyConnectionsAreRefused(t *testing.T) {
	t.Parallel()

	const most = 20
	r := startRig(t, outbound, false, map[string]any{"http2": map[string]any{"max_connections": most}})
	crowd := open(t, r.port, 200)
	// The last of those that were refused knows.
	refused, err := attack.Wait(t.Context(), r.port)
	if err != nil {
		t.Fatal(err)
	}
	if got := refused.String(); got != "GOAWAY ENHANCE_YOUR_CALM" && got != "closed" {
		t.Errorf("one more ended with %v, %q", refused, refused.Reason)
	}
	r.sidecar.Await(t, `a caller's connection was refused.*too many connections to this sidecar`)
	r.load.More(t, time.Second)
	for _, conn := range crowd {
		_ = conn.Close()
	}
	eventually(t, "somebody new is taken again", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		_, err := load.Who(ctx, load.Dial(t, r.port))

		return err == nil
	})
	if refusals := strings.Count(r.sidecar.Output(), "a caller's connection was refused"); refusals > 30 {
		t.Errorf("the log has %d lines about refusals", refusals)
	}
	r.load.End(t)
}

// Where the system allows few open files, callers do not use them all up: what is
// left is enough to reach instances.
func TestFileDescriptorsNeverRunOut(t *testing.T) {
	t.Parallel()

	const files = 128
	mesh := harness.NewMesh(t, map[string]harness.Service{harness.RouteService: {Endpoints: harness.Endpoints(startVictim(t))}})
	sidecar := harness.StartSidecar(t, harness.Config{
		Binary: limited(t, files), Outbound: true, Default: harness.RouteService, Mesh: mesh,
	})
	sidecar.Await(t, `the limit of open files allows fewer connections.*"open_files":128`)
	first := load.Start(t, load.Dial(t, sidecar.Outbound), load.Options{PerSecond: 50})
	first.More(t, 0)

	crowd := open(t, sidecar.Outbound, 400)
	// New instances: each needs a connection of its own.
	var more []string
	for range 5 {
		more = append(more, startVictim(t))
	}
	mesh.Set(t, harness.RouteService, harness.Service{Endpoints: harness.Endpoints(more...)})
	first.More(t, 2*time.Second)
	if used := descriptors(t, sidecar.PID()); used >= files {
		t.Errorf("%d files are open, of %d", used, files)
	} else {
		t.Logf("%d files are open, of %d", used, files)
	}
	if strings.Contains(sidecar.Output(), "too many open files") {
		t.Error("the log says that there were too many open files")
	}
	for _, conn := range crowd {
		_ = conn.Close()
	}
	first.End(t)
}

// limited returns a program that runs pillion with that many open files allowed.
func limited(t *testing.T, files int) string {
	t.Helper()

	path := t.TempDir() + "/pillion"
	script := fmt.Sprintf("#!/bin/sh\nulimit -Sn %d && ulimit -Hn %d && exec %s \"$@\"\n", files, files, harness.Pillion(t))
	if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}

	return path
}

// descriptors is how many files a process has open.
func descriptors(t *testing.T, pid int) int {
	t.Helper()

	entries, err := os.ReadDir("/proc/" + strconv.Itoa(pid) + "/fd")
	if err != nil {
		t.Fatal(err)
	}

	return len(entries)
}

// eventually asks again and again until the answer is yes.
func eventually(t testing.TB, what string, reached func() bool) {
	t.Helper()

	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !reached(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

package soak

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"context"

	"github.com/pillion-proxy/pillion/interop/consul"
	"github.com/pillion-proxy/pillion/interop/fault/exact"
	"github.com/pillion-proxy/pillion/interop/harness"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
)

// The services of the mesh.
const (
	// steadyService is behind the observed inbound sidecar; nothing happens to it.
	steadyService = "steady"
	// attackService is the same under the name that attacks call.
	attackService = "app"
	// churnService has instances that come and go, faultyService one behind a
	// proxy that spoils connections, hostileService ones that attack.
	churnService   = "churn"
	faultyService  = "faulty"
	hostileService = "hostile"
)

// The bounds of RPCs under way, low enough to be passed by some connections.
const (
	mostOutbound = 4000
	mostInbound  = 3000
)

// rig is the sidecars that are observed, and what is around them.
type rig struct {
	t      testing.TB
	began  time.Time
	seed   uint64
	folder string
	binary string // of the sidecars that come and go

	ledger *exact.Ledger
	tally  tally
	bursts bursts
	mesh   *harness.Mesh

	// outbound is beside clients and reads the mesh file; inbound is beside the app
	// of the steady service. viaConsul is beside clients too and finds it in
	// Consul; it is nil where there is no Consul.
	outbound, inbound, viaConsul *observed
	agent                        *consul.Agent

	eventsMu sync.Mutex
	events   *os.File
}

func startRig(t testing.TB, folder string, seed uint64) *rig {
	t.Helper()

	r := &rig{
		t: t, began: time.Now(), seed: seed, folder: folder,
		binary: harness.PlainPillion(t), ledger: exact.NewLedger(),
	}
	events, err := os.Create(filepath.Join(folder, "events.log"))
	if err != nil {
		t.Fatal(err)
	}
	r.events = events
	t.Cleanup(func() { _ = events.Close() })

	observedBinary := r.binary
	if *detector {
		observedBinary = harness.Pillion(t)
	}
	local := startApp(t, steadyService, "", r.ledger)
	inbound := harness.Config{Binary: observedBinary, Service: steadyService, App: local.address, Mesh: harness.NewMesh(t, nil)}
	inbound.Settings = r.settings(steadyService, mostInbound)
	if r.agent = startConsul(t); r.agent != nil {
		inbound.Mesh = nil
		inbound.Settings["registry"] = consulRegistry(r.agent)
		inbound.Settings["service"] = registered(t, steadyService, local.address)
	}
	r.inbound = &observed{Sidecar: harness.StartSidecar(t, inbound), name: "inbound", log: r.accessLog(steadyService)}

	r.mesh = harness.NewMesh(t, nil)
	r.calm()
	r.outbound = &observed{
		name: "outbound", log: r.accessLog("outbound"),
		Sidecar: harness.StartSidecar(t, harness.Config{
			Binary: observedBinary, Outbound: true, Mesh: r.mesh, Settings: r.settings("outbound", mostOutbound),
		}),
	}
	if r.agent != nil {
		settings := r.settings("viaconsul", mostOutbound)
		settings["registry"] = consulRegistry(r.agent)
		r.viaConsul = &observed{
			name: "outbound by Consul", log: r.accessLog("viaconsul"),
			Sidecar: harness.StartSidecar(t, harness.Config{Binary: observedBinary, Outbound: true, Settings: settings}),
		}
		r.awaitSteady()
	}

	return r
}

// settings are those of an observed sidecar: as by default, but that what is not
// used is let go of quickly, so that a run that goes quiet need not wait long.
func (r *rig) settings(name string, mostRPCs int) map[string]any {
	return map[string]any{
		"connections": map[string]any{"idle_timeout": "2s", "connect_timeout": "2s"},
		"overload":    map[string]any{"max_rpcs": mostRPCs},
		"access_log":  map[string]any{"path": r.accessLog(name)},
		"drain":       map[string]any{"timeout": "2s"},
	}
}

func (r *rig) accessLog(name string) string { return filepath.Join(r.folder, name+".access.log") }

// observed are the sidecars that live through the whole run.
func (r *rig) observed() []*observed {
	all := []*observed{r.outbound, r.inbound}
	if r.viaConsul != nil {
		all = append(all, r.viaConsul)
	}

	return all
}

// calm makes the mesh what it is where nothing churns.
func (r *rig) calm() {
	steady := harness.Endpoints(r.inboundAddress())
	r.mesh.Set(r.t, steadyService, harness.Service{Endpoints: steady})
	r.mesh.Set(r.t, attackService, harness.Service{Endpoints: steady})
	for _, name := range []string{churnService, faultyService, hostileService} {
		r.mesh.Set(r.t, name, harness.Service{Endpoints: []harness.Endpoint{}})
	}
}

func (r *rig) inboundAddress() string { return r.inbound.Inbound }

// awaitSteady waits until the steady service can be found in Consul.
func (r *rig) awaitSteady() {
	conn, hangUp := r.dial(r.viaConsul.Outbound, steadyService)
	defer hangUp()
	consul.Eventually(r.t, "the steady service is found in Consul", func() bool {
		ctx, cancel := context.WithTimeout(r.t.Context(), 5*time.Second)
		defer cancel()

		return exact.Call(ctx, conn, r.ledger, exact.Unary, exact.Shape{}).Code == codes.OK
	})
}

// dial makes a client of a sidecar that asks for a service.
func (r *rig) dial(address, service string) (conn *grpc.ClientConn, hangUp func()) {
	conn, err := grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority(service))
	if err != nil {
		r.t.Errorf("dial %s: %v", address, err)
		panic(err) // the address is none: there is nothing to go on with
	}

	return conn, func() { _ = conn.Close() }
}

// random is a source of its own for each that does something at random.
func (r *rig) random(who string) *rand.Rand {
	h := fnv.New64a()
	_, _ = h.Write([]byte(who))

	return rand.New(rand.NewPCG(r.seed, h.Sum64()))
}

// eventf writes what was done into the log of the run.
func (r *rig) eventf(format string, args ...any) {
	r.eventsMu.Lock()
	defer r.eventsMu.Unlock()
	_, _ = fmt.Fprintf(r.events, "%9.3f %s\n", time.Since(r.began).Seconds(), fmt.Sprintf(format, args...))
}

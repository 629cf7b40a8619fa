package faults

import (
	"context"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/interop/fault/exact"
	"github.com/pillion-proxy/pillion/interop/fault/network"
	"github.com/pillion-proxy/pillion/interop/harness"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
)

const (
	// deadPeer is what the sidecars take a silent host to be dead after. The kernel
	// looks when it would send again, which may be a little later.
	deadPeer = 3 * time.Second
	// deadWithin is that with the kernel's own steps.
	deadWithin = deadPeer + 2*time.Second
	// healed is how long after the end of a partition an instance gets RPCs again at
	// the latest: a connection that was begun just before takes its timeout, and the
	// longest back-off follows.
	healed = connectTimeout + recovery
	// appPort is where instances listen on their hosts.
	appPort = 50051
)

// island is a mesh over several hosts: a sidecar on one, an instance on each of
// the others.
type island struct {
	*rig

	network *network.Network
	home    *network.Host
	hosts   []*network.Host
	apps    []*exact.App
}

func startIsland(t *testing.T, count int) *island {
	t.Helper()

	s := &island{
		rig:     &rig{ledger: exact.NewLedger(), clients: map[string]*grpc.ClientConn{}},
		network: network.New(t, 1),
	}
	s.home = s.network.Host(t, "home")
	var addresses []string
	for i := range count {
		host := s.network.Host(t, string(rune('a'+i)))
		app := exact.Serve(t, host.Listen(t, appPort), host.Name, s.ledger)
		s.hosts, s.apps = append(s.hosts, host), append(s.apps, app)
		addresses = append(addresses, app.Address)
	}

	// Sockets of the file system lead from the test to the sidecar on its host.
	folder := harness.SocketFolder(t)
	mesh := harness.NewMesh(t, map[string]harness.Service{alone: {Endpoints: harness.Endpoints(addresses...)}})
	s.home.Do(t, func() {
		s.outbound = harness.StartSidecar(t, harness.Config{
			Outbound: true, Mesh: mesh,
			OutboundListen: "unix://" + filepath.Join(folder, "outbound"),
			AdminListen:    "unix://" + filepath.Join(folder, "admin"),
			Settings: map[string]any{"connections": map[string]any{
				"connect_timeout": connectTimeout.String(), "dead_peer_timeout": deadPeer.String(),
			}},
		})
	})
	s.sidecars = []*harness.Sidecar{s.outbound}
	s.clients[alone] = dial(t, s.outbound.Outbound, alone)
	s.mustAllEndWell(t, alone)
	s.awaitAll(t, recovery)

	return s
}

// awaitAll waits until every instance answers RPCs.
func (s *island) awaitAll(t *testing.T, within time.Duration) {
	t.Helper()

	began := time.Now()
	for _, app := range s.apps {
		for calls := app.Calls(); app.Calls() == calls; {
			if took := time.Since(began); took > within+grace {
				t.Fatalf("%s gets no RPC for %v", app.Name, took)
			}
			s.make(t, alone, plan{each: 1, timeout: time.Second}, codes.OK, codes.DeadlineExceeded, codes.Unavailable)
		}
	}
}

// awaitElsewhere makes RPCs until enough in a row end well, and fails where that
// is not so within a time. It returns how long it took.
func (s *island) awaitElsewhere(t *testing.T, began time.Time, within time.Duration) time.Duration {
	t.Helper()

	// More than one to each instance, of each kind.
	for row := 0; row < 12; {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		result := exact.Call(ctx, s.clients[alone], s.ledger, exact.Kinds[row%4], small.shape)
		cancel()
		row++
		if result.Code != codes.OK {
			row = 0
			if result.Code != codes.DeadlineExceeded && result.Code != codes.Unavailable || result.Wrong != nil {
				t.Fatal(result)
			}
		}
		if took := time.Since(began); took > within+grace {
			t.Fatalf("%v after the partition RPCs still end with %v", took, result)
		}
	}

	return time.Since(began)
}

// RPCs to instances that are cut off without a word go elsewhere once TCP has
// found it out; until then they end with their deadline. Healed, they are used
// again.
func TestPartitions(t *testing.T) {
	t.Parallel()

	for _, test := range []struct {
		name      string
		cut, heal func(*testing.T, *island)
	}{
		{
			"packets vanish both ways",
			func(_ *testing.T, s *island) { s.network.Between(s.home, s.hosts[0], network.Cut) },
			func(_ *testing.T, s *island) { s.network.Between(s.home, s.hosts[0], network.Wire{}) },
		},
		{
			"what the instance sends vanishes",
			func(_ *testing.T, s *island) { s.network.Set(s.hosts[0], s.home, network.Cut) },
			func(_ *testing.T, s *island) { s.network.Set(s.hosts[0], s.home, network.Wire{}) },
		},
		{
			"what the instance is sent vanishes",
			func(_ *testing.T, s *island) { s.network.Set(s.home, s.hosts[0], network.Cut) },
			func(_ *testing.T, s *island) { s.network.Set(s.home, s.hosts[0], network.Wire{}) },
		},
		{
			"the instance's link is down",
			func(t *testing.T, s *island) { t.Helper(); s.hosts[0].SetLink(t, false) },
			func(t *testing.T, s *island) { t.Helper(); s.hosts[0].SetLink(t, true) },
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()

			s := startIsland(t, 3)
			// Under way at all instances when it happens; each has a time to wait.
			under := s.begin(alone, plan{each: 6, shape: exact.Shape{Messages: 500, Size: 2000}, timeout: patience})
			began := time.Now()
			test.cut(t, s)
			took := s.awaitElsewhere(t, began, deadWithin)
			t.Logf("all went elsewhere after %v", took.Round(time.Millisecond))
			if took < deadPeer/2 {
				t.Errorf("nothing was cut: all went elsewhere after %v", took)
			}
			counts := under.judge(t, codes.OK, codes.Unavailable, codes.Internal)
			if counts[codes.OK] == 0 || counts[codes.OK] == 24 {
				t.Errorf("of the RPCs under way: %v", counts)
			}
			s.mustAllEndWell(t, alone)

			test.heal(t, s)
			s.awaitAll(t, healed)
			for range 5 {
				s.mustAllEndWell(t, alone)
			}
			s.mustSettle(t)
		})
	}
}

// Packets that are lost, late, doubled and out of order are TCP's to mend: every
// RPC ends well, if slowly.
func TestABadNetwork(t *testing.T) {
	t.Parallel()

	s := startIsland(t, 3)
	s.network.Around(s.home, network.Wire{
		Loss: 0.02, Duplicate: 0.05, Reorder: 0.1, Delay: time.Millisecond, Jitter: 2 * time.Millisecond,
	})
	lost := s.network.Lost()
	for range 5 {
		s.make(t, alone, plan{each: 5, shape: exact.Shape{Messages: 20, Size: 5000}, timeout: patience}, codes.OK)
	}
	if lost = s.network.Lost() - lost; lost == 0 {
		t.Error("no packet was lost")
	}
	t.Logf("%d packets of %d were lost", lost, s.network.Sent())
	s.mustSettle(t)
}

// Cut off from everything, a sidecar says so within the bounds, and recovers by
// itself.
func TestASidecarThatIsCutOffRecovers(t *testing.T) {
	t.Parallel()

	s := startIsland(t, 2)
	before := s.size(t)
	s.home.SetLink(t, false)
	began := time.Now()
	for time.Since(began) < deadWithin+grace {
		counts := s.make(t, alone, plan{each: 1, timeout: 2 * connectTimeout}, codes.DeadlineExceeded, codes.Unavailable)
		if counts[codes.DeadlineExceeded] == 0 {
			break
		}
	}
	// It knows now.
	for range 5 {
		s.make(t, alone, plan{each: 2, timeout: 2*connectTimeout + grace}, codes.Unavailable)
	}
	s.mustSettle(t)

	s.home.SetLink(t, true)
	s.awaitOK(t, alone, time.Now(), healed)
	s.awaitAll(t, healed)
	s.mustSettle(t)
	s.mustShrinkTo(t, before)
}

// An instance that was restarted while it was cut off knows nothing of the old
// connections; they end, and new ones are made.
func TestAnInstanceThatRestartsWhileItIsCutOff(t *testing.T) {
	t.Parallel()

	s := startIsland(t, 2)
	s.network.Around(s.hosts[0], network.Cut)
	s.apps[0].Kill()
	s.apps[0] = exact.Serve(t, s.hosts[0].Listen(t, appPort), "a, again", s.ledger)
	s.network.Around(s.hosts[0], network.Wire{})
	s.awaitAll(t, healed)
	s.awaitElsewhere(t, time.Now(), healed)
	s.mustSettle(t)
}

// A caller's host that is gone without a word is found out too, or its RPCs and
// their memory would stay for as long as the kernel sends again.
func TestACallerThatIsCutOffIsForgotten(t *testing.T) {
	t.Parallel()

	n := network.New(t, 1)
	caller, home := n.Host(t, "caller"), n.Host(t, "home")
	ledger := exact.NewLedger()
	app := exact.Serve(t, home.Listen(t, appPort), "app", ledger)
	folder := harness.SocketFolder(t)
	r := &rig{ledger: ledger, clients: map[string]*grpc.ClientConn{}}
	start := func(host *network.Host, name string, config harness.Config) *harness.Sidecar {
		config.AdminListen = "unix://" + filepath.Join(folder, name)
		config.Settings = map[string]any{"connections": map[string]any{"dead_peer_timeout": deadPeer.String()}}
		var sidecar *harness.Sidecar
		host.Do(t, func() { sidecar = harness.StartSidecar(t, config) })

		return sidecar
	}
	inbound := start(home, "home", harness.Config{
		Service: alone, App: app.Address, Mesh: harness.NewMesh(t, nil), InboundListen: home.IP.String() + ":15006",
	})
	outbound := start(caller, "caller", harness.Config{
		Outbound: true, OutboundListen: "unix://" + filepath.Join(folder, "outbound"),
		Mesh: harness.NewMesh(t, map[string]harness.Service{alone: {Endpoints: harness.Endpoints(inbound.Inbound)}}),
	})
	r.sidecars, r.outbound = []*harness.Sidecar{inbound, outbound}, outbound
	r.clients[alone] = dial(t, outbound.Outbound, alone)
	r.mustAllEndWell(t, alone)

	// Streams without a deadline, with answers on their way that nobody acknowledges.
	ctx, stop := context.WithCancel(t.Context())
	var calls sync.WaitGroup
	for range 8 {
		calls.Go(func() {
			exact.Call(ctx, r.clients[alone], ledger, exact.ServerStream, exact.Shape{Messages: 100_000, Size: 1000})
		})
	}
	await(t, "the app has all RPCs", func() bool { return ledger.Running() == 8 })
	n.Around(caller, network.Cut)
	began := time.Now()
	for ledger.Running() > 0 {
		if took := time.Since(began); took > deadWithin+grace {
			t.Errorf("after %v the app still works for %d RPCs of a caller that is gone", took, ledger.Running())

			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Logf("forgotten after %v", time.Since(began).Round(time.Millisecond))
	stop()
	calls.Wait()
	r.mustSettle(t)
	if open := inbound.Metric(t, "pillion_downstream_connections"); open != 0 {
		t.Errorf("%v connections of the caller are still open", open)
	}
}

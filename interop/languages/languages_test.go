package languages

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/interop/fault"
	"github.com/pillion-proxy/pillion/interop/harness"
)

// idle is how long the case keepalive is silent. Clients send a PING every ten
// seconds; a grpc-go server with its defaults would end the connection at the
// third.
const idle = 45 * time.Second

// pings is how many of them have come by then.
const pings = 4

// pingSize is a PING with its frame's header, in bytes.
const pingSize = 9 + 8

// route is a way from a client to a server.
type route struct {
	name, target, authority string
}

func routesTo(server *peer) []route {
	return []route{
		// What fails here is the test's own fault.
		{"directly", server.address, ""},
		{"through two sidecars", server.outbound.Outbound, harness.RouteService},
	}
}

// proxied reports whether Pillion stands in the way.
func (r route) proxied() bool { return r.authority != "" }

func TestEachLanguageWithEach(t *testing.T) {
	peers := buildPeers(t)
	for _, p := range peers {
		p.serve(t)
	}

	t.Run("rpcs", func(t *testing.T) {
		t.Run("keepalive", func(t *testing.T) {
			t.Parallel()
			keepalive(t, peers)
		})
		for _, client := range peers {
			for _, server := range peers {
				for _, r := range routesTo(server) {
					t.Run(client.Name+" calls "+server.Name+" "+r.name, func(t *testing.T) {
						t.Parallel()
						tryCases(t, client, server, r)
						if thorough(client.Name, server.Name) {
							t.Run("gzip on the wire", func(t *testing.T) { gzipOnTheWire(t, client, server, r) })
						}
					})
				}
			}
		}
	})

	for _, p := range peers {
		t.Run("nothing is left in the sidecars before "+p.Name, func(t *testing.T) {
			nothingIsLeft(t, p.outbound, "grpc_client")
			nothingIsLeft(t, p.inbound, "grpc_server")
		})
	}
}

func tryCases(t *testing.T, client, server *peer, r route) {
	t.Helper()

	outcomes := outcomesOf(t, client.startClient(t, r.target, r.authority, Cases))
	for _, name := range Cases {
		t.Run(name, func(t *testing.T) {
			if why := failsDirectly(name, client.Name, server.Name); why != "" && !r.proxied() {
				t.Skip(why)
			}
			said, there := outcomes[name]
			switch want := codesOf(name, client.Name, server.Name, r.proxied()); {
			case !there:
				t.Error("the client said nothing of it")
			case said.Error != "":
				t.Error(said.Error)
			case !slices.Contains(want, said.Code):
				t.Errorf("the RPC ended with %v, want %v", said.Code, want)
			}
		})
	}
}

// A megabyte of zeros each way must not be seen as such between client and server.
func gzipOnTheWire(t *testing.T, client, server *peer, r route) {
	t.Helper()

	wire := fault.Start(t, r.target)
	process := client.startClient(t, wire.Address(), r.authority, []string{"gzip"})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	conns, err := wire.AwaitConns(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	if said := outcomesOf(t, process)["gzip"]; said.Error != "" || said.Case == "" {
		t.Fatalf("outcome %+v", said)
	}

	// Some clients open a connection of their own for this RPC.
	const much = 200_000
	var up, down int64
	for _, conn := range conns {
		up += conn.Delivered(fault.ToServer)
		down += conn.Delivered(fault.ToClient)
	}
	if wire.Accepted() != 1 {
		t.Errorf("the client made %d connections, want 1", wire.Accepted())
	}
	if up > much {
		t.Errorf("the request took %d bytes", up)
	}
	if compresses(server.Name) == (down > much) {
		t.Errorf("the answer took %d bytes", down)
	}
}

// keepalive has all clients ping idle connections at the same time, because it
// takes long.
func keepalive(t *testing.T, peers []*peer) {
	t.Helper()

	type silence struct {
		name string
		wire *fault.Proxy
		*harness.Process
	}
	var silences []silence
	for _, p := range peers {
		for _, r := range routesTo(p) {
			wire := fault.Start(t, r.target)
			silences = append(silences, silence{
				p.Name + " " + r.name, wire,
				p.startClient(t, wire.Address(), r.authority, []string{"keepalive"}, "--idle", "45"),
			})
		}
	}

	before := make([][2]int64, len(silences))
	conns := make([]*fault.Conn, len(silences))
	for i, s := range silences {
		s.Await(t, "^idle$")
		open := s.wire.Conns()
		if len(open) != 1 {
			t.Fatalf("%s: %d connections are open, want 1", s.name, len(open))
		}
		conns[i] = open[0]
		before[i] = [2]int64{open[0].Delivered(fault.ToServer), open[0].Delivered(fault.ToClient)}
	}
	for i, s := range silences {
		s.Await(t, "^awake$")
		for d, what := range map[fault.Direction]string{fault.ToServer: "PINGs", fault.ToClient: "answers to PINGs"} {
			if got := conns[i].Delivered(d) - before[i][d]; got < pings*pingSize {
				t.Errorf("%s: %d bytes of %s in %v, want at least %d", s.name, got, what, idle, pings*pingSize)
			}
		}
		if said := outcomesOf(t, s.Process)["keepalive"]; said.Error != "" || said.Case == "" {
			t.Errorf("%s: outcome %+v", s.name, said)
		}
		if s.wire.Accepted() != 1 {
			t.Errorf("%s: the connection did not live: there were %d", s.name, s.wire.Accepted())
		}
	}
}

// Every RPC that was begun has ended.
func nothingIsLeft(t *testing.T, sidecar *harness.Sidecar, side string) {
	t.Helper()

	deadline := time.Now().Add(20 * time.Second)
	for {
		started := sidecar.Metric(t, side+"_started_total")
		handled := sidecar.Metric(t, side+"_handled_total")
		if started == handled && started >= float64(len(Cases)) {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("%s: %v RPCs began, %v ended", side, started, handled)

			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}

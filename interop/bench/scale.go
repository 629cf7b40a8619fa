package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
)

// scaleShape is the load under which the scale is measured.
var scaleShape = shape{conns: 8, streams: 32}

// liveEndpoints is how many endpoints of a service accept connections: as many
// as there are connections to instances in a case with round_robin, however
// many endpoints the mesh has.
const liveEndpoints = 10

// scaleCase is a mesh that Pillion is run with. Only one of its services is
// called. An RPC's cost must not depend on how large the rest is; it does
// depend on how many connections the RPCs are spread over, so a case is only
// compared with one that has as many.
type scaleCase struct {
	name, title string
	// balancing is how the called service's instance is picked. With
	// pick_first any number of endpoints means one connection.
	balancing string
	services  int
	// endpoints is how many each service has; those beyond liveEndpoints refuse
	// connections.
	endpoints int
	// byMethod routes by the gRPC service's name in the path, not by the
	// authority.
	byMethod bool
	// base is the case that this one is compared with.
	base string
	// informative is set where the cost is not only that of routing and
	// picking, so that no target applies.
	informative bool
}

const (
	roundRobin = "round_robin"
	pickFirst  = "pick_first"
)

var scaleCases = []scaleCase{
	{name: "rr", title: "1 service of 10 endpoints", balancing: roundRobin, services: 1, endpoints: 10},
	{name: "rr-services", title: "1,000 services of 10 endpoints", balancing: roundRobin, services: 1000, endpoints: 10, base: "rr"},
	{name: "method", title: "1 service of 10, found by its gRPC name", balancing: roundRobin, services: 1, endpoints: 10, byMethod: true},
	{name: "method-services", title: "1,000 services of 10, found by its gRPC name", balancing: roundRobin, services: 1000, endpoints: 10, byMethod: true, base: "method"},
	{name: "pf", title: "1 service of 10, pick_first", balancing: pickFirst, services: 1, endpoints: 10},
	{name: "pf-endpoints", title: "1 service of 10,000, pick_first", balancing: pickFirst, services: 1, endpoints: 10_000, base: "pf"},
	{name: "rr-refusing", title: "1 service of 10,000, of which 9,990 refuse connections", balancing: roundRobin, services: 1, endpoints: 10_000, base: "rr", informative: true},
}

// called is the service that is called, in the middle of all.
func (c scaleCase) called() int { return c.services / 2 }

func serviceName(i int) string { return fmt.Sprintf("service-%04d", i) }
func grpcName(i int) string    { return fmt.Sprintf("bench.Service%04d", i) }

// liveHosts are the addresses that the backend listens on, with one port.
func liveHosts() []string {
	hosts := make([]string, liveEndpoints)
	for i := range hosts {
		hosts[i] = fmt.Sprintf("127.0.0.%d", i+1)
	}
	return hosts
}

// endpointHost is the address of a service's i-th endpoint. Beyond the live
// ones nobody listens.
func endpointHost(i int) string {
	if i < liveEndpoints {
		return fmt.Sprintf("127.0.0.%d", i+1)
	}
	return fmt.Sprintf("127.1.%d.%d", i>>8, i&0xff)
}

// mesh is the case's mesh.yaml.
func (c scaleCase) mesh(port string) string {
	var b strings.Builder
	b.WriteString("services:\n")
	for i := range c.services {
		fmt.Fprintf(&b, "  %s:\n    grpc: [%s]\n    endpoints:\n", serviceName(i), grpcName(i))
		for j := range c.endpoints {
			fmt.Fprintf(&b, "    - {address: %q}\n", net.JoinHostPort(endpointHost(j), port))
		}
	}
	return b.String()
}

// bootstrap is the case's pillion.yaml.
func (c scaleCase) bootstrap(s site) string {
	return fmt.Sprintf(`outbound: {listen: %q, load_balancing: %s}
admin: {listen: %q}
registry:
  file: {path: mesh.yaml}
`, s.listen, c.balancing, s.admin)
}

// launch writes the case's configuration and says how to run Pillion with it.
func (c scaleCase) launch(s site) (launch, error) {
	_, port, err := net.SplitHostPort(s.backend)
	if err != nil {
		return launch{}, err
	}
	return launchMesh(s, c.bootstrap(s), c.mesh(port))
}

// launchMesh writes the two files and says how to run Pillion with them.
func launchMesh(s site, bootstrap, mesh string) (launch, error) {
	const config = "pillion.yaml"
	err := errors.Join(
		os.WriteFile(filepath.Join(s.dir, config), []byte(bootstrap), 0o600),
		os.WriteFile(filepath.Join(s.dir, "mesh.yaml"), []byte(mesh), 0o600))
	return launch{
		argv:  []string{s.bin, "run", "-c", config},
		env:   goWorkers(s.workers),
		ready: httpOK("http://" + s.admin + "/ready"),
	}, err
}

// scale measures what an RPC costs Pillion in meshes of different sizes.
func (r *rig) scale(ctx context.Context, pillion string) error {
	if err := r.start(ctx, liveHosts()...); err != nil {
		return err
	}
	for _, sc := range scaleCases {
		c, err := r.join(ctx, sc.name, pillion, sc.launch)
		if err != nil {
			return err
		}
		if sc.byMethod {
			c.path = "/" + grpcName(sc.called()) + "/Call"
		} else {
			c.authority = serviceName(sc.called())
		}
		if sc.informative {
			c.forgiven = forgivenRuns
		}
	}
	if err := r.measureMemory(); err != nil {
		return err
	}
	for _, c := range r.contestants {
		if err := r.settle(ctx, c); err != nil {
			return err
		}
	}
	for round := range r.opts.rounds {
		r.sayf("scale, round %d of %d", round+1, r.opts.rounds)
		for _, c := range r.turn(round) {
			if err := r.insist(c, scaleShape.scene(), func() error { return r.scaleOnce(ctx, c) }); err != nil {
				return err
			}
		}
	}
	return r.measurePeak(sceneMemory)
}

// settleLoads bounds how many loads a contestant that is forgiven failures may
// fail before it is measured. Where nearly all endpoints refuse connections,
// RPCs fail until that has been found out.
const settleLoads = 30

func (r *rig) settle(ctx context.Context, c *contestant) error {
	if c.forgiven == 0 {
		return nil
	}
	var err error
	for range settleLoads {
		if _, err = r.load.run(ctx, r.unary(c, scaleShape, quickRequests, 0)); err == nil || !errors.Is(err, errLoad) {
			break
		}
	}
	if err != nil {
		return c.proc.failed("settling: %w", err)
	}
	return nil
}

func (r *rig) scaleOnce(ctx context.Context, c *contestant) error {
	if _, err := r.fullLoad(ctx, c, scaleShape); err != nil {
		return err
	}
	n, err := connectionsTo(c.proc.pid(), r.backendAddr)
	if err != nil {
		return c.proc.failed("counting connections: %w", err)
	}
	r.add(c, scaleShape.scene(), liveConns, float64(n))
	return nil
}

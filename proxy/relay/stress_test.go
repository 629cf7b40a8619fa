package relay

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/pillion-proxy/pillion/proxy/balance"
	"github.com/pillion-proxy/pillion/proxy/downstream"
	"github.com/pillion-proxy/pillion/proxy/h2"
	"github.com/pillion-proxy/pillion/proxy/policy"
	"github.com/pillion-proxy/pillion/proxy/retry"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
	"github.com/pillion-proxy/pillion/proxy/upstream"
	"github.com/pillion-proxy/pillion/proxy/wire"
	"github.com/pillion-proxy/pillion/registry"
)

// hesitant is a router that does not always know the way at once. Its policies change
// with each RPC.
type hesitant struct {
	dest *upstream.Cluster
	sets []*policy.Set
}

func (h hesitant) Policies() *policy.Set {
	if len(h.sets) == 0 {
		return nil
	}
	return h.sets[rand.IntN(len(h.sets))]
}

func (h hesitant) Find(*policy.Set, string, string) Found {
	if rand.IntN(10) == 0 {
		return Found{Wait: true}
	}
	return Found{Cluster: h.dest, Service: h.dest.Name(), Route: "test"}
}

func (h hesitant) Service(string) Found { return h.Find(nil, "", "") }

func (h hesitant) Await(_, _, _ string, w Waiter, life uint32) bool {
	time.AfterFunc(rand.N(2*time.Millisecond), func() { w.OnRoute(life) })
	return true
}

func (hesitant) Explain(string, string, string) (codes.Code, wire.Flag, string) {
	return codes.Unimplemented, wire.FlagNoRoute, "no way"
}

// echo is a gRPC server at a fixed address that may die and come back.
type echo struct {
	address string
	mu      sync.Mutex
	server  *grpc.Server
}

func (e *echo) start(t testing.TB) {
	l, err := net.Listen("tcp", e.address)
	// Its port is one of those that anybody gets for a connection while it is down.
	for deadline := time.Now().Add(time.Minute); errors.Is(err, syscall.EADDRINUSE) && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
		l, err = net.Listen("tcp", e.address)
	}
	if err != nil {
		t.Error(err)
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.address = l.Addr().String()
	e.server = grpc.NewServer(grpc.MaxConcurrentStreams(50), grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
		for n := 0; ; n++ {
			var m wrapperspb.BytesValue
			if err := s.RecvMsg(&m); err != nil {
				return nil //nolint:nilerr // the stream is over
			}
			if n == 3 && m.Value[7]%7 == 0 {
				return status.Error(codes.Aborted, "an early status")
			}
			if err := s.SendMsg(&m); err != nil {
				return err
			}
		}
	}))
	go func() { _ = e.server.Serve(l) }()
}

func (e *echo) stop(gracefully bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if gracefully {
		stop := time.AfterFunc(2*time.Second, e.server.Stop)
		defer stop.Stop()
		e.server.GracefulStop()
	}
	e.server.Stop()
}

// Thousands of RPCs with cancels, deadlines, early answers and instances that die:
// no byte of one gets into another, each ends once, and nothing is left of them.
func TestPooledMemoryUnderStress(t *testing.T) { stress(t, nil) }

// The same under policies: RPCs are sent again, several times at once, and timed out.
func TestPooledMemoryOfPoliciesUnderStress(t *testing.T) {
	again := retryPolicy(func(p *retry.Policy) {
		p.ResetBeforeHeaders, p.ConnectFailure, p.HoldHeaders, p.BufferBytes = true, true, true, 64<<10
		p.InitialBackoff = time.Millisecond
		p.Limits = retry.NewLimits(&retry.BudgetOptions{Ratio: 1, MinPerSecond: 100}, &retry.ThrottlingOptions{MaxTokens: 100, TokenRatio: 1})
	})
	hedged := hedgingPolicy(func(p *retry.Hedging) { p.Delay, p.BufferBytes = time.Millisecond, 64<<10 })
	stress(t, func(p *policed) {
		switch rand.IntN(4) {
		case 0:
			p.retry = again
		case 1, 2:
			p.hedging = hedged
		}
		if rand.IntN(2) == 0 {
			gives(time.Second, 2*time.Second, 5*time.Second)(p)
		}
	})
}

// The same under policies that are obeyed before RPCs depart: they wait for places, are
// delayed, copied and refused.
func TestPooledMemoryOfGovernedRPCsUnderStress(t *testing.T) {
	sets := []*policy.Set{nil}
	told, counters := new(turnstile), new(telemetry.Counters)
	env := policy.Env{Group: counters.Group, Observer: func(telemetry.GroupKey) telemetry.Observer { return told }}
	for _, yaml := range []string{`
- {name: parts, service: echo, split: {split: {destinations: [{weight: 5000, group: a}, {weight: 5000, group: b, service: copies, request: {set: {x-b: "1"}}}]}}}
- {name: names, service: "*", split: {match: {fraction: 5000}, split: {destinations: [{weight: 5000, group: c}, {weight: 5000, group: d}]}}}
- {name: ways, service: echo, route: {rules: [{match: {fraction: 5000}, authority: ours, request: {set: {x-set: ours}}, response: {add: {x-add: more}}, mirror: {to: {service: copies}, max_concurrent: 20, max_bytes: 5000}}]}}
- {name: places, service: echo, circuit_breaker: {max_concurrent: 20, max_pending: 100, trip: {failure_ratio: 1, min_volume: 200, open_for: 10ms}}}
- {name: faults, service: echo, fault: {delay: {for: 5ms, fraction: 3000}, max_active: 10}}
- {name: limits, service: echo, rate_limit: {limits: [{requests: 100000}]}}
- {name: balance, service: echo, load_balancing: {failover: [{service: copies}]}}
- {name: again, service: echo, retry: {max_attempts: 3, retryable_status_codes: [UNAVAILABLE], hold_headers: true, initial_backoff: 1ms}}
`, `
- {name: places, service: echo, circuit_breaker: {max_concurrent: 15, max_pending: 100}}
- {name: twice, service: echo, hedging: {max_attempts: 2, hedging_delay: 1ms}}
- {name: patience, service: echo, timeout: {max: 10s, idle: 5s, max_age: 9s}}
- {name: names, service: echo, split: {split: {destinations: [{weight: 5000, group: c}, {weight: 5000, group: d}]}}}
`} {
		sets = append(sets, compileIn(t, env, nil, yaml))
	}
	stress(t, nil, sets...)
	if n := int64(metric(t, counters, "pillion_group_rpcs_total", "rule", "")); n == 0 || n != told.rpcs.Load() || told.wrong.Load() > 0 {
		t.Errorf("%d RPCs of groups are counted, and %d were told of, %d of them wrong", n, told.rpcs.Load(), told.wrong.Load())
	}
	for _, set := range sets[1:] {
		m := set.Service("echo").Outbound("/echo.Echo/M0")
		for key, c := range m.Breaker.Circuits(time.Now()) {
			if c.UnderWay != 0 || c.Waiting != 0 {
				t.Errorf("%v: %+v", key, c)
			}
		}
		if m.Fault != nil && m.Fault.Counts().Active != 0 {
			t.Errorf("%d are delayed still", m.Fault.Counts().Active)
		}
		if m.Route != nil {
			var rule *policy.Rule
			for rule == nil { // it is for one RPC in two
				rule = m.Route.Decide(&policy.RPC{Path: "/echo.Echo/M0", Random: rand.Uint64}, "echo", nil).Rule
			}
			if n := rule.Mirror.Active(); n != 0 {
				t.Errorf("%d copies are under way still", n)
			}
		}
	}
}

func stress(t *testing.T, give func(*policed), sets ...*policy.Set) {
	rpcs, workers := 2000, 60
	if testing.Short() || give != nil || len(sets) > 0 {
		rpcs = 500
	}
	budget := h2.NewBudget(64 << 20)
	cfg := h2.Config{Budget: budget}.WithDefaults()
	up := upstream.Options{HTTP2: &cfg, MaxConns: 3, BackoffBase: 5 * time.Millisecond}.WithDefaults()
	counters := new(telemetry.Counters)
	counts := counters.Service(telemetry.Outbound, "echo")
	cluster := upstream.NewCluster("echo", balance.LeastRequest, &up, counts)
	var echoes []*echo
	var endpoints []registry.Endpoint
	for range 4 {
		e := &echo{address: "127.0.0.1:0"}
		e.start(t)
		echoes = append(echoes, e)
		endpoints = append(endpoints, registry.Endpoint{ID: e.address, Address: e.address, Weight: 1})
	}
	cluster.Update(endpoints, false)
	metrics := telemetry.NewMetrics(telemetry.Outbound)
	p := New(Config{
		Router: hesitant{cluster, sets}, Metrics: metrics, Unrouted: counters.Service(telemetry.Outbound, ""),
		Budget: budget, MaxTimeout: 20 * time.Second,
	})
	newStream := p.NewStream
	if give != nil {
		newStream = policing{callers{p}, give}.NewStream
	}
	callers := downstream.New(downstream.Options{HTTP2: &cfg, NewStream: newStream})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = callers.Serve(l) }()

	var clients []*grpc.ClientConn
	for range 5 {
		cc, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		clients = append(clients, cc)
	}

	var next, good atomic.Int64
	var ends tally
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for {
				id := next.Add(1)
				if id > int64(rpcs) {
					return
				}
				if err := exchange(clients[id%int64(len(clients))], id); err == nil {
					good.Add(1)
				} else if ends.note(err); status.Code(err) == codes.DataLoss {
					t.Error(err)
				}
			}
		})
	}
	// Instances die and come back meanwhile.
	over := make(chan struct{})
	var killer sync.WaitGroup
	killer.Go(func() {
		before := int64(0)
		for i := 0; ; i++ {
			select {
			case <-over:
				return
			case <-time.After(150 * time.Millisecond):
			}
			// On a slow machine none would live long enough for an RPC.
			now := next.Load()
			if now < before+int64(rpcs)/50 {
				continue
			}
			before = now
			e := echoes[i%len(echoes)]
			e.stop(i%3 != 0)
			e.start(t)
		}
	})
	wg.Wait()
	close(over)
	killer.Wait()
	if good.Load() < int64(rpcs)/4 {
		t.Errorf("only %d of %d RPCs went well", good.Load(), rpcs)
	}

	for _, cc := range clients {
		_ = cc.Close()
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := callers.Shutdown(ctx); err != nil {
		t.Errorf("the callers' connections do not end: %v", err)
	}
	for _, in := range cluster.Status().Instances {
		if in.InFlight != 0 || in.Waiting != 0 {
			t.Errorf("%d RPCs are in flight at %s, %d wait", in.InFlight, in.Endpoint.Address, in.Waiting)
		}
	}
	cluster.Close()
	for _, e := range echoes {
		e.stop(false)
	}
	started, handled := metric(t, metrics, "grpc_client_started_total"), metric(t, metrics, "grpc_client_handled_total")
	if started != handled || started == 0 || metric(t, metrics, "grpc_client_handling_seconds") != handled {
		t.Errorf("%v RPCs began, %v ended", started, handled)
	}
	// The connections to instances end in their own time.
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		if budget.Used() == 0 && counts.Connections.Load() == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Errorf("%d bytes of the budget and %d connections are left", budget.Used(), counts.Connections.Load())
			break
		}
	}
	t.Logf("%d of %d went well; %d attempts, %d of them again; the others ended so: %v", good.Load(), rpcs, counts.Attempts.Load(), counts.TransparentRetries.Load(), ends.of)
}

// tally counts how RPCs ended.
type tally struct {
	mu sync.Mutex
	of map[string]int
}

func (c *tally) note(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.of == nil {
		c.of = map[string]int{}
	}
	m := status.Convert(err).Message()
	c.of[status.Code(err).String()+" "+m[:min(len(m), 110)]]++
}

// exchange has a conversation in which every message carries the RPC's id. It
// fails with DATA_LOSS where anything else comes back.
func exchange(cc *grpc.ClientConn, id int64) error {
	rnd := rand.New(rand.NewPCG(uint64(id), 1))
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	switch rnd.IntN(4) {
	case 0:
		ctx, cancel = context.WithTimeout(ctx, time.Duration(rnd.IntN(300))*time.Millisecond)
		defer cancel()
	case 1:
		defer time.AfterFunc(time.Duration(rnd.IntN(100))*time.Millisecond, cancel).Stop()
	}
	s, err := cc.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, fmt.Sprintf("/echo.Echo/M%d", id%5))
	if err != nil {
		return err
	}
	for n := range 1 + rnd.IntN(6) {
		size := 16 + rnd.IntN(3000)
		if rnd.IntN(40) == 0 {
			size = 100 << 10
		}
		body := bytes.Repeat(binary.BigEndian.AppendUint64(nil, uint64(id)), size/8)
		body = append(body, byte(n))
		if err := s.SendMsg(wrapperspb.Bytes(body)); err != nil {
			return s.RecvMsg(new(wrapperspb.BytesValue)) // says what it was
		}
		var got wrapperspb.BytesValue
		if err := s.RecvMsg(&got); err != nil {
			return err
		}
		if !bytes.Equal(got.Value, body) {
			return status.Errorf(codes.DataLoss, "RPC %d sent %d bytes and got %d others back", id, len(body), len(got.Value))
		}
	}
	if err := s.CloseSend(); err != nil {
		return err
	}
	if err := s.RecvMsg(new(wrapperspb.BytesValue)); status.Code(err) == codes.OK || err == nil {
		return nil
	} else if err.Error() != "EOF" {
		return err
	}
	return nil
}

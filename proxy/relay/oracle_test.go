package relay

import (
	"context"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"net"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/pillion-proxy/pillion/proxy/balance"
	"github.com/pillion-proxy/pillion/proxy/h2"
	"github.com/pillion-proxy/pillion/proxy/retry"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
	"github.com/pillion-proxy/pillion/proxy/upstream"
	"github.com/pillion-proxy/pillion/proxy/wire"
	"github.com/pillion-proxy/pillion/registry"
)

// oracle is a retry policy and what a server does with the RPCs under it.
type oracle struct {
	policy     retry.Policy
	throttling *retry.ThrottlingOptions
	calls      []call
}

// call is an RPC.
type call struct {
	timeout time.Duration // 0: none
	steps   []deed        // what the server does with each of its attempts; then OK
}

func (c call) deed(n int) deed {
	if n < len(c.steps) {
		return c.steps[n]
	}
	return deed{}
}

// deed is what the server does with an attempt.
type deed struct {
	headers  bool          // they are sent at once
	wait     time.Duration // before the status
	code     codes.Code
	pushback []string
}

// outcome is what became of an RPC.
type outcome struct {
	attempts []witnessed
	code     codes.Code
	message  string
}

// witnessed is an attempt as the server saw it.
type witnessed struct {
	wait     time.Duration // since the one before had its answer, without the random part
	previous string
}

// retryConfig writes the policy as a gRPC service config.
func (o *oracle) retryConfig() string {
	names := strings.Split(o.policy.Codes.String(), ", ")
	config := fmt.Sprintf(`{"methodConfig": [{"name": [{}], "retryPolicy": {"maxAttempts": %d, "initialBackoff": "%fs", "maxBackoff": "%fs", "backoffMultiplier": %v, "retryableStatusCodes": ["%s"]}}]`,
		o.policy.MaxAttempts, o.policy.InitialBackoff.Seconds(), o.policy.MaxBackoff.Seconds(), o.policy.Multiplier, strings.Join(names, `","`))
	if t := o.throttling; t != nil {
		config += fmt.Sprintf(`, "retryThrottling": {"maxTokens": %d, "tokenRatio": %v}`, t.MaxTokens, t.TokenRatio)
	}
	return config + "}"
}

// ask makes the calls, one after the other, over connections that dial makes, and
// returns what became of them.
func (o *oracle) ask(t *testing.T, server *bufconn.Listener, dial func(context.Context, string) (net.Conn, error), options ...grpc.DialOption) (outcomes []outcome) {
	type run struct {
		call
		outcome
		before time.Time // when the last attempt had its answer
	}
	var now *run
	app := grpc.NewServer(grpc.WaitForHandlers(true), grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
		md, _ := metadata.FromIncomingContext(s.Context())
		now := now // its last attempt may outlive it
		n := len(now.attempts)
		now.attempts = append(now.attempts, witnessed{time.Since(now.before), strings.Join(md.Get(wire.HeaderPreviousAttempts), ",")})
		defer func() { now.before = time.Now() }()
		does := now.deed(n)
		if err := s.RecvMsg(new(wrapperspb.StringValue)); err != nil {
			return err
		}
		if does.headers {
			if err := s.SendHeader(nil); err != nil {
				return err
			}
		}
		time.Sleep(does.wait)
		md = metadata.MD{}
		md.Append(wire.HeaderRetryPushback, does.pushback...)
		s.SetTrailer(md)
		if does.code != codes.OK {
			return status.Errorf(does.code, "attempt %d", n+1)
		}
		return s.SendMsg(wrapperspb.String("done"))
	}))
	go func() { _ = app.Serve(server) }()
	defer app.Stop()
	cc, err := grpc.NewClient("passthrough:///greeter", append(options,
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(dial))...)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cc.Close() }()
	for _, c := range o.calls {
		now = &run{call: c, before: time.Now()}
		ctx, cancel := context.WithCancel(t.Context())
		if c.timeout > 0 {
			ctx, cancel = context.WithTimeout(t.Context(), c.timeout)
		}
		err := cc.Invoke(ctx, "/a.B/C", wrapperspb.String("asked"), new(wrapperspb.StringValue))
		cancel()
		synctest.Wait() // the server has seen it all
		now.code, now.message = status.Code(err), status.Convert(err).Message()
		outcomes = append(outcomes, now.outcome)
	}
	return outcomes
}

// direct has grpc-go itself obey the policy.
func (o *oracle) direct(t *testing.T) []outcome {
	l := bufconn.Listen(64 << 10)
	return o.ask(t, l, func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) },
		grpc.WithDefaultServiceConfig(o.retryConfig()))
}

// throughPillion has Pillion obey it, for a client that does nothing of the kind.
func (o *oracle) throughPillion(t *testing.T) []outcome {
	l := bufconn.Listen(64 << 10)
	policy := o.policy
	policy.Limits = retry.NewLimits(nil, o.throttling)
	policy.BufferBytes = 64 << 10
	dial, end := through(map[string]*bufconn.Listener{"a:1": l}, func(p *policed) { p.retry = &policy })
	defer end()
	return o.ask(t, l, dial, grpc.WithDisableRetry())
}

// through is a Pillion before these servers, whose callers' RPCs have the policies that
// give gives them. Callers dial it with dial; end ends it.
func through(servers map[string]*bufconn.Listener, give func(*policed)) (dial func(context.Context, string) (net.Conn, error), end func()) {
	cfg := h2.Config{Budget: h2.NewBudget(16 << 20)}.WithDefaults()
	up := upstream.Options{HTTP2: &cfg, Dial: func(ctx context.Context, _, address string) (net.Conn, error) {
		return servers[address].DialContext(ctx)
	}}.WithDefaults()
	counters := new(telemetry.Counters)
	cluster := upstream.NewCluster("greeter", balance.RoundRobin, &up, counters.Service(telemetry.Outbound, "greeter"))
	var endpoints []registry.Endpoint
	for _, address := range slices.Sorted(maps.Keys(servers)) {
		endpoints = append(endpoints, registry.Endpoint{ID: address, Address: address, Weight: 1})
	}
	cluster.Update(endpoints, false)
	proxy := New(Config{
		Router: &router{dest: cluster}, Metrics: telemetry.NewMetrics(telemetry.Outbound), Unrouted: counters.Service(telemetry.Outbound, ""),
		Budget: cfg.Budget, Retry: Retry{MaxAttempts: 2}, // as often as grpc-go
	})
	dial = func(context.Context, string) (net.Conn, error) {
		here, there := net.Pipe()
		go h2.New(h2.NewTransport(named{there}), h2.Server, &cfg, policing{callers{proxy}, give}).Serve()
		return here, nil
	}
	return dial, func() {
		cluster.Close()
		time.Sleep(time.Minute)
	}
}

// compare checks that both did the same, and waited as the policy says.
func (o *oracle) compare(t *testing.T, direct, pillion []outcome) {
	t.Helper()
	for i, c := range o.calls {
		d, p := direct[i], pillion[i]
		o.checkWaits(t, "grpc-go", c, d)
		o.checkWaits(t, "Pillion", c, p)
		for _, one := range [][]witnessed{d.attempts, p.attempts} {
			for j := range one {
				one[j].wait = 0
			}
		}
		if d.code == codes.DeadlineExceeded && p.code != d.code {
			// Where a wait would last beyond the deadline, grpc-go waits in vain, and
			// Pillion answers what it has.
			d.code, d.message = p.code, p.message
		}
		if p.code == codes.DeadlineExceeded {
			d.message, p.message = "", ""
		}
		d.message = strings.TrimPrefix(d.message, fmt.Sprintf("max retries exhausted: failed after %d attempts: rpc error: code = %v desc = ", len(d.attempts), d.code))
		if !reflect.DeepEqual(d, p) {
			t.Errorf("call %d %+v under %s:\ngrpc-go %+v\nPillion %+v", i+1, c, o.retryConfig(), d, p)
		}
	}
}

// checkWaits checks the waits before attempts against gRFC A6.
func (o *oracle) checkWaits(t *testing.T, who string, c call, out outcome) {
	t.Helper()
	grown := 0
	for i, a := range out.attempts[1:] {
		want, jitter := float64(o.backoff(grown)), 0.2
		grown++
		if p := c.deed(i).pushback; len(p) > 0 {
			ms, err := time.ParseDuration(p[0] + "ms")
			if err != nil {
				t.Fatal(err)
			}
			want, jitter, grown = float64(ms), 0, 0
		}
		if got := float64(a.wait); got < want*(1-jitter)-1e3 || got > want*(1+jitter)+1e3 {
			t.Errorf("%s: wait %d of %+v is %v, want %v and at most a fifth more or less", who, i+1, c, a.wait, time.Duration(want))
		}
	}
}

// Random policies and random servers: a grpc-go client that obeys the policy itself, and
// one whose Pillion does, make the same attempts at the same times with the same outcome.
func TestRetriesAreThoseOfGRPC(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			o := draw(rand.New(rand.NewPCG(seed, 5)))
			var direct, pillion []outcome
			synctest.Test(t, func(t *testing.T) { direct = o.direct(t) })
			synctest.Test(t, func(t *testing.T) { pillion = o.throughPillion(t) })
			o.compare(t, direct, pillion)
		})
	}
}

func draw(rnd *rand.Rand) *oracle {
	pick := func(of ...codes.Code) codes.Code { return of[rnd.IntN(len(of))] }
	o := &oracle{policy: retry.Policy{
		Name: "drawn", MaxAttempts: 2 + rnd.IntN(4), Multiplier: 1 + float64(rnd.IntN(30))/10,
		InitialBackoff: time.Duration(1+rnd.IntN(100)) * time.Millisecond, MaxBackoff: time.Duration(1+rnd.IntN(300)) * time.Millisecond,
		Codes: wire.CodesOf(codes.Unavailable, pick(codes.Internal, codes.ResourceExhausted, codes.Aborted, codes.Unknown)),
	}}
	if rnd.IntN(3) == 0 {
		o.throttling = &retry.ThrottlingOptions{MaxTokens: 1 + rnd.IntN(10), TokenRatio: float64(1+rnd.IntN(20)) / 10}
	}
	for range 1 + rnd.IntN(8) {
		var c call
		if rnd.IntN(4) == 0 {
			c.timeout = time.Duration(50+rnd.IntN(500))*time.Millisecond + 500*time.Microsecond
		}
		for range rnd.IntN(7) {
			s := deed{code: codes.Unavailable}
			if rnd.IntN(3) == 0 {
				s.code = pick(codes.OK, codes.Internal, codes.ResourceExhausted, codes.Aborted, codes.Unknown, codes.NotFound)
			}
			s.headers = rnd.IntN(8) == 0
			if rnd.IntN(4) == 0 {
				s.wait = time.Duration(rnd.IntN(100)) * time.Millisecond
			}
			switch rnd.IntN(12) {
			case 0:
				s.pushback = []string{fmt.Sprint(rnd.IntN(200))}
			case 1:
				s.pushback = []string{[]string{"-1", "soon", "", "1.5"}[rnd.IntN(4)]}
			case 2:
				s.pushback = []string{"1", "2"}
			}
			c.steps = append(c.steps, s)
		}
		if !o.ambiguous(c) {
			o.calls = append(o.calls, c)
		}
	}
	return o
}

// ambiguous says that it depends on the random part of a wait whether the deadline comes
// before or behind it.
func (o *oracle) ambiguous(c call) bool {
	var least, most time.Duration
	grown := 0
	for i := range o.policy.MaxAttempts {
		d := c.deed(i)
		least, most = least+d.wait, most+d.wait
		if len(d.pushback) > 0 {
			ms, _ := time.ParseDuration(d.pushback[0] + "ms")
			least, most, grown = least+ms, most+ms, 0
		} else {
			wait := o.backoff(grown)
			least, most = least+wait*4/5, most+wait*6/5
			grown++
		}
		if least <= c.timeout && c.timeout <= most {
			return true
		}
	}
	return false
}

// backoff is the wait that gRFC A6 has for a retry with so many before it, without its
// random part.
func (o *oracle) backoff(grown int) time.Duration {
	wait := float64(o.policy.InitialBackoff) * math.Pow(o.policy.Multiplier, float64(grown))
	return time.Duration(min(wait, float64(o.policy.MaxBackoff)))
}

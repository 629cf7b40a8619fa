package policy

import (
	"testing"
	"time"
)

func TestAnRPCPassesAllLimitsOrTakesNothing(t *testing.T) {
	t.Parallel()
	limit := compiled(t, `
- name: limit
  service: greeter
  rate_limit:
    limits:
    - {requests: 3, interval: 60s, match: {methods: [helloworld.Greeter]}}
    - {requests: 1, interval: 60s, key: {metadata: user}}`).Service("greeter").Outbound(sayHello).RateLimit
	now := time.Unix(1_000_000, 0)
	take := func(path string, metadata ...string) (LimitReached, bool) {
		return limit.Take(now, request(path, metadata...))
	}
	for i, step := range []struct {
		path, user string
		limit      int
	}{
		{sayHello, "user: alice", 0},
		{sayHello, "user: alice", 2}, // and gives back what it took of the first limit
		{sayHello, "user: alice", 2},
		{sayHello, "user: bob", 0},
		{sayHello, "x: without", 0},
		{sayHello, "user: carol", 1},
		{"/other.Service/Method", "user: carol", 0}, // the first limit is not for it
		{"/other.Service/Method", "x: without", 2},  // those without a key share a bucket
	} {
		reached, ok := take(step.path, step.user)
		if ok != (step.limit == 0) || reached.Number != step.limit {
			t.Errorf("RPC %d: %+v, %v, want limit %d", i, reached, ok, step.limit)
		}
		if !ok && (reached.RetryAfter <= 0 || reached.RetryAfter > time.Minute || reached.Policy != "limit") {
			t.Errorf("RPC %d: %+v", i, reached)
		}
	}
	if refused := limit.Refused(); refused[0] != 1 || refused[1] != 3 {
		t.Errorf("refused: %v", refused)
	}
	message := LimitReached{Policy: "limit", Number: 2, RetryAfter: 1500 * time.Millisecond}.Message()
	if message != `rate limited: policy "limit", limit 2: there is room again in 1.5s` {
		t.Error(message)
	}
}

func TestFaultsAreForThoseThatMatch(t *testing.T) {
	t.Parallel()
	fault := compiled(t, `
- name: fault
  service: greeter
  fault: {match: {metadata: [{key: chaos, exact: "on"}]}, abort: {status: {code: ABORTED}, fraction: 10000}}`).Service("greeter").Outbound(sayHello).Fault
	if f, ok := fault.Decide(request(sayHello, "chaos: on")); !ok || !f.Abort || f.Code.String() != "Aborted" {
		t.Errorf("%+v, %v", f, ok)
	}
	if f, ok := fault.Decide(request(sayHello)); ok {
		t.Errorf("%+v", f)
	}
	if fault.Name != "fault" {
		t.Error(fault.Name)
	}
}

func TestMirrorsAreBounded(t *testing.T) {
	t.Parallel()
	m := compiledRoute(t, "- {mirror: {to: {service: shadow, subset: v2}, fraction: 5000, max_concurrent: 2}}").rules[0].Mirror
	if m.Service != "shadow" || m.Subset != "v2" || m.MaxBytes != 64<<10 {
		t.Errorf("%+v", m)
	}
	const low, high = 0, 1 << 63
	if m.Begin(high) || !m.Begin(low) || !m.Begin(low) || m.Begin(low) || m.Active() != 2 {
		t.Errorf("%d are under way", m.Active())
	}
	if m.End(); !m.Begin(low) {
		t.Error("no copy begins though one has ended")
	}
	if (*Mirror)(nil).Begin(low) {
		t.Error("no mirror copies")
	}
}

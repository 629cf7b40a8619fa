package chain

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

// The bounds of the schema for what upstream configuration says.
const (
	maxConnectTimeout = 300 * time.Second
	maxConcurrent     = 1_000_000
	maxConsecutive    = 100_000
	maxEjection       = time.Hour
)

// What Envoy has where passive health checks do not say.
const (
	envoyMaxFailures        = 5
	envoyMaxEjectionPercent = 10
)

// envoyFailures are the statuses of gRPC that Envoy counts as 5xx.
var envoyFailures = []string{"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}

// limit adds what the caller's service-defaults says of a service that RPCs reach.
func (t *translation) limit(service string, said *resolved) {
	if t.tcp {
		if said.limits != nil || said.health != nil {
			t.notef("its protocol is tcp there, where limits and passive health checks are about connections, not RPCs: write protocol = \"grpc\"")
		}
		return
	}
	if l := said.limits; l != nil {
		t.limits(service, l, said.limitsAt)
	}
	if h := said.health; h != nil {
		t.health(service, h, said.healthAt)
	}
}

func (t *translation) limits(service string, l *upstreamLimits, where string) {
	if n := l.MaxConnections; n != nil {
		t.notef("%s.max_connections is %d there; a sidecar has one connection to an instance until that has no room for another RPC (connections.max_connections_per_instance)", where, *n)
	}
	if n := l.MaxPendingRequests; n != nil {
		t.notef("%s.max_pending_requests is %d there; how many RPCs wait for a connection to an instance is one number for all services (connections.max_pending_rpcs)", where, *n)
	}
	n := l.MaxConcurrentRequests
	if n == nil {
		return
	}
	most := *n
	if most < 1 {
		t.refusef(service, kindCircuitBreaker, "%s.max_concurrent_requests is %d, which lets no RPC through: a sidecar lets 1 through at a time", where, most)
		most = 1
	}
	t.add(service, kindCircuitBreaker, &configv1.Policy{Kind: &configv1.Policy_CircuitBreaker{CircuitBreaker: &configv1.CircuitBreakerPolicy{
		MaxConcurrent: new(uint32(min(most, maxConcurrent))), Together: true,
	}}})
}

func (t *translation) health(service string, h *passiveHealthCheck, where string) {
	e := &configv1.OutlierEjectionPolicy{
		FailureCodes: envoyFailures, MaxEjectionPercent: new(uint32(envoyMaxEjectionPercent)), ConsecutiveFailures: new(uint32(envoyMaxFailures)),
		// Envoy looks at these whatever else is said.
		SuccessRate: &configv1.SuccessRateEjection{},
	}
	if h.MaxFailures > 0 {
		e.ConsecutiveFailures = new(min(h.MaxFailures, maxConsecutive))
	}
	if p := h.MaxEjectionPercent; p != nil {
		e.MaxEjectionPercent = new(min(*p, 100))
	}
	if p := h.EnforcingConsecutive5xx; p != nil && *p < 100 {
		in := e.GetConsecutiveFailures()
		if *p == 0 {
			e.ConsecutiveFailures = new(uint32(0))
		} else {
			e.ConsecutiveFailures = new(uint32(min((uint64(in)*100+uint64(*p)-1)/uint64(*p), maxConsecutive)))
			t.notef("%s.enforcing_consecutive_5xx is %d there: Envoy leaves an instance alone in so many of a hundred times that it fails %d times in a row; a sidecar does each time that it fails %d times in a row", where, *p, in, e.GetConsecutiveFailures())
		}
	}
	e.Interval = ejectionTime(h.Interval, 100*time.Millisecond)
	if d := h.BaseEjectionTime; d != nil {
		e.BaseEjectionTime = ejectionTime(*d, 10*time.Millisecond)
	}
	t.add(service, kindOutlierEjection, &configv1.Policy{Kind: &configv1.Policy_OutlierEjection{OutlierEjection: e}})
}

// ejectionTime is a time as policies have it; nil: none is said.
func ejectionTime(d Duration, least time.Duration) *durationpb.Duration {
	if d <= 0 {
		return nil
	}
	return durationpb.New(min(max(time.Duration(d), least), maxEjection))
}

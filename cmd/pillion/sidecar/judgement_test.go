package sidecar

import (
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/pillion-proxy/pillion/proto/pillion/admin/v1"
	"github.com/pillion-proxy/pillion/proxy/breaker"
	"github.com/pillion-proxy/pillion/proxy/health"
	"github.com/pillion-proxy/pillion/proxy/outlier"
	"github.com/pillion-proxy/pillion/proxy/upstream"
)

func TestJudgement(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	at := func(seconds int) time.Time { return now.Add(time.Duration(seconds) * time.Second) }
	shown := func(seconds int) *timestamppb.Timestamp { return timestamppb.New(at(seconds)) }
	for name, tc := range map[string]struct {
		verdicts upstream.Verdicts
		want     *adminv1.Instance
	}{
		"no policy": {upstream.Verdicts{}, &adminv1.Instance{}},
		"all is well": {
			upstream.Verdicts{Ejection: &outlier.Status{RPCs: 7, Failures: 2, InARow: 1, Times: 3}, Health: &health.Report{Needed: 3}, Breaker: &breaker.Status{Total: 5}},
			&adminv1.Instance{
				Ejection:       &adminv1.Ejection{Rpcs: 7, Failures: 2, ConsecutiveFailures: 1, Times: 3},
				HealthCheck:    &adminv1.HealthCheck{Healthy: true, Threshold: 3},
				CircuitBreaker: &adminv1.InstanceBreaker{State: "closed", Rpcs: 5},
			},
		},
		"nothing is": {
			upstream.Verdicts{
				Blocked:        upstream.Ejected | upstream.Unhealthy | upstream.Broken,
				EjectionPolicy: "e", HealthPolicy: "h", BreakerPolicy: "b",
				Ejection: &outlier.Status{Ejected: true, Reason: outlier.LowSuccessRate, Why: "few succeeded", Since: at(-3), Until: at(27), Times: 1},
				Health:   &health.Report{Unhealthy: true, Since: at(-2), Last: health.Answer{Text: "NOT_SERVING"}, LastAt: at(-1), Against: 1, Needed: 2},
				Breaker:  &breaker.Status{State: breaker.Open, Since: at(-1), Until: at(4), Reason: "3 failures in a row"},
			},
			&adminv1.Instance{
				Blocked: []adminv1.BlockReason{
					adminv1.BlockReason_BLOCK_REASON_EJECTED, adminv1.BlockReason_BLOCK_REASON_UNHEALTHY, adminv1.BlockReason_BLOCK_REASON_BROKEN,
				},
				BlockedBecause: `ejected by policy "e" for 27s more: few succeeded; unhealthy by policy "h" for 2s: NOT_SERVING; ` +
					`broken by policy "b": its circuit breaker is open for 4s more: 3 failures in a row`,
				Ejection: &adminv1.Ejection{
					Ejected: true, Rule: "success_rate", Reason: "few succeeded", Since: shown(-3), Until: shown(27), Times: 1,
				},
				HealthCheck: &adminv1.HealthCheck{
					Since: shown(-2), LastAnswer: "NOT_SERVING", LastAnswerAt: shown(-1), Contrary: 1, Threshold: 2,
				},
				CircuitBreaker: &adminv1.InstanceBreaker{State: "open", Since: shown(-1), Until: shown(4), Reason: "3 failures in a row"},
			},
		},
		"probes are under way": {
			upstream.Verdicts{Blocked: upstream.Broken, BreakerPolicy: "b", Breaker: &breaker.Status{State: breaker.HalfOpen, Probes: 2, Succeeded: 1}},
			&adminv1.Instance{
				Blocked:        []adminv1.BlockReason{adminv1.BlockReason_BLOCK_REASON_BROKEN},
				BlockedBecause: `broken by policy "b": its circuit breaker is half-open: 2 probes under way, 1 have succeeded`,
				CircuitBreaker: &adminv1.InstanceBreaker{State: "half-open", Probes: 2, Succeeded: 1},
			},
		},
	} {
		got := &adminv1.Instance{}
		judgement(got, &tc.verdicts, now)
		if !proto.Equal(got, tc.want) {
			t.Errorf("%s:\n got %v\nwant %v", name, got, tc.want)
		}
	}
}

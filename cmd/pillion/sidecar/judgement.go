package sidecar

import (
	"time"

	adminv1 "github.com/pillion-proxy/pillion/proto/pillion/admin/v1"
	"github.com/pillion-proxy/pillion/proxy/breaker"
	"github.com/pillion-proxy/pillion/proxy/health"
	"github.com/pillion-proxy/pillion/proxy/outlier"
	"github.com/pillion-proxy/pillion/proxy/upstream"
)

// judgement shows what policies have an instance judged by, and what came of it.
func judgement(out *adminv1.Instance, v *upstream.Verdicts, now time.Time) {
	for _, one := range [...]struct {
		reason upstream.Reason
		shown  adminv1.BlockReason
	}{
		{upstream.Ejected, adminv1.BlockReason_BLOCK_REASON_EJECTED},
		{upstream.Unhealthy, adminv1.BlockReason_BLOCK_REASON_UNHEALTHY},
		{upstream.Broken, adminv1.BlockReason_BLOCK_REASON_BROKEN},
	} {
		if v.Blocked&one.reason != 0 {
			out.Blocked = append(out.Blocked, one.shown)
		}
	}
	out.BlockedBecause = v.Text(now)
	out.Ejection = ejection(v.Ejection)
	out.HealthCheck = healthCheck(v.Health)
	out.CircuitBreaker = instanceBreaker(v.Breaker)
}

func ejection(st *outlier.Status) *adminv1.Ejection {
	if st == nil {
		return nil
	}
	out := &adminv1.Ejection{
		Ejected: st.Ejected, Reason: st.Why, Since: timestamp(st.Since), Until: timestamp(st.Until),
		Times: uint32(st.Times), Rpcs: st.RPCs, Failures: st.Failures, ConsecutiveFailures: st.InARow,
	}
	if st.Ejected {
		out.Rule = st.Reason.String()
	}
	return out
}

func healthCheck(r *health.Report) *adminv1.HealthCheck {
	if r == nil {
		return nil
	}
	return &adminv1.HealthCheck{
		Healthy: !r.Unhealthy, Since: timestamp(r.Since), LastAnswer: r.Last.Text, LastAnswerAt: timestamp(r.LastAt),
		Contrary: uint32(r.Against), Threshold: uint32(r.Needed),
	}
}

func instanceBreaker(st *breaker.Status) *adminv1.InstanceBreaker {
	if st == nil {
		return nil
	}
	return &adminv1.InstanceBreaker{
		State: st.State.String(), Since: timestamp(st.Since), Until: timestamp(st.Until), Reason: st.Reason,
		ConsecutiveFailures: uint32(st.InARow), Rpcs: uint32(st.Total), Failures: uint32(st.Failures), Slow: uint32(st.Slow),
		Probes: uint32(st.Probes), Succeeded: uint32(st.Succeeded),
	}
}

package policy

import (
	"slices"

	"google.golang.org/protobuf/proto"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	"github.com/pillion-proxy/pillion/proxy/retry"
	"github.com/pillion-proxy/pillion/proxy/wire"
)

// The conditions of retries, as the schema names them.
const (
	conditionConnectFailure     = "connect-failure"
	conditionResetBeforeHeaders = "reset-before-headers"
)

// compileRetry compiles a retry policy. What is counted goes on where budget and
// throttling are the same as before.
func (p *problems) compileRetry(m *configv1.RetryPolicy, before *entry) *retry.Policy {
	r := &retry.Policy{
		Name:               p.policy,
		MaxAttempts:        int(m.GetMaxAttempts()),
		Codes:              p.codes("retry.retryable_status_codes", m.GetRetryableStatusCodes()),
		ConnectFailure:     slices.Contains(m.GetConditions(), conditionConnectFailure),
		ResetBeforeHeaders: slices.Contains(m.GetConditions(), conditionResetBeforeHeaders),
		HoldHeaders:        m.GetHoldHeaders(),
		InitialBackoff:     m.GetInitialBackoff().AsDuration(),
		MaxBackoff:         m.GetMaxBackoff().AsDuration(),
		Multiplier:         m.GetBackoffMultiplier(),
		BufferBytes:        int(m.GetBufferPerRpc()),
	}
	if r.Codes == 0 && !r.ConnectFailure && !r.ResetBeforeHeaders {
		p.addf("retry", "sends nothing again: write retryable_status_codes or conditions")
	}
	if r.MaxBackoff < r.InitialBackoff {
		p.addf("retry.max_backoff", "is %v, less than initial_backoff, %v", r.MaxBackoff, r.InitialBackoff)
	}
	var old *configv1.RetryPolicy
	if before != nil && before.retry != nil {
		old = before.source.GetRetry()
	}
	if old != nil && sameLimits(old, m) {
		r.Limits = before.retry.Limits
	} else {
		r.Limits = retryLimits(m.GetBudget(), m.GetThrottling())
	}
	return r
}

// compileHedging compiles a hedging policy, with what is counted as compileRetry.
func (p *problems) compileHedging(m *configv1.HedgingPolicy, before *entry) *retry.Hedging {
	h := &retry.Hedging{
		Name:        p.policy,
		MaxAttempts: int(m.GetMaxAttempts()),
		Delay:       m.GetHedgingDelay().AsDuration(),
		NonFatal:    p.codes("hedging.non_fatal_status_codes", m.GetNonFatalStatusCodes()),
		BufferBytes: int(m.GetBufferPerRpc()),
	}
	var old *configv1.HedgingPolicy
	if before != nil && before.hedging != nil {
		old = before.source.GetHedging()
	}
	if old != nil && sameLimits(old, m) {
		h.Limits = before.hedging.Limits
	} else {
		h.Limits = retryLimits(m.GetBudget(), m.GetThrottling())
	}
	return h
}

// limited is a policy with bounds on further attempts.
type limited interface {
	GetBudget() *configv1.RetryBudget
	GetThrottling() *configv1.RetryThrottling
}

func sameLimits(a, b limited) bool {
	return proto.Equal(a.GetBudget(), b.GetBudget()) && proto.Equal(a.GetThrottling(), b.GetThrottling())
}

func retryLimits(budget *configv1.RetryBudget, throttling *configv1.RetryThrottling) *retry.Limits {
	var b *retry.BudgetOptions
	if budget != nil {
		b = &retry.BudgetOptions{Ratio: budget.GetRatio(), MinPerSecond: budget.GetMinPerSecond()}
	}
	var t *retry.ThrottlingOptions
	if throttling != nil {
		t = &retry.ThrottlingOptions{MaxTokens: int(throttling.GetMaxTokens()), TokenRatio: throttling.GetTokenRatio()}
	}
	return retry.NewLimits(b, t)
}

// codes reads statuses.
func (p *problems) codes(field string, names []string) wire.CodeSet {
	set, err := wire.ParseCodes(names)
	if err != nil {
		p.addf(field, "%v", err)
	}
	return set
}

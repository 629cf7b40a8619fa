package policy

import configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"

// Kind is what a policy says something about.
type Kind uint8

// The kinds. Those up to KindFault are about methods, and an RPC obeys one policy of each;
// KindSplit is about methods too. The others are about a service as a whole.
const (
	KindRoute Kind = iota
	KindTimeout
	KindRetry
	KindHedging
	KindCircuitBreaker
	KindRateLimit
	KindFault
	KindSubsets
	KindLoadBalancing
	KindOutlierEjection
	KindHealthCheck
	KindAccess
	KindSplit

	numKinds
)

var kindNames = [numKinds]string{
	KindRoute:           "route",
	KindTimeout:         "timeout",
	KindRetry:           "retry",
	KindHedging:         "hedging",
	KindCircuitBreaker:  "circuit_breaker",
	KindRateLimit:       "rate_limit",
	KindFault:           "fault",
	KindSubsets:         "subsets",
	KindLoadBalancing:   "load_balancing",
	KindOutlierEjection: "outlier_ejection",
	KindHealthCheck:     "health_check",
	KindAccess:          "access",
	KindSplit:           "split",
}

// String returns the kind's name in the schema.
func (k Kind) String() string {
	if k >= numKinds {
		return "unknown"
	}
	return kindNames[k]
}

// ofMethods says whether policies of the kind are about methods.
func (k Kind) ofMethods() bool { return k <= KindFault || k == KindSplit }

// mayBeInbound says whether policies of the kind may hold beside the service.
func (k Kind) mayBeInbound() bool {
	return k == KindTimeout || k == KindCircuitBreaker || k == KindRateLimit || k == KindFault || k == KindAccess
}

// together says whether all policies of the kind for a service hold, and not just the
// most exact one.
func (k Kind) together() bool { return k == KindAccess || k == KindSplit }

// slot is the place of a kind of which an RPC obeys one policy. Retry and hedging
// share one: an RPC obeys either, whichever is the more exact.
func (k Kind) slot() Kind {
	if k == KindHedging {
		return KindRetry
	}
	return k
}

// kindOf returns a policy's kind. It is false where it says nothing.
func kindOf(m *configv1.Policy) (Kind, bool) {
	switch m.GetKind().(type) {
	case *configv1.Policy_Route:
		return KindRoute, true
	case *configv1.Policy_Timeout:
		return KindTimeout, true
	case *configv1.Policy_Retry:
		return KindRetry, true
	case *configv1.Policy_Hedging:
		return KindHedging, true
	case *configv1.Policy_CircuitBreaker:
		return KindCircuitBreaker, true
	case *configv1.Policy_RateLimit:
		return KindRateLimit, true
	case *configv1.Policy_Fault:
		return KindFault, true
	case *configv1.Policy_Subsets:
		return KindSubsets, true
	case *configv1.Policy_LoadBalancing:
		return KindLoadBalancing, true
	case *configv1.Policy_OutlierEjection:
		return KindOutlierEjection, true
	case *configv1.Policy_HealthCheck:
		return KindHealthCheck, true
	case *configv1.Policy_Access:
		return KindAccess, true
	case *configv1.Policy_Split:
		return KindSplit, true
	}
	return 0, false
}

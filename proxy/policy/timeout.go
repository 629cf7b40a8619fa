package policy

import (
	"cmp"
	"time"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

// Timeout says how long RPCs may take. A field that is 0 does not hold.
type Timeout struct {
	// Policy is the policy's name.
	Policy string
	// Default is the deadline of RPCs that come without one.
	Default time.Duration
	// Max is the longest deadline that an RPC may have.
	Max time.Duration
	// PerAttempt is how long an attempt may take to the end of its answer's headers.
	PerAttempt time.Duration
	// Idle is how long nothing may come or go on a stream.
	Idle time.Duration
	// MaxAge is how long a stream may last.
	MaxAge time.Duration
}

// compileTimeout compiles a timeout policy.
func (p *problems) compileTimeout(m *configv1.TimeoutPolicy) *Timeout {
	t := &Timeout{
		Policy:     p.policy,
		Default:    m.GetDefault().AsDuration(),
		Max:        m.GetMax().AsDuration(),
		PerAttempt: m.GetPerAttempt().AsDuration(),
		Idle:       m.GetIdle().AsDuration(),
		MaxAge:     m.GetMaxAge().AsDuration(),
	}
	if *t == (Timeout{Policy: p.policy}) {
		p.addf("timeout", "says nothing: write default, max, per_attempt, idle or max_age")
	}
	if t.Max > 0 && t.Default > t.Max {
		p.addf("timeout.default", "is %v, but no RPC may have more than max, %v", t.Default, t.Max)
	}
	if t.Max > 0 && t.PerAttempt > t.Max {
		p.addf("timeout.per_attempt", "is %v, but the whole RPC may not take more than max, %v", t.PerAttempt, t.Max)
	}
	return t
}

// Bounds returns the deadline of RPCs that come without one, and the longest that they
// may have, where these hold unless policies say otherwise. 0: none. The rule, which
// may be nil, is the route's that decided.
func (m *Method) Bounds(rule *Rule, standard, most time.Duration) (time.Duration, time.Duration) {
	if m != nil && m.Timeout != nil || rule != nil && rule.Timeouts != nil {
		t := m.Times(rule)
		standard, most = cmp.Or(t.Default, standard), cmp.Or(t.Max, most)
	}
	if rule != nil && rule.Timeout > 0 {
		standard = rule.Timeout
	}
	return standard, most
}

// Deadline returns how long an RPC may take whose caller asked for so much, 0: for
// nothing. capped: that is not what the caller asked for. The result is 0 where there is
// no bound.
func Deadline(standard, most, asked time.Duration) (timeout time.Duration, capped bool) {
	timeout, capped = standard, standard > 0
	if asked > 0 {
		timeout, capped = asked, false
	}
	if most > 0 && (timeout == 0 || timeout > most) {
		timeout, capped = most, true
	}
	return timeout, capped
}

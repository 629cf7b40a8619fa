package explain

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	"github.com/pillion-proxy/pillion/proxy/policy"
)

// sentence collects what there is to say of a policy.
type sentence []string

func (s *sentence) addf(format string, args ...any) { *s = append(*s, fmt.Sprintf(format, args...)) }

// duration adds a field that is set.
func (s *sentence) duration(name string, d *durationpb.Duration) {
	if d != nil {
		s.addf("%s %v", name, d.AsDuration())
	}
}

// says writes in short what a policy says.
func says(p *configv1.Policy) string {
	var s sentence
	switch kind := p.GetKind().(type) {
	case *configv1.Policy_Route:
		s.addf("%s", plural(len(kind.Route.GetRules()), "rule"))
	case *configv1.Policy_Subsets:
		s.subsets(kind.Subsets)
	case *configv1.Policy_Timeout:
		t := kind.Timeout
		s.duration("default", t.GetDefault())
		s.duration("max", t.GetMax())
		s.duration("per attempt", t.GetPerAttempt())
		s.duration("idle", t.GetIdle())
		s.duration("max age", t.GetMaxAge())
	case *configv1.Policy_Retry:
		s.retry(kind.Retry)
	case *configv1.Policy_Hedging:
		h := kind.Hedging
		s.addf("%d attempts, each %v after the one before", h.GetMaxAttempts(), h.GetHedgingDelay().AsDuration())
		if len(h.GetNonFatalStatusCodes()) > 0 {
			s.addf("goes on after %s", strings.Join(h.GetNonFatalStatusCodes(), ", "))
		}
		s.budget(h.GetBudget(), h.GetThrottling())
	case *configv1.Policy_CircuitBreaker:
		s.breaker(kind.CircuitBreaker)
	case *configv1.Policy_RateLimit:
		for _, l := range kind.RateLimit.GetLimits() {
			s.limit(l)
		}
	case *configv1.Policy_Fault:
		s.fault(kind.Fault)
	case *configv1.Policy_LoadBalancing:
		s.balancing(kind.LoadBalancing)
	case *configv1.Policy_OutlierEjection:
		s.ejection(kind.OutlierEjection)
	case *configv1.Policy_HealthCheck:
		h := kind.HealthCheck
		way := "asked"
		if h.GetWatch() {
			way = "watched"
		}
		s.addf("%s every %v, at most %v", way, h.GetInterval().AsDuration(), h.GetTimeout().AsDuration())
		s.addf("unhealthy after %d, healthy after %d", h.GetUnhealthyThreshold(), h.GetHealthyThreshold())
	case *configv1.Policy_Access:
		s.access(kind.Access)
	case *configv1.Policy_Split:
		s.split(kind.Split)
	}
	return strings.Join(s, "; ")
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(n) + " " + what + "s"
}

func float(f float64) string { return strconv.FormatFloat(f, 'g', 4, 64) }

func (s *sentence) subsets(m *configv1.SubsetsPolicy) {
	for _, name := range slices.Sorted(maps.Keys(m.GetSubsets())) {
		subset := m.GetSubsets()[name]
		var of []string
		for _, key := range slices.Sorted(maps.Keys(subset.GetMeta())) {
			of = append(of, key+"="+subset.GetMeta()[key])
		}
		of = append(of, subset.GetTags()...)
		text := fmt.Sprintf("%s (%s)", name, strings.Join(of, ", "))
		if fallback := subset.GetFallback(); fallback != "none" && fallback != "" {
			text += ", else " + fallback
		}
		*s = append(*s, text)
	}
	if d := m.GetDefault(); d != "" {
		s.addf("default %s", d)
	}
}

func (s *sentence) retry(r *configv1.RetryPolicy) {
	s.addf("%d attempts on %s", r.GetMaxAttempts(), strings.Join(slices.Concat(r.GetRetryableStatusCodes(), r.GetConditions()), ", "))
	s.addf("backoff %v to %v", r.GetInitialBackoff().AsDuration(), r.GetMaxBackoff().AsDuration())
	if r.GetHoldHeaders() {
		s.addf("headers are held back")
	}
	s.budget(r.GetBudget(), r.GetThrottling())
}

func (s *sentence) budget(b *configv1.RetryBudget, t *configv1.RetryThrottling) {
	if b != nil {
		s.addf("budget %s of RPCs and %s/s", policy.Percent(b.GetRatio()), float(b.GetMinPerSecond()))
	}
	if t != nil {
		s.addf("%d tokens, %s for each success", t.GetMaxTokens(), float(t.GetTokenRatio()))
	}
}

func (s *sentence) breaker(b *configv1.CircuitBreakerPolicy) {
	if b.GetTrip() != nil {
		s.addf("opens %s", trip(b.GetTrip()))
	}
	if b.GetPerInstance() != nil {
		s.addf("for an instance %s", trip(b.GetPerInstance()))
	}
	if b.MaxConcurrent != nil {
		s.addf("%d RPCs under way, %d waiting", b.GetMaxConcurrent(), b.GetMaxPending())
	}
}

func trip(t *configv1.BreakerTrip) string {
	var when []string
	if n := t.GetConsecutiveFailures(); n > 0 {
		when = append(when, fmt.Sprintf("%d failures in a row", n))
	}
	if t.FailureRatio != nil {
		when = append(when, policy.Percent(t.GetFailureRatio())+" failures")
	}
	if t.SlowCallRatio != nil {
		when = append(when, fmt.Sprintf("%s over %v", policy.Percent(t.GetSlowCallRatio()), t.GetSlowCall().AsDuration()))
	}
	text := "at " + strings.Join(when, " or ")
	if t.FailureRatio != nil || t.SlowCallRatio != nil {
		text += fmt.Sprintf(" of %d in %v", t.GetMinVolume(), t.GetWindow().AsDuration())
	}
	return fmt.Sprintf("%s, for %v to %v", text, t.GetOpenFor().AsDuration(), t.GetMaxOpenFor().AsDuration())
}

func (s *sentence) limit(l *configv1.RateLimit) {
	text := fmt.Sprintf("%s in %v", plural(int(l.GetRequests()), "RPC"), l.GetInterval().AsDuration())
	if l.GetBurst() != l.GetRequests() {
		text += fmt.Sprintf(" (%d at once)", l.GetBurst())
	}
	if key := hashKey(l.GetKey()); key != "" {
		text += " for each " + key
	}
	*s = append(*s, text)
}

func hashKey(k *configv1.HashKey) string {
	switch from := k.GetFrom().(type) {
	case *configv1.HashKey_Metadata:
		return from.Metadata
	case *configv1.HashKey_Cookie:
		return "cookie " + from.Cookie
	case *configv1.HashKey_Caller:
		return "caller"
	}
	return ""
}

func (s *sentence) split(m *configv1.SplitPolicy) {
	for _, d := range m.GetSplit().GetDestinations() {
		s.addf("%s %s", d.GetGroup(), policy.Percent(float64(d.GetWeight())/10_000))
	}
	if key := hashKey(m.GetSplit().GetSticky().GetKey()); key != "" {
		s.addf("by %s", key)
	}
	for _, r := range m.GetRanges() {
		s.addf("of those whose %s is at %d-%d", hashKey(r.GetKey()), r.GetStart(), int(r.GetEnd())-1)
	}
}

func (s *sentence) fault(f *configv1.FaultPolicy) {
	if d := f.GetDelay(); d != nil {
		how := "as callers say"
		if d.GetFor() != nil {
			how = d.GetFor().AsDuration().String()
		}
		s.addf("%s wait %s", policy.Percent(float64(d.GetFraction())/10_000), how)
	}
	if a := f.GetAbort(); a != nil {
		how := "as callers say"
		if a.GetStatus() != nil {
			how = a.GetStatus().GetCode()
		}
		s.addf("%s end %s", policy.Percent(float64(a.GetFraction())/10_000), how)
	}
}

func (s *sentence) balancing(b *configv1.LoadBalancingPolicy) {
	if b.GetPolicy() != "" {
		s.addf("%s", b.GetPolicy())
	}
	if key := hashKey(b.GetHash()); key != "" {
		s.addf("by %s", key)
	}
	if b.GetBoundedLoad() > 0 {
		s.addf("load at most %s times its share", float(b.GetBoundedLoad()))
	}
	if b.GetPanicThreshold() > 0 {
		s.addf("all below %d %% well", b.GetPanicThreshold())
	}
	if l := b.GetLocality(); l != nil {
		s.addf("same %s first", l.GetKey())
	}
	if b.GetSubsetSize() > 0 {
		s.addf("%d of the instances", b.GetSubsetSize())
	}
	if w := b.GetSlowStart(); w != nil {
		s.addf("new ones grow for %v", w.GetWindow().AsDuration())
	}
	for _, d := range b.GetFailover() {
		if d.GetService() == "" {
			s.addf("else subset %s", d.GetSubset())
			continue
		}
		s.addf("else %s", target(d.GetService(), d.GetSubset()))
	}
}

func (s *sentence) ejection(e *configv1.OutlierEjectionPolicy) {
	if n := e.GetConsecutiveFailures(); n > 0 {
		s.addf("%d failures in a row", n)
	}
	if r := e.GetSuccessRate(); r != nil {
		s.addf("success %s deviations below the mean", float(float64(r.GetStdevFactor())/1000))
	}
	if f := e.GetFailurePercentage(); f != nil {
		s.addf("more than %d %% failures", f.GetThreshold())
	}
	s.addf("for %v to %v, at most %d %%", e.GetBaseEjectionTime().AsDuration(), e.GetMaxEjectionTime().AsDuration(), e.GetMaxEjectionPercent())
}

// state writes what a policy knows now of a service; "" where that is nothing.
func state(p *policy.InForce, service string, now time.Time) string {
	switch {
	case p.RateLimit != nil:
		var refused []string
		for i, n := range p.RateLimit.Refused() {
			if n > 0 {
				refused = append(refused, fmt.Sprintf("%d by limit %d", n, i+1))
			}
		}
		if len(refused) == 0 {
			return "none refused"
		}
		return "refused " + strings.Join(refused, ", ")
	case p.Fault != nil:
		c := p.Fault.Counts()
		return fmt.Sprintf("%d delayed, %d ended, %d left in peace", c.Delayed, c.Aborted, c.Unharmed)
	case p.Retry != nil:
		return p.Retry.Limits.Look(service, now)
	case p.Hedging != nil:
		return p.Hedging.Limits.Look(service, now)
	}
	return ""
}

package policy

import (
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	"github.com/pillion-proxy/pillion/proxy/ratelimit"
)

// RateLimit is the limits of one policy. A nil one lets everything pass.
type RateLimit struct {
	// Policy is the policy's name.
	Policy string

	limits []rateLimit
}

type rateLimit struct {
	source  *configv1.RateLimit
	match   *Match
	key     *HashKey // nil: all share one bucket
	limiter *ratelimit.Limiter
}

// maxLimits is how many limits a policy may have, as the schema says.
const maxLimits = 64

// LimitReached says which limit an RPC has reached.
type LimitReached struct {
	// Policy is the policy's name, Number the limit's in its list, from 1 on.
	Policy string
	Number int
	// RetryAfter is when there will be room, if no other RPC takes it.
	RetryAfter time.Duration
}

// Message is what the caller is told.
func (l LimitReached) Message() string {
	return fmt.Sprintf("rate limited: policy %q, limit %d: there is room again in %v", l.Policy, l.Number, l.RetryAfter.Round(time.Millisecond))
}

// Take takes a token from each limit that is for the RPC. Where one has none left, it
// is not ok, and what the others gave is given back.
func (r *RateLimit) Take(now time.Time, rpc *RPC) (reached LimitReached, ok bool) {
	if r == nil {
		return LimitReached{}, true
	}
	d := dice{random: rpc.Random}
	var taken uint64 // a bit for each limit
	for i := range r.limits {
		l := &r.limits[i]
		if !l.match.matches(rpc, &d, uint64(i)) {
			continue
		}
		key, _ := l.key.Key(rpc)
		retryAfter, room := l.limiter.Take(now, key)
		if !room {
			r.giveBack(rpc, taken)
			return LimitReached{Policy: r.Policy, Number: i + 1, RetryAfter: retryAfter}, false
		}
		taken |= 1 << i
	}
	return LimitReached{}, true
}

func (r *RateLimit) giveBack(rpc *RPC, taken uint64) {
	for i := range r.limits {
		if taken&(1<<i) != 0 {
			key, _ := r.limits[i].key.Key(rpc)
			r.limits[i].limiter.Return(key)
		}
	}
}

// Refused is how many RPCs were refused by each of the limits, in their order.
func (r *RateLimit) Refused() []uint64 {
	refused := make([]uint64, len(r.limits))
	for i := range r.limits {
		refused[i] = r.limits[i].limiter.Refused()
	}
	return refused
}

// compileRateLimit compiles the limits of a policy. A limit that stood before in the
// policy keeps its buckets.
func (p *problems) compileRateLimit(m *configv1.RateLimitPolicy, before *RateLimit) *RateLimit {
	r := &RateLimit{Policy: p.policy}
	if len(m.GetLimits()) > maxLimits {
		p.addf("rate_limit.limits", "are %d, but there may be %d at most", len(m.GetLimits()), maxLimits)
		return r
	}
	for i, limit := range m.GetLimits() {
		field := at("rate_limit.limits", i)
		l := rateLimit{
			source: limit,
			match:  p.compileMatch(field+".match", limit.GetMatch()),
			key:    p.compileHashKey(field+".key", limit.GetKey()),
		}
		if l.limiter = before.take(limit, r); l.limiter == nil {
			options := ratelimit.Limit{Requests: int(limit.GetRequests()), Interval: limit.GetInterval().AsDuration(), Burst: int(limit.GetBurst())}
			if l.key != nil {
				options.MaxKeys = int(limit.GetMaxKeys())
			}
			l.limiter = ratelimit.New(options)
		}
		r.limits = append(r.limits, l)
	}
	return r
}

// take returns the buckets of a limit that is the same and was not taken over yet; nil:
// there is none.
func (r *RateLimit) take(m *configv1.RateLimit, by *RateLimit) *ratelimit.Limiter {
	if r == nil {
		return nil
	}
	for i := range r.limits {
		limiter := r.limits[i].limiter
		if proto.Equal(r.limits[i].source, m) && !slices.ContainsFunc(by.limits, func(l rateLimit) bool { return l.limiter == limiter }) {
			return limiter
		}
	}
	return nil
}

package upstream

import (
	"log/slog"
	"time"

	"github.com/pillion-proxy/pillion/proxy/breaker"
)

// newBreaker makes an instance's own breaker.
func (j *judges) newBreaker(in *Instance, rules *judging) *breaker.Breaker {
	var b *breaker.Breaker
	b = breaker.New(*rules.trip, func(t breaker.Transition) { j.breakerChanged(in, b, t) })
	return b
}

// breakerChanged takes note of what an instance's breaker does, unless it is not the
// instance's any more.
func (j *judges) breakerChanged(in *Instance, b *breaker.Breaker, t breaker.Transition) {
	j.changing.Lock()
	defer j.changing.Unlock()
	now := in.judge.Load()
	if now == nil || now.breaker != b {
		return
	}
	in.Block(Broken, t.To != breaker.Closed)
	level, what := slog.LevelInfo, "instance's circuit breaker changed"
	numbers := []any{"from", t.From.String(), "to", t.To.String(), "why", t.Reason}
	if t.To == breaker.Open {
		level, what = slog.LevelWarn, "instance's circuit breaker opened"
		numbers = append(numbers, "for", t.OpenFor)
		j.cluster.counts.Judgement.BreakerOpenings.Add(1)
		j.cluster.unwell(in)
	}
	j.log(level, what, in, now.rules.policy, numbers...)
}

// onProbation says that the instance is blocked for its breaker alone, and that this
// would let an RPC through to see whether it is well.
func (in *Instance) onProbation() bool {
	if Reason(in.reasons.Load()) != Broken {
		return false
	}
	j := in.judge.Load()
	return j != nil && j.breaker != nil && j.breaker.Ready(time.Now())
}

package consul

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/hashicorp/consul/api"
)

// answer is what one query said.
type answer[T any] struct {
	// value is what it found; nothing where err is set.
	value T
	// lagging says that the server that answered has no leader, or has not heard
	// from it for a while.
	lagging bool
	// lost says that Consul counts from before what it had counted to: it has lost
	// what it knew, wholly or in part.
	lost bool
	err  *failure
	// failures counts the failures in a row, err's included.
	failures int
}

const (
	// quick is what counts as an answer that came at once. Queries that are
	// answered at once pause before they are asked again: news about anything
	// wakes a query for a service that is not there, and a service whose
	// instances flap would be sent over and over.
	quick = time.Second
	// quickPause is the pause after the first of them; it doubles to quickMost.
	quickPause = 50 * time.Millisecond
	quickMost  = time.Second

	// lagPause is the pause after an answer of a server that has no leader. It doubles to
	// lagMost: such answers come at once, all queries of all sidecars get them together,
	// and servers that elect a leader have no time for them.
	lagPause = time.Second
	lagMost  = 2 * time.Second

	// A first failure for want of an answer is one of a connection that was lost, as a
	// rule: it is soon mended, within lostBase. What an agent says instead of an answer
	// (that the servers have no leader, that a token is gone) it says to all queries of all
	// sidecars at once, and for a while: they come back within refusedBase.
	failureBase  = 100 * time.Millisecond
	failurePause = failureBase / 2 // the least
	lostBase     = 200 * time.Millisecond
	refusedBase  = time.Second
	failureMost  = 5 * time.Second
	limitedBase  = time.Second
	limitedMost  = 30 * time.Second

	// maxLag is how old the knowledge of the server that answers may be before
	// it counts as stale.
	maxLag = 10 * time.Second
)

// poller asks one question over and over, by blocking queries.
type poller[T any] struct {
	agent *agent
	// ask asks it once. It logs a failure, unless ctx was cancelled.
	ask func(ctx context.Context, options *api.QueryOptions) asked[T]
	// rest is called before each question. It waits until that should be asked, and
	// is false where ctx ended first. Nil: there is no need to wait.
	rest func(ctx context.Context) bool
	// most bounds the pause between answers that come at once. 0: quickMost.
	most time.Duration
	// urgent says that its news may not wait for a turn; see budget.
	urgent bool
	out    chan<- answer[T]
}

// run asks until ctx ends and sends each answer that may say something new.
func (p *poller[T]) run(ctx context.Context) {
	leave := p.agent.budget.join()
	defer leave()
	defer p.agent.absence.leave(p)

	var (
		index   uint64
		highest uint64 // that was answered
		hurried = backoff{base: quickPause, most: cmp.Or(p.most, quickMost), random: p.agent.random}
		lagged  = backoff{base: lagPause, least: failurePause, most: lagMost, random: p.agent.random}
		failed  = newSetbacks(p.agent.random)
	)
	for ctx.Err() == nil {
		if p.rest != nil && !p.rest(ctx) {
			return
		}
		asked := p.turn(ctx, index)
		switch {
		case ctx.Err() != nil:
			return
		case asked.preempted != nil:
			if errors.Is(asked.preempted, errInterrupted) {
				index = 0
			}

			continue
		case asked.err != nil:
			// Whoever answers next may count differently, and shall not block.
			index = 0
			if asked.took >= quick {
				hurried.reset()
			}
			if !p.endure(ctx, asked.err, failed) {
				return
			}

			continue
		}

		failed.reset()
		// A query that waited for nothing comes back with the index it had.
		if asked.index != index || index == 0 {
			if !p.send(ctx, answer[T]{value: asked.value, lagging: asked.lagging, lost: asked.index < highest}) {
				return
			}
		}
		highest = asked.index
		index = nextIndex(index, asked.index)
		if asked.lagging {
			index = 0
			if !sleep(ctx, lagged.next()) {
				return
			}

			continue
		}
		lagged.reset()

		if asked.took < min(quick, asked.waited) {
			if !sleep(ctx, hurried.next()) {
				return
			}
		} else {
			hurried.reset()
		}
	}
}

// nextIndex is what to wait for after an answer, by Consul's rules: from the
// start where the index went backwards (another server, a restored snapshot),
// and otherwise never 0, because such a query does not block.
func nextIndex(asked, answered uint64) uint64 {
	if answered < asked {
		return 0
	}

	return max(1, answered)
}

// setbacks are the failures in a row of one query.
type setbacks struct {
	failed, refused, limited backoff
	// heard are the failures of others, for want of an agent, while it waited.
	heard int
}

func newSetbacks(random func() float64) *setbacks {
	return &setbacks{
		failed:  backoff{base: lostBase, least: failurePause, most: failureMost, random: random},
		refused: backoff{base: refusedBase, least: failurePause, most: failureMost, random: random},
		limited: backoff{base: limitedBase, most: limitedMost, random: random},
	}
}

func (s *setbacks) inARow() int {
	return s.failed.failures + s.refused.failures + s.limited.failures + s.heard
}

func (s *setbacks) reset() {
	s.failed.reset()
	s.refused.reset()
	s.limited.reset()
	s.heard = 0
}

// endure sends a failure and waits until the question should be asked again. It is false
// where ctx ended first.
func (p *poller[T]) endure(ctx context.Context, err *failure, setbacks *setbacks) bool {
	pause := &setbacks.refused
	switch err.kind {
	case unreachable:
		pause = &setbacks.failed
	case limited:
		pause = &setbacks.limited
	case denied, rejected, missing, failing:
	}
	wait := pause.next()
	tell := func() bool { return p.send(ctx, answer[T]{err: err, failures: setbacks.inARow()}) }
	if !tell() {
		return false
	}
	if err.kind != unreachable {
		return sleep(ctx, wait)
	}

	return p.agent.absence.wait(ctx, p, wait, func() bool {
		setbacks.heard++

		return tell()
	})
}

func (p *poller[T]) send(ctx context.Context, a answer[T]) bool {
	select {
	case p.out <- a:
		return true
	case <-ctx.Done():
		return false
	}
}

// asked is how one query went.
type asked[T any] struct {
	value     T
	index     uint64
	lagging   bool
	preempted error // why it was ended early, nil where it was not
	// waited is how long it was allowed to block, took how long it did take.
	waited, took time.Duration
	err          *failure
}

// turn makes one query, in a turn of its own.
func (p *poller[T]) turn(ctx context.Context, index uint64) asked[T] {
	turn, err := p.agent.budget.acquire(ctx, p.urgent)
	if err != nil {
		return asked[T]{preempted: err}
	}
	defer turn.release()

	// The agent adds up to a sixteenth to the wait.
	patience := p.agent.limits.CallTimeout
	if index != 0 {
		patience = turn.wait + turn.wait/16 + p.agent.limits.CallTimeout
	}
	ctx, cancel := context.WithTimeout(turn.ctx, patience)
	defer cancel()

	start := time.Now()
	//nolint:contextcheck // a turn's context is made of ours
	result := p.ask(ctx, &api.QueryOptions{AllowStale: true, WaitIndex: index, WaitTime: turn.wait})
	result.waited, result.took = turn.wait, time.Since(start)
	if result.err != nil && errors.Is(ctx.Err(), context.Canceled) {
		result.preempted = context.Cause(ctx) //nolint:contextcheck // as above
	}

	return result
}

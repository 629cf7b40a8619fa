package consul

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

const (
	// longWait is how long a blocking query waits for news where each has a slot
	// of its own. It also bounds how long a hung agent goes unnoticed.
	longWait = time.Minute
	// freshness is how late news may be where queries take turns.
	freshness = time.Second
	// maxTurns bounds what taking turns costs the agent, in queries a second.
	maxTurns = 250
	// minSlots is what is left of a budget that the agent's 429s made smaller.
	minSlots = 4
	// regrow is how long after a 429 a budget grows by one again.
	regrow = 30 * time.Second
)

// budget shares the connections that may wait at the agent among the blocking
// queries. While there are no more queries than slots each waits as long as it
// likes; beyond that they take turns, first come, first served, so short that
// everybody's comes round every second. Urgent ones need not: they keep their slots,
// up to half of all.
type budget struct {
	mu      sync.Mutex
	most    int // slots as configured
	slots   int // slots now: fewer after a 429
	shrunk  time.Time
	used    int
	urgent  int             // of used: those that are kept
	queries int             // that want turns over and over
	queue   []chan struct{} // who waits, closed when a slot was handed over
	running map[*turn]struct{}
}

// turn is the right to hold one connection for a while.
type turn struct {
	budget *budget
	// ctx ends when the query should end early, because others wait.
	ctx    context.Context
	cancel context.CancelCauseFunc
	// wait is how long the query may block.
	wait   time.Duration
	long   bool // it may be made to end early; under budget.mu
	urgent bool // it need not make room for others
}

// Why a turn ended early.
var (
	errPreempted   = errors.New("others wait for their turn")
	errInterrupted = errors.New("to be asked anew")
)

func newBudget(slots int) *budget {
	return &budget{most: slots, slots: slots, running: map[*turn]struct{}{}}
}

// join says that one more query wants turns, until the returned function is
// called.
func (b *budget) join() (leave func()) {
	b.mu.Lock()
	defer b.mu.Unlock()

	b.queries++
	b.preempt()

	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()

		b.queries--
	}
}

// acquire waits for a slot.
func (b *budget) acquire(ctx context.Context, urgent bool) (*turn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	b.mu.Lock()
	b.grow()
	if b.used < b.slots && len(b.queue) == 0 {
		defer b.mu.Unlock()
		b.used++

		return b.begin(ctx, urgent), nil
	}
	granted := make(chan struct{})
	if urgent {
		b.queue = slices.Insert(b.queue, 0, granted)
	} else {
		b.queue = append(b.queue, granted)
	}
	b.mu.Unlock()

	select {
	case <-granted:
		b.mu.Lock()
		defer b.mu.Unlock()

		return b.begin(ctx, urgent), nil
	case <-ctx.Done():
		b.mu.Lock()
		defer b.mu.Unlock()

		select {
		case <-granted: // both at once: hand it on
			b.used--
			b.grant()
		default:
			b.queue = slices.DeleteFunc(b.queue, func(c chan struct{}) bool { return c == granted })
		}

		return nil, ctx.Err()
	}
}

// begin starts a turn in a slot that is already counted. b.mu is held.
func (b *budget) begin(ctx context.Context, urgent bool) *turn {
	t := &turn{budget: b, wait: b.share(), urgent: urgent && 2*b.urgent < b.slots}
	t.ctx, t.cancel = context.WithCancelCause(ctx)
	t.long = t.wait == longWait
	if t.urgent {
		b.urgent++
		t.wait, t.long = longWait, false
	}
	b.running[t] = struct{}{}

	return t
}

// share is how long a turn may last. b.mu is held.
func (b *budget) share() time.Duration {
	if b.queries <= b.slots {
		return longWait
	}
	queries, slots := b.queries-b.urgent, max(1, b.slots-b.urgent)
	round := max(freshness, time.Duration(queries)*time.Second/maxTurns)

	return round * time.Duration(slots) / time.Duration(max(1, queries))
}

// preempt ends the long turns where queries have to take turns. b.mu is held.
func (b *budget) preempt() {
	if b.queries <= b.slots {
		return
	}
	for t := range b.running {
		if t.long {
			t.long = false
			t.cancel(errPreempted)
		}
	}
}

// interrupt ends all turns, long or not, because what they would bring is of no
// use any more.
func (b *budget) interrupt() {
	b.mu.Lock()
	defer b.mu.Unlock()

	for t := range b.running {
		t.cancel(errInterrupted)
	}
}

// release ends the turn.
func (t *turn) release() {
	t.cancel(nil)

	b := t.budget
	b.mu.Lock()
	defer b.mu.Unlock()

	delete(b.running, t)
	b.used--
	if t.urgent {
		b.urgent--
	}
	b.grant()
}

// grant hands free slots to who waits longest. b.mu is held.
func (b *budget) grant() {
	for b.used < b.slots && len(b.queue) > 0 {
		b.used++
		close(b.queue[0])
		b.queue = b.queue[1:]
	}
}

// shrink takes a quarter of the slots away, because the agent has answered 429:
// other sidecars on this machine want theirs too. Several 429s within a second
// are one. It says whether it did.
func (b *budget) shrink() bool {
	b.mu.Lock()
	defer b.mu.Unlock()

	if time.Since(b.shrunk) < time.Second {
		return false
	}
	b.shrunk = time.Now()
	b.slots = max(min(minSlots, b.most), b.slots*3/4)
	b.preempt()

	return true
}

// grow gives one slot back when the last 429 is long past. b.mu is held.
func (b *budget) grow() {
	if b.slots < b.most && time.Since(b.shrunk) >= regrow {
		b.slots++
		b.shrunk = time.Now()
		b.grant()
	}
}

// calm says whether the last 429 is long past.
func (b *budget) calm() bool {
	b.mu.Lock()
	defer b.mu.Unlock()

	return time.Since(b.shrunk) >= regrow
}

// load says how many queries share how many slots.
func (b *budget) load() (queries, slots int) {
	b.mu.Lock()
	defer b.mu.Unlock()

	return b.queries, b.slots
}

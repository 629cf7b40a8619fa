package mesh

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// census counts by whose they are, up to a bound, of which each may have half.
type census struct {
	most  int
	known map[uint64]string
	of    map[string]int
}

func newCensus(most int) census {
	return census{most: most, known: map[uint64]string{}, of: map[string]int{}}
}

// add takes a process in that may be known already.
func (c *census) add(number uint64, whose string) error {
	if _, is := c.known[number]; is {
		return nil
	}
	if len(c.known) >= c.most || c.of[whose] >= max(1, c.most/2) {
		return status.Errorf(codes.ResourceExhausted, "control: as many processes of %s, or of all, have reported as are remembered", whose)
	}
	c.known[number] = whose
	c.of[whose]++
	return nil
}

// busy bounds what goes on at a time.
type busy struct {
	questions chan struct{}

	mu      *sync.Mutex
	most    int
	streams *int
	of      map[caller]int
}

func newBusy(l Limits) busy {
	return busy{questions: make(chan struct{}, l.Questions), mu: new(sync.Mutex), most: l.Reporters, streams: new(int), of: map[caller]int{}}
}

// stream takes a stream in, until done.
func (b *busy) stream(c caller) (done func(), err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if *b.streams >= b.most || b.of[c] >= max(1, b.most/2) {
		return nil, status.Errorf(codes.ResourceExhausted, "control: as many sidecars of %s, or of all, report as this one takes", c)
	}
	*b.streams++
	b.of[c]++
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		*b.streams--
		if b.of[c]--; b.of[c] == 0 {
			delete(b.of, c)
		}
	}, nil
}

// question takes a question in, until done.
func (b *busy) question() (done func(), err error) {
	select {
	case b.questions <- struct{}{}:
		return func() { <-b.questions }, nil
	default:
		return nil, status.Error(codes.ResourceExhausted, "control: too many ask at a time")
	}
}

// pace has reports be read no faster than they may come: a bucket of tokens, of which a
// report costs one, and one more for each tokenBytes.
type pace struct {
	perSecond, tokens float64
	at                time.Time
}

const (
	// burst is how many tokens the bucket has.
	burst      = 50
	tokenBytes = 64 << 10
)

func newPace(perSecond float64) *pace {
	return &pace{perSecond: perSecond, tokens: burst, at: time.Now()}
}

// wait waits until a report may follow one of this size. It is false
// where ctx ends.
func (p *pace) wait(ctx context.Context, size int) bool {
	now := time.Now()
	p.tokens = min(burst, p.tokens+now.Sub(p.at).Seconds()*p.perSecond) - 1 - float64(size)/tokenBytes
	p.at = now
	if p.tokens >= 0 {
		return ctx.Err() == nil
	}
	return sleep(ctx, time.Duration(-p.tokens/p.perSecond*float64(time.Second)))
}

// sleep is false where ctx ends.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

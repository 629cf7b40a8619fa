// Package load makes RPCs at an even rate while a test does something to the
// mesh, and says what became of them. It holds the app that answers them too.
//
// RPCs are due by the clock, not by the answers to those before: a stall of the
// mesh shows as RPCs that took long.
package load

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
)

const (
	// timeout bounds an RPC: whoever waits longer has failed, on any machine.
	timeout = 60 * time.Second
	// slow is what an RPC takes only where it got stuck somewhere; on a machine that is
	// busy with other things, and so many times what a mere round trip took at worst:
	// an RPC wakes a handful of processes there and back, each with several goroutines.
	slow, wakes = 5 * time.Second, 20
	// patience bounds the waits for the load itself.
	patience = 2 * timeout
	// kept is how many failures and stuck RPCs are told of.
	kept = 10
	// samples is how many durations are kept for the percentiles.
	samples = 1 << 20
)

// Options say what RPCs are made.
type Options struct {
	// PerSecond is the rate, default 300.
	PerSecond int
	// StreamEvery makes one RPC in so many a conversation of five messages each
	// way. 0: all are unary.
	StreamEvery int
	// AtOnce bounds the RPCs under way. Default: those of a second, so that a machine
	// that cannot keep the rate makes fewer, and not later and later; and 900 at most:
	// above the streams that a sidecar allows on a connection (1000), those that come
	// later overtake those that wait, in grpc-go's client.
	AtOnce int
	// Least is the share of the rate that must be made, whatever else the machine
	// does, or nothing is proven. Default 0.1.
	Least float64
	// MayBeSlow allows RPCs to take longer than 5s, or what that is on a busy machine.
	MayBeSlow bool
	// Call are options of every RPC.
	Call []grpc.CallOption
}

// Load is RPCs at an even rate, whatever becomes of them.
type Load struct {
	options Options
	began   time.Time
	stop    context.CancelFunc
	done    chan struct{}
	control *Control
	ok      atomic.Int64
	failed  atomic.Int64

	mu       sync.Mutex
	answered map[string]int
	errors   []error
	stuck    []string
	took     []time.Duration
}

// Start begins to make RPCs. The test's end stops it at the latest.
func Start(t testing.TB, conn *grpc.ClientConn, o Options) *Load {
	t.Helper()

	o.PerSecond = cmp.Or(o.PerSecond, 300)
	o.AtOnce = cmp.Or(o.AtOnce, min(o.PerSecond, 900))
	o.Least = cmp.Or(o.Least, 0.1)
	ctx, stop := context.WithCancel(context.Background())
	l := &Load{
		options: o, began: time.Now(), stop: stop, done: make(chan struct{}),
		control: StartControl(t), answered: map[string]int{},
	}
	go l.run(ctx, conn)
	t.Cleanup(func() {
		l.stop()
		<-l.done
	})

	return l
}

func (l *Load) run(ctx context.Context, conn *grpc.ClientConn) {
	defer close(l.done)

	var running sync.WaitGroup
	defer running.Wait()

	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()

	free := make(chan struct{}, l.options.AtOnce)
	for made := 0; ; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}

		for due := int(time.Since(l.began).Seconds() * float64(l.options.PerSecond)); made < due; made++ {
			select {
			case free <- struct{}{}:
			case <-ctx.Done():
				return
			}
			stream := l.options.StreamEvery > 0 && made%l.options.StreamEvery == 0
			running.Go(func() {
				defer func() { <-free }()
				// What is under way when the load is stopped may still end well.
				l.call(context.WithoutCancel(ctx), conn, stream)
			})
		}
	}
}

func (l *Load) call(ctx context.Context, conn *grpc.ClientConn, stream bool) {
	began := time.Now()
	var name string
	var err error
	if stream {
		name, err = Converse(ctx, conn, 5, l.options.Call...)
	} else {
		name, err = Who(ctx, conn, l.options.Call...)
	}
	took := time.Since(began)

	l.mu.Lock()
	defer l.mu.Unlock()

	if took > slow && len(l.stuck) < kept {
		l.stuck = append(l.stuck, fmt.Sprintf("%v from %v on, answered by %q, %v",
			took.Round(time.Millisecond), began.Sub(l.began).Round(time.Millisecond), name, err))
	}
	if len(l.took) < samples {
		l.took = append(l.took, took)
	}
	if err == nil {
		l.ok.Add(1)
		l.answered[name]++

		return
	}
	l.failed.Add(1)
	if len(l.errors) < kept {
		l.errors = append(l.errors, fmt.Errorf("after %v: %w", time.Since(l.began).Round(time.Millisecond), err))
	}
}

// Check fails the test where an RPC did so far, with what was going on.
func (l *Load) Check(t testing.TB, during string) {
	t.Helper()

	if l.failed.Load() > 0 {
		l.mu.Lock()
		defer l.mu.Unlock()
		t.Fatalf("%s: %d RPCs failed, the first: %v", during, l.failed.Load(), l.errors)
	}
}

// More waits until as many RPCs have ended well as the load makes in a while, and
// at least 50, or until one failed.
func (l *Load) More(t testing.TB, while time.Duration) {
	t.Helper()

	deadline := time.Now().Add(patience + while)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()

	failed := l.failed.Load()
	enough := l.ok.Load() + max(50, int64(while.Seconds()*float64(l.options.PerSecond)))
	for l.ok.Load() < enough && l.failed.Load() == failed {
		if time.Now().After(deadline) {
			t.Fatalf("the load does not go on: %d RPCs ended well, want %d", l.ok.Load(), enough)
		}
		<-tick.C
	}
}

// Shares is how many RPCs each instance has answered so far.
func (l *Load) Shares() map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()

	return maps.Clone(l.answered)
}

// Failed is how many RPCs have failed so far, and the first few errors.
func (l *Load) Failed() (int, []error) {
	l.mu.Lock()
	defer l.mu.Unlock()

	return int(l.failed.Load()), slices.Clone(l.errors)
}

// Result is what became of a load.
type Result struct {
	OK, Failed    int
	PerSecond     float64
	P50, P99, Max time.Duration
	// Control is the longest that a round trip took that had nothing to do with the
	// mesh: what the machine did to all.
	Control time.Duration
	// Answered is how many RPCs each instance answered.
	Answered map[string]int
	// Errors are the first few, Stuck describes the first few that took longer than 5s.
	Errors []error
	Stuck  []string
}

// String is one line of it.
func (r Result) String() string {
	return fmt.Sprintf("%d RPCs, %.0f a second, %d failed; p50 %v, p99 %v, slowest %v, of the machine's own %v; answered by %v",
		r.OK+r.Failed, r.PerSecond, r.Failed, round(r.P50), round(r.P99), round(r.Max), round(r.Control), r.Answered)
}

// stuck says that an RPC took longer than the machine can be blamed for.
func (r Result) stuck() bool { return r.Max > slow+wakes*r.Control }

func round(d time.Duration) time.Duration { return d.Round(10 * time.Microsecond) }

// Stop stops the load, waits for what is under way, and judges nothing.
func (l *Load) Stop() Result {
	l.stop()
	<-l.done
	r := Result{
		Control: l.control.Stop(),
		OK:      int(l.ok.Load()), Failed: int(l.failed.Load()),
		Answered: l.answered, Errors: l.errors, Stuck: l.stuck,
	}
	r.PerSecond = float64(r.OK+r.Failed) / time.Since(l.began).Seconds()
	slices.Sort(l.took)
	if n := len(l.took); n > 0 {
		r.P50, r.P99, r.Max = l.took[n/2], l.took[n*99/100], l.took[n-1]
	}

	return r
}

// End stops the load. The test fails where an RPC did or got stuck, or where
// there were too few to prove anything.
func (l *Load) End(t testing.TB) Result {
	t.Helper()

	r := l.Stop()
	t.Log(r)
	if r.Failed > 0 {
		t.Errorf("%d RPCs failed, the first: %v", r.Failed, r.Errors)
	}
	if r.stuck() && !l.options.MayBeSlow {
		t.Errorf("some RPCs were stuck: %q", r.Stuck)
	}
	if least := float64(l.options.PerSecond) * l.options.Least; r.PerSecond < least {
		t.Errorf("%.0f RPCs a second, want at least %.0f", r.PerSecond, least)
	}

	return r
}

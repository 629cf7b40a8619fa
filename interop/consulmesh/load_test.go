package consulmesh

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	testpb "google.golang.org/grpc/interop/grpc_testing"

	"github.com/pillion-proxy/pillion/interop/consul"
)

const (
	// usualLoad is how many RPCs a second run while something happens.
	usualLoad = 300
	// leastShare of the load that is asked for must be made, whatever else the
	// machine does, or nothing is proven.
	leastShare = 0.25
	// callTimeout bounds an RPC of a load: whoever waits longer has failed.
	callTimeout = 20 * time.Second
	// slow is what an RPC of a load takes only where it got stuck somewhere, also on
	// a busy machine.
	slow = 5 * time.Second
)

// load is RPCs at an even rate, whatever becomes of them.
type load struct {
	perSecond int
	began     time.Time
	stop      context.CancelFunc
	done      chan struct{}
	ok        atomic.Int64
	failed    atomic.Int64
	slowest   atomic.Int64 // in nanoseconds

	mu       sync.Mutex
	answered map[string]int
	errors   []error  // the first few
	stuck    []string // the slow ones, the first few
}

// startLoad begins to make RPCs. The test's end stops it at the latest.
func startLoad(t *testing.T, conn *grpc.ClientConn, perSecond int, options ...grpc.CallOption) *load {
	t.Helper()

	ctx, stop := context.WithCancel(context.Background())
	l := &load{perSecond: perSecond, began: time.Now(), stop: stop, done: make(chan struct{}), answered: map[string]int{}}
	go l.run(ctx, conn, options)
	t.Cleanup(func() {
		l.stop()
		<-l.done
	})

	return l
}

func (l *load) run(ctx context.Context, conn *grpc.ClientConn, options []grpc.CallOption) {
	// Below the streams that a sidecar allows on a connection (1000): beyond, those
	// that come later overtake those that wait, in grpc-go's client.
	const mostAtOnce = 900

	defer close(l.done)

	var running sync.WaitGroup
	defer running.Wait()

	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()

	free := make(chan struct{}, mostAtOnce)
	for made := 0; ; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}

		for due := int(time.Since(l.began).Seconds() * float64(l.perSecond)); made < due; made++ {
			select {
			case free <- struct{}{}:
			case <-ctx.Done():
				return
			}
			running.Go(func() {
				defer func() { <-free }()
				// What is under way when the load is stopped may still end well.
				l.call(context.WithoutCancel(ctx), conn, options)
			})
		}
	}
}

func (l *load) call(ctx context.Context, conn *grpc.ClientConn, options []grpc.CallOption) {
	began := time.Now()
	name, err := who(ctx, conn, options...)
	took := int64(time.Since(began))
	for slowest := l.slowest.Load(); took > slowest && !l.slowest.CompareAndSwap(slowest, took); {
		slowest = l.slowest.Load()
	}

	l.mu.Lock()
	defer l.mu.Unlock()

	if took > int64(slow) && len(l.stuck) < 10 {
		l.stuck = append(l.stuck, fmt.Sprintf("%v from %v on, answered by %q, %v",
			time.Duration(took).Round(time.Millisecond), began.Sub(l.began).Round(time.Millisecond), name, err))
	}
	if err == nil {
		l.ok.Add(1)
		l.answered[name]++

		return
	}
	l.failed.Add(1)
	if len(l.errors) < 10 {
		l.errors = append(l.errors, err)
	}
}

// check fails the test where an RPC did so far, with what was going on.
func (l *load) check(t *testing.T, during string) {
	t.Helper()

	if l.failed.Load() > 0 {
		l.mu.Lock()
		defer l.mu.Unlock()
		t.Fatalf("%s: %d RPCs failed, the first: %v", during, l.failed.Load(), l.errors)
	}
}

// more waits until as many RPCs have ended well as the load makes in a while, and
// at least some.
func (l *load) more(t *testing.T, while time.Duration) {
	t.Helper()

	enough := max(50, l.ok.Load()+int64(while.Seconds()*float64(l.perSecond)))
	consul.Eventually(t, "the load goes on", func() bool { return l.ok.Load() >= enough || l.failed.Load() > 0 })
}

// end stops the load. The test fails where an RPC did, or where there were too
// few to prove anything. It returns how many RPCs each instance answered.
func (l *load) end(t *testing.T) map[string]int {
	t.Helper()

	l.stop()
	<-l.done
	took := time.Since(l.began)

	count := l.ok.Load() + l.failed.Load()
	rate := float64(count) / took.Seconds()
	t.Logf("%d RPCs in %.1f s, %.0f a second, %d failed; the slowest took %v; answered by %v",
		count, took.Seconds(), rate, l.failed.Load(), time.Duration(l.slowest.Load()).Round(time.Millisecond), l.answered)
	if failed := l.failed.Load(); failed > 0 {
		t.Errorf("%d RPCs failed, the first: %v", failed, l.errors)
	}
	if len(l.stuck) > 0 {
		t.Errorf("some RPCs were stuck: %q", l.stuck)
	}
	if least := float64(l.perSecond) * leastShare; rate < least {
		t.Errorf("%.0f RPCs a second, want at least %.0f", rate, least)
	}

	return maps.Clone(l.answered)
}

func dial(t testing.TB, address string, options ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()

	conn, err := grpc.NewClient("passthrough:///"+address,
		append([]grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}, options...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })

	return conn
}

// who makes one RPC and returns the name of the instance that answered.
func who(ctx context.Context, conn *grpc.ClientConn, options ...grpc.CallOption) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()

	answer, err := testpb.NewTestServiceClient(conn).UnaryCall(ctx, &testpb.SimpleRequest{}, options...)

	return answer.GetUsername(), err
}

// dialGreeter connects to a sidecar as a client does that names the service
// greeter.
func dialGreeter(t testing.TB, address string) *grpc.ClientConn {
	t.Helper()

	return dial(t, address, grpc.WithAuthority("greeter"))
}

// shares is how many RPCs each instance has answered so far.
func (l *load) shares() map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()

	return maps.Clone(l.answered)
}

// bothLoads are two clients of one sidecar: one that names the service, and one
// that knows no names.
type bothLoads map[string]*load

func startBothLoads(t *testing.T, address string) bothLoads {
	t.Helper()

	return bothLoads{
		"by name":          startLoad(t, dialGreeter(t, address), usualLoad/2),
		"by what it calls": startLoad(t, dial(t, address), usualLoad/2),
	}
}

func (b bothLoads) more(t *testing.T, while time.Duration) {
	t.Helper()

	for _, l := range b {
		l.more(t, while)
		while = 0 // it has passed for the others as well
	}
}

func (b bothLoads) check(t *testing.T, during string) {
	t.Helper()

	for how, l := range b {
		l.check(t, during+", "+how)
	}
}

func (b bothLoads) end(t *testing.T) {
	t.Helper()

	for how, l := range b {
		t.Log(how + ":")
		l.end(t)
	}
}

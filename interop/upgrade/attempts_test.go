package upgrade

import (
	"context"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pillion-proxy/pillion/interop/load"
)

// attempts are RPCs whose beginning and end are known, so that it can be said which
// were in flight when something happened.
type attempts struct {
	stop    context.CancelFunc
	done    chan struct{}
	control *load.Control

	mu   sync.Mutex
	all  []*attempt
	well int
}

type attempt struct {
	began, ended time.Time // ended is zero while it is in flight
	err          error
}

// startAttempts begins to make RPCs, 100 a second, each a conversation that takes a
// while. With wait, one that finds nobody listening waits (gRPC's wait-for-ready).
func startAttempts(t *testing.T, conn *grpc.ClientConn, wait bool) *attempts {
	t.Helper()

	ctx, stop := context.WithCancel(context.Background())
	a := &attempts{stop: stop, done: make(chan struct{}), control: load.StartControl(t)}
	go func() {
		defer close(a.done)
		var running sync.WaitGroup
		defer running.Wait()
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for free := make(chan struct{}, 40); ; {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			select {
			case free <- struct{}{}:
				running.Go(func() {
					a.make(conn, wait)
					<-free
				})
			default:
			}
		}
	}()
	t.Cleanup(func() {
		stop()
		<-a.done
	})
	a.more(t, 20)

	return a
}

func (a *attempts) make(conn *grpc.ClientConn, wait bool) {
	one := &attempt{began: time.Now()}
	a.mu.Lock()
	a.all = append(a.all, one)
	a.mu.Unlock()
	_, err := load.Converse(context.Background(), conn, 20, grpc.WaitForReady(wait))

	a.mu.Lock()
	defer a.mu.Unlock()
	one.ended, one.err = time.Now(), err
	if err == nil {
		a.well++
	}
}

// more waits until so many more have ended well.
func (a *attempts) more(t *testing.T, count int) {
	t.Helper()

	well := func() int {
		a.mu.Lock()
		defer a.mu.Unlock()

		return a.well
	}
	enough := well() + count
	eventually(t, "RPCs go on", func() bool { return well() >= enough })
}

// outage is from when to when a sidecar was away.
type outage struct{ from, to time.Time }

// during notes when something was done.
func (a *attempts) during(t *testing.T, do func()) outage {
	t.Helper()

	o := outage{from: time.Now()}
	do()
	o.to = time.Now()

	return o
}

// judge fails the test where an RPC failed that was not in flight during the outage,
// or with another status than UNAVAILABLE.
func (a *attempts) judge(t *testing.T, what string, o outage) {
	t.Helper()

	a.stop()
	<-a.done
	// A client learns of the end of a connection a moment later than we do.
	moment := 200*time.Millisecond + 5*a.control.Stop()
	inFlight, failed := 0, 0
	for _, one := range a.all {
		if one.began.Before(o.to.Add(moment)) && one.ended.After(o.from) {
			inFlight++
		} else if one.err != nil {
			t.Errorf("%s: an RPC that ran from %v to %v of it failed: %v", what, one.began.Sub(o.from), one.ended.Sub(o.from), one.err)
		}
		if one.err != nil {
			failed++
			if code := status.Code(one.err); code != codes.Unavailable {
				t.Errorf("%s: an RPC ended with %v: %v", what, code, one.err)
			}
		}
	}
	t.Logf("%s: of %d RPCs %d were in flight then, of which %d failed", what, len(a.all), inFlight, failed)
	if inFlight == 0 {
		t.Errorf("%s: no RPC was in flight, so nothing is proven", what)
	}
}

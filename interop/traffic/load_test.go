package traffic

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
)

// load is RPCs at an even rate, whatever becomes of them. One in twenty is a
// stream with some messages both ways.
type load struct {
	began  time.Time
	stop   context.CancelFunc
	done   chan struct{}
	ok     atomic.Int64
	failed atomic.Int64

	mu     sync.Mutex
	errors []error // the first few
}

// startLoad begins to make RPCs. The test's end stops it at the latest.
func startLoad(t *testing.T, conn *grpc.ClientConn, perSecond int) *load {
	t.Helper()

	ctx, stop := context.WithCancel(context.Background())
	l := &load{began: time.Now(), stop: stop, done: make(chan struct{})}
	go l.run(ctx, conn, perSecond)
	t.Cleanup(func() {
		l.stop()
		<-l.done
	})

	return l
}

func (l *load) run(ctx context.Context, conn *grpc.ClientConn, perSecond int) {
	// So many that a stall of a second does not lower the rate.
	const mostAtOnce = 2500

	defer close(l.done)

	var running sync.WaitGroup
	defer running.Wait()

	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()

	free := make(chan struct{}, mostAtOnce)
	made := 0
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}

		due := int(time.Since(l.began).Seconds() * float64(perSecond))
		for ; made < due; made++ {
			select {
			case free <- struct{}{}:
			case <-ctx.Done():
				return
			}
			stream := made%20 == 0
			running.Go(func() {
				defer func() { <-free }()
				// What is under way when the load is stopped may still end well.
				l.count(one(context.WithoutCancel(ctx), conn, stream))
			})
		}
	}
}

// one makes an RPC: a stream, or a unary one.
func one(ctx context.Context, conn *grpc.ClientConn, stream bool) error {
	if stream {
		return converse(ctx, conn, 5)
	}
	_, err := who(ctx, conn)

	return err
}

func (l *load) count(err error) {
	if err == nil {
		l.ok.Add(1)

		return
	}

	l.failed.Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.errors) < 10 {
		l.errors = append(l.errors, err)
	}
}

// end stops the load. The test fails where an RPC did, or where there were too
// few to prove anything.
func (l *load) end(t *testing.T, least float64) {
	t.Helper()

	l.stop()
	<-l.done
	took := time.Since(l.began)

	rate := float64(l.ok.Load()+l.failed.Load()) / took.Seconds()
	t.Logf("%d RPCs in %.1f s, %.0f a second, %d failed", l.ok.Load()+l.failed.Load(), took.Seconds(), rate, l.failed.Load())
	if failed := l.failed.Load(); failed > 0 {
		t.Errorf("%d RPCs failed, the first: %v", failed, l.errors)
	}
	if rate < least {
		t.Errorf("%.0f RPCs a second, want at least %.0f", rate, least)
	}
}

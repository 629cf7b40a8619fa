package outbound

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/pillion-proxy/pillion/proxy/meshreflect"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
)

const (
	// typesEvery is how long a service is not asked again for its methods'
	// types, whatever came of it: a new version may have new methods.
	typesEvery = 5 * time.Minute
	// maxTyped is how many services are asked in that time, as many as the mesh
	// reflection asks at most.
	maxTyped = 1000
	// foreseenShare is which part of the metrics' methods may be made known that
	// the app has not called: what it calls comes first.
	foreseenShare = 2
)

// typeLearner finds out of which types the methods of services are, for the
// metrics' grpc_type, which cannot be seen on the wire. It asks only services
// that just answered reflection for somebody, one after the other.
type typeLearner struct {
	metrics *telemetry.Metrics
	queue   chan string
	cancel  context.CancelFunc
	done    chan struct{} // closed when run has ended

	foreseen int // by run alone

	mu    sync.Mutex
	asked map[string]time.Time // when a service was queued
}

func newTypeLearner(metrics *telemetry.Metrics) *typeLearner {
	return &typeLearner{
		metrics: metrics, queue: make(chan string, maxTyped),
		done: make(chan struct{}), asked: make(map[string]time.Time),
	}
}

// start begins to ask, by methods, until stop.
func (l *typeLearner) start(methods func(ctx context.Context, service string) ([]meshreflect.Method, error)) {
	ctx, cancel := context.WithCancel(context.Background())
	l.cancel = cancel
	go l.run(ctx, methods)
}

func (l *typeLearner) stop() {
	l.cancel()
	<-l.done
}

// answered has a service asked that answers reflection, unless it was lately.
// It does not block.
func (l *typeLearner) answered(service string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if at, ok := l.asked[service]; ok && now.Sub(at) < typesEvery {
		return
	}
	if len(l.asked) >= maxTyped {
		maps.DeleteFunc(l.asked, func(_ string, at time.Time) bool { return now.Sub(at) >= typesEvery })
		if len(l.asked) >= maxTyped {
			return
		}
	}
	select {
	case l.queue <- service:
		l.asked[service] = now
	default: // later, should it answer again
	}
}

func (l *typeLearner) run(ctx context.Context, methods func(context.Context, string) ([]meshreflect.Method, error)) {
	defer close(l.done)
	for {
		select {
		case <-ctx.Done():
			return
		case service := <-l.queue:
			found, err := methods(ctx, service)
			if err != nil {
				continue // its types stay unknown, which is no failure of any RPC
			}
			for _, m := range found {
				l.learn(m)
			}
		}
	}
}

func (l *typeLearner) learn(m meshreflect.Method) {
	if l.metrics.Method(m.FullMethod).Other() {
		if l.foreseen >= l.metrics.MaxMethods()/foreseenShare {
			return
		}
		l.foreseen++
	}
	l.metrics.Learn(m.FullMethod, telemetry.TypeOf(m.ClientStream, m.ServerStream))
}

package upstream

import (
	"bytes"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/pillion-proxy/pillion/proxy/breaker"
	"github.com/pillion-proxy/pillion/proxy/outlier"
	"github.com/pillion-proxy/pillion/proxy/wire"
)

var failures = wire.CodesOf(codes.Unavailable, codes.Internal)

func ejection() *outlier.Config {
	return &outlier.Config{
		Policy: "eject", Interval: 10 * time.Second, BaseTime: 30 * time.Second, MaxTime: 300 * time.Second,
		MaxPercent: 50, Failures: failures, ConsecutiveFailures: 5,
	}
}

func trip() *breaker.Trip {
	return &breaker.Trip{ConsecutiveFailures: 3, OpenFor: 5 * time.Second, Probes: 2}
}

// rpcs has so many RPCs to an instance end so.
func rpcs(in *Instance, n int, code codes.Code) {
	for range n {
		turn := in.Begin(time.Now())
		in.Observe(time.Now(), &Outcome{Turn: turn, Code: code})
		in.End()
	}
}

// want checks what an instance is blocked for, and whether RPCs may go there.
func (in *Instance) want(t testing.TB, blocked Reason, usable bool) {
	t.Helper()
	synctest.Wait()
	if got := in.Blocked(); got != blocked || in.Usable() != usable {
		t.Fatalf("%s is blocked for %q, usable %v; want %q, %v (%v)", in, got, in.Usable(), blocked, usable, in.LastError())
	}
}

// gauges checks how many instances are said to be blocked: ejected, unhealthy, broken.
func (r *rig) gauges(want ...int64) {
	r.t.Helper()
	synctest.Wait()
	for i := range want {
		if got := r.counts.Judgement.Blocked[i].Load(); got != want[i] {
			r.t.Fatalf("%d instances are counted as %v, want %d", got, Reason(1<<i), want[i])
		}
	}
}

// logged collects what is logged; it is not for tests that run in parallel.
func logged(t *testing.T) func() string {
	var mu sync.Mutex
	var buf bytes.Buffer
	was := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(lockedWriter{&mu, &buf}, nil)))
	t.Cleanup(func() { slog.SetDefault(was) })
	return func() string {
		mu.Lock()
		defer mu.Unlock()
		return buf.String()
	}
}

type lockedWriter struct {
	mu  *sync.Mutex
	buf *bytes.Buffer
}

func (w lockedWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.Write(p)
}

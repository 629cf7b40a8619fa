package upstream

import (
	"context"
	"fmt"
	"github.com/pillion-proxy/pillion/proxy/internal/later"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/pillion-proxy/pillion/registry"
)

// RPCs end, probes are made, instances come and go, policies change and health checks
// answer, all at the same time: in the end nothing is blocked or counted that should
// not be, and nothing goes on.
func TestJudgedAtTheSameTime(t *testing.T) { //nolint:paralleltest // it has the process log nothing
	was := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(io.Discard, nil)))
	defer slog.SetDefault(was)
	app := newApp(true)
	defer app.grpc.Stop()
	r := newRig(t, Options{
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			return app.dial(ctx, network, address)
		},
		Jitter: rand.Float64,
	})
	quick := checks()
	quick.Interval, quick.Timeout, quick.Unhealthy, quick.Healthy = 2*time.Millisecond, time.Second, 1, 1
	watched := *quick
	watched.Watch = true
	eject := ejection()
	eject.Interval, eject.BaseTime, eject.ConsecutiveFailures = 5*time.Millisecond, time.Millisecond, 2
	fuse := trip()
	fuse.OpenFor, fuse.MaxOpenFor = time.Millisecond, 2*time.Millisecond
	policies := []*Policy{
		nil,
		{Ejection: eject},
		{Ejection: eject, Health: quick},
		{Ejection: eject, Health: quick, Breaker: fuse, BreakerFailures: failures},
		{Health: &watched, Breaker: fuse, BreakerFailures: failures},
	}
	var all []registry.Endpoint
	for _, a := range []string{"a:1", "b:1", "c:1", "d:1"} {
		all = append(all, registry.Endpoint{ID: a, Address: a, Weight: 1})
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	forever := func(f func(n int)) {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
					f(n)
				}
			}
		})
	}
	for range 4 {
		forever(func(n int) {
			in, ok := r.cluster.Pick(nil)
			if !ok {
				return
			}
			code := codes.OK
			if n%3 > 0 {
				code = codes.Unavailable
			}
			rpcs(in, 1, code)
		})
	}
	forever(func(n int) {
		r.cluster.Update(all[:1+n%len(all)], false)
		time.Sleep(5 * time.Millisecond)
	})
	forever(func(n int) {
		r.cluster.Configure(policies[rand.IntN(len(policies))])
		app.SetServingStatus("", healthpb.HealthCheckResponse_ServingStatus(1+n%2))
		time.Sleep(20 * time.Millisecond)
	})
	j := &r.counts.Judgement
	seen := make(chan struct{})
	var once sync.Once
	forever(func(int) {
		if j.Ejections[0].Load() > 0 && j.BreakerOpenings.Load() > 0 && j.HealthChecks[0].Load() > 0 && j.HealthChecks[1].Load() > 0 {
			once.Do(func() { close(seen) })
		}
		for _, st := range r.cluster.Status().Instances {
			_ = st.Text(time.Now())
		}
		time.Sleep(time.Millisecond)
	})
	select {
	case <-seen:
		time.Sleep(100 * time.Millisecond) // more of it, in other orders
	case <-time.After(30 * time.Second):
		t.Errorf("not all of it has happened: %d ejections, %d openings, %d good and %d bad answers",
			j.Ejections[0].Load(), j.BreakerOpenings.Load(), j.HealthChecks[0].Load(), j.HealthChecks[1].Load())
	}
	close(stop)
	wg.Wait()
	r.cluster.Configure(nil)
	for _, in := range r.cluster.table.Load().instances {
		if in.Blocked() != 0 {
			t.Errorf("without a policy %s is blocked: %v", in, in.Blocked())
		}
	}
	for i := range j.Blocked {
		if n := j.Blocked[i].Load(); n != 0 {
			t.Errorf("without a policy %d instances are counted as %v", n, Reason(1<<i))
		}
	}
}

// However much there is to log, what waits for it is bounded, and what was left out is
// said.
func TestNewsAreBounded(t *testing.T) { //nolint:paralleltest // it looks at what the process logs
	log := logged(t)
	r := newRig(t, Options{}, "a:1")
	j := newJudges(r.cluster)
	begun, held := make(chan struct{}), make(chan struct{})
	j.later.Do(func() { close(begun); <-held })
	<-begun
	for range 3 * later.Most {
		j.log(slog.LevelInfo, "news", r.instance("a:1"), "policy")
	}
	done := make(chan struct{})
	j.later.Do(func() { close(done) })
	close(held)
	<-done
	lines := strings.Count(log(), "msg=news")
	if lines < later.Most || lines > 2*later.Most || !strings.Contains(log(), fmt.Sprintf("service=greeter changes=%d", 3*later.Most-lines)) {
		t.Errorf("%d lines are logged, the last: %s", lines, log()[max(0, len(log())-200):])
	}
}

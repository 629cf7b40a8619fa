package soak

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/pillion-proxy/pillion/interop/fault/exact"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
)

const (
	// patient is the timeout of RPCs that must end well, on a busy machine too.
	patient = 60 * time.Second
	// late is how long after its deadline an RPC may end.
	late = 10 * time.Second
	// free is how many bytes an RPC may have without the budget of buffered bytes
	// (http2.buffer_budget), a little less than docs/limits.md says. Larger ones are
	// refused where attackers have taken all of it, which takes two connections.
	free = 3 << 10

	// undisturbedGroup begins the names of groups of RPCs that nothing disturbs.
	undisturbedGroup = "undisturbed, "
)

// shape is a random one of an RPC: most are small, some have 4 MiB.
func (a *acting) shape() exact.Shape {
	switch n := a.IntN(1000); {
	case n < 600:
		return exact.Shape{Messages: 1 + a.IntN(10), Size: a.IntN(200)}
	case n < 900:
		return exact.Shape{Messages: 1 + a.IntN(5), Size: a.IntN(16 << 10)}
	case n < 990:
		return exact.Shape{Messages: 1 + a.IntN(3), Size: a.IntN(256 << 10)}
	default:
		return exact.Shape{Messages: 1, Size: a.IntN(4<<20 - 100)}
	}
}

func (a *acting) kind() exact.Kind { return exact.Kinds[a.IntN(len(exact.Kinds))] }

// undisturbed makes an RPC that must end well, unless there are too many.
func (r *rig) undisturbed(group string, conn *grpc.ClientConn, kind exact.Kind, shape exact.Shape) {
	// What is under way when the part ends may still end well.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.t.Context()), patient)
	defer cancel()

	began := time.Now()
	result := exact.Call(ctx, conn, r.ledger, kind, shape)
	wrong := result.Wrong
	switch {
	case wrong != nil:
		wrong = fmt.Errorf("%v", result)
	case result.Err == nil:
	case r.bursts.excuse(result.Err, began, time.Now()):
		r.tally.excuse()
	case shape.Size*shape.Messages > free && result.Code == codes.ResourceExhausted:
		r.tally.starve()
	default:
		wrong = fmt.Errorf("an RPC of %+v failed that nothing disturbed: %v", shape, result)
	}
	r.tally.note(r.t, group, result.Code, wrong)
}

// broken are the ends of RPCs to what is being broken.
var broken = []codes.Code{
	codes.OK, codes.DeadlineExceeded, codes.Unavailable, codes.Internal, codes.ResourceExhausted,
}

// disturbed makes an RPC that may fail, but has to end in time, with one of these
// statuses unless life ended, and must not be answered wrongly.
func (r *rig) disturbed(life context.Context, group string, conn *grpc.ClientConn, kind exact.Kind, shape exact.Shape, timeout time.Duration, allowed ...codes.Code) {
	ctx, cancel := context.WithTimeout(life, timeout)
	defer cancel()

	result := exact.Call(ctx, conn, r.ledger, kind, shape)
	wrong := result.Wrong
	switch {
	case wrong != nil:
		wrong = fmt.Errorf("%v", result)
	case result.Code == codes.Canceled && life.Err() != nil: // its part is over
	case !slices.Contains(allowed, result.Code):
		wrong = fmt.Errorf("%v, want one of %v", result, allowed)
	case result.Took > timeout+late:
		wrong = fmt.Errorf("its timeout was %v: %v", timeout, result)
	}
	r.tally.note(r.t, group, result.Code, wrong)
}

// ways are the ways to the steady service.
func (r *rig) ways() map[string]string {
	ways := map[string]string{"outbound": r.outbound.Outbound, "inbound": r.inbound.Inbound}
	if r.viaConsul != nil {
		ways["outbound by Consul"] = r.viaConsul.Outbound
	}

	return ways
}

// callSteadily makes RPCs at an even rate that nothing disturbs, on connections
// that are exchanged now and then.
func callSteadily(a *acting) {
	const (
		perSecond = 15
		atOnce    = 200
		each      = 300 // RPCs of a connection
	)
	var all sync.WaitGroup
	defer all.Wait()
	for name, address := range a.ways() {
		own := &acting{rig: a.rig, Rand: a.random("steady " + name), ctx: a.ctx, s: a.s}
		all.Go(func() {
			free := make(chan struct{}, atOnce)
			for own.ctx.Err() == nil {
				conn, hangUp := a.dial(address, steadyService)
				var calling sync.WaitGroup
				for range each {
					if !own.pause(time.Second/perSecond/2, 3*time.Second/perSecond/2) {
						break
					}
					kind, shape := own.kind(), own.shape()
					free <- struct{}{}
					calling.Go(func() {
						defer func() { <-free }()
						own.undisturbed(undisturbedGroup+name, conn, kind, shape)
					})
				}
				calling.Wait()
				hangUp()
			}
		})
	}
}

// callAndLeave connects, makes some RPCs and leaves, over and over.
func callAndLeave(a *acting) {
	for a.pause(0, 100*time.Millisecond) {
		for name, address := range a.ways() {
			conn, hangUp := a.dial(address, steadyService)
			var calling sync.WaitGroup
			for range 1 + a.IntN(5) {
				kind, shape := a.kind(), a.shape()
				calling.Go(func() { a.undisturbed("coming and leaving, "+name, conn, kind, shape) })
			}
			calling.Wait()
			hangUp()
		}
	}
}

// callTheDisturbed makes RPCs to the services to which things happen.
func callTheDisturbed(a *acting) {
	targets := []struct{ name, address string }{
		{churnService, a.outbound.Outbound},
		{faultyService, a.outbound.Outbound},
	}
	if a.viaConsul != nil {
		targets = append(targets, struct{ name, address string }{consulService, a.viaConsul.Outbound})
	}
	var all sync.WaitGroup
	defer all.Wait()
	for _, target := range targets {
		own := &acting{rig: a.rig, Rand: a.random("disturbed " + target.name), ctx: a.ctx, s: a.s}
		all.Go(func() {
			conn, hangUp := a.dial(target.address, target.name)
			defer hangUp()
			var calling sync.WaitGroup
			defer calling.Wait()
			free := make(chan struct{}, 50)
			allowed := broken
			if target.name == consulService {
				allowed = append(slices.Clone(broken), codes.Unimplemented) // none is registered
			}
			for own.pause(10*time.Millisecond, 100*time.Millisecond) {
				kind, shape, timeout := own.kind(), own.shape(), 100*time.Millisecond+own.duration(5*time.Second)
				free <- struct{}{}
				calling.Go(func() {
					defer func() { <-free }()
					own.disturbed(own.ctx, "disturbed, "+target.name, conn, kind, shape, timeout, allowed...)
				})
			}
		})
	}
}

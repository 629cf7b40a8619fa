package soak

import (
	"sync"
	"time"

	"github.com/pillion-proxy/pillion/interop/fault"
	"github.com/pillion-proxy/pillion/interop/harness"
	"golang.org/x/net/http2"
)

// spoilInstances spoils the connections of the outbound sidecar to an instance.
func spoilInstances(a *acting) {
	local := startApp(a.s, faultyService, "", a.ledger)
	proxy := a.proxy(local.address)
	a.mesh.Set(a.s, faultyService, harness.Service{Endpoints: harness.Endpoints(proxy.Address())})
	a.spoil(proxy)
}

// spoilCallers spoils the connections of callers to the outbound sidecar.
func spoilCallers(a *acting) {
	proxy := a.proxy(a.outbound.Outbound)
	var calling sync.WaitGroup
	defer calling.Wait()
	own := &acting{rig: a.rig, Rand: a.random("spoilt callers"), ctx: a.ctx, s: a.s}
	conn, hangUp := a.dial(proxy.Address(), steadyService)
	a.s.Cleanup(hangUp)
	calling.Go(func() {
		free := make(chan struct{}, 50)
		for own.pause(10*time.Millisecond, 100*time.Millisecond) {
			kind, shape, timeout := own.kind(), own.shape(), 100*time.Millisecond+own.duration(5*time.Second)
			free <- struct{}{}
			calling.Go(func() {
				defer func() { <-free }()
				own.disturbed(own.ctx, "behind a network that fails", conn, kind, shape, timeout, broken...)
			})
		}
	})
	a.spoil(proxy)
}

// proxy stands in front of a server for as long as the part lasts.
func (a *acting) proxy(target string) *fault.Proxy {
	proxy, err := fault.New(fault.Options{Listen: harness.FreeAddress(a.s), Target: target, Seed: a.Uint64()})
	if err != nil {
		a.s.Fatal(err)
	}
	a.s.Cleanup(proxy.Close)

	return proxy
}

// spoil switches faults, one after the other, with calm times in between.
func (a *acting) spoil(proxy *fault.Proxy) {
	for a.pause(100*time.Millisecond, time.Second) {
		f := a.faults()
		a.eventf("faults: %v at %s", f, proxy.Address())
		if err := proxy.Set(f); err != nil {
			a.s.Fatal(err)
		}
		if a.IntN(4) == 0 {
			how := []fault.Ending{fault.Close, fault.Abort, fault.HalfClose, fault.Vanish}[a.IntN(4)]
			a.eventf("faults: %v all at %s", how, proxy.Address())
			proxy.EndAll(how)
		}
		a.pause(100*time.Millisecond, 2*time.Second)
		if err := proxy.Set(fault.Faults{}); err != nil {
			a.s.Fatal(err)
		}
		// Those that vanished or stall in one direction would do so for good.
		if a.IntN(3) == 0 {
			proxy.EndAll(fault.Abort)
		}
	}
}

func (a *acting) faults() fault.Faults {
	switch a.IntN(7) {
	case 0:
		return fault.Both(fault.Flow{Delay: a.duration(50 * time.Millisecond), Jitter: time.Millisecond + a.duration(50*time.Millisecond)})
	case 1:
		return fault.Both(fault.Flow{BytesPerSecond: 10_000 + a.IntN(1_000_000)})
	case 2:
		return fault.Faults{ToClient: fault.Flow{Chunk: 1 + a.IntN(20)}}
	case 3:
		return fault.Faults{ToServer: fault.Flow{Stall: []fault.Stall{fault.Unread, fault.Held}[a.IntN(2)]}}
	case 4:
		return fault.Faults{ToClient: fault.Flow{Stall: []fault.Stall{fault.Unread, fault.Held}[a.IntN(2)]}}
	case 5:
		return fault.Faults{Accept: []fault.Accept{fault.Drop, fault.Reset, fault.Mute, fault.Refuse}[a.IntN(4)]}
	default:
		return fault.Faults{Cut: &fault.Cut{
			Direction: []fault.Direction{fault.ToServer, fault.ToClient}[a.IntN(2)],
			Ending:    []fault.Ending{fault.Close, fault.Abort, fault.HalfClose}[a.IntN(3)],
			Frame:     &fault.FramePlace{Type: []http2.FrameType{http2.FrameHeaders, http2.FrameData, fault.AnyType}[a.IntN(3)], Nth: 1 + a.IntN(20), Offset: a.IntN(30)},
		}}
	}
}

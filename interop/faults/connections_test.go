package faults

import (
	"context"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/interop/fault"
	"github.com/pillion-proxy/pillion/interop/fault/exact"
	"google.golang.org/grpc/codes"
)

// RPCs over several connections to an instance do not depend on which of these is
// quicker.
func TestConnectionsThatOvertakeEachOther(t *testing.T) {
	t.Parallel()

	r := startRig(t, atInstance, map[string]any{"connections": map[string]any{"max_streams_per_connection": 2}})
	p := plan{each: 4, shape: exact.Shape{Messages: 20, Size: 5000}, timeout: patience}
	r.make(t, alone, p, codes.OK)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conns, err := r.proxy.AwaitConns(ctx, 4)
	if err != nil {
		t.Fatal(err)
	}

	r.proxy.MustSet(t, fault.Both(fault.Flow{Overtake: 20 * time.Millisecond}))
	r.make(t, alone, p, codes.OK)
	r.proxy.Clear(t)

	// All but one are held until that one has delivered what comes on it.
	quick := conns[len(conns)-1]
	var releases []func()
	for _, c := range conns {
		if c != quick {
			releases = append(releases, c.Hold(fault.ToServer), c.Hold(fault.ToClient))
		}
	}
	before := quick.Delivered(fault.ToServer)
	under := r.begin(alone, p)
	if err := quick.AwaitDelivered(ctx, fault.ToServer, before+5000); err != nil {
		t.Error(err)
	}
	for _, release := range releases {
		release()
	}
	under.judge(t, codes.OK)
	r.mustSettle(t)
}

// An instance whose kernel acknowledges bytes, and which does nothing more, is
// found out by PINGs where they are asked for.
func TestAnInstanceThatOnlyAcknowledges(t *testing.T) {
	t.Parallel()

	const (
		interval = 10 * time.Second // the least that there is
		timeout  = 2 * time.Second  // a busy machine may be as slow
	)
	r := startRig(t, atInstance, map[string]any{"connections": map[string]any{
		"keepalive": map[string]any{"interval": interval.String(), "timeout": timeout.String()},
	}})
	under := r.begin(alone, plan{each: 3, shape: exact.Shape{Messages: 100, Size: 20_000}, timeout: patience})
	r.awaitTraffic(t, under)
	began := time.Now()
	r.proxy.EndAll(fault.Vanish)
	if counts := under.judge(t, r.broken()...); counts[codes.Unavailable] == 0 {
		t.Errorf("%v", counts)
	}
	took := time.Since(began)
	t.Logf("over after %v", took.Round(time.Millisecond))
	if took > interval+timeout+grace || took < interval/2 {
		t.Errorf("over after %v", took)
	}
	r.heal(t, alone)
	r.proxy.EndAll(fault.Abort) // the app hears of it, too
	r.mustSettle(t)
}

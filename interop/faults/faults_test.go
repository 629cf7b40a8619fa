package faults

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/interop/fault"
	"github.com/pillion-proxy/pillion/interop/fault/exact"
	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
)

// Each position has one mesh, which meets all faults one after the other: what a
// fault leaves behind meets the next.
func TestFaults(t *testing.T) {
	t.Parallel()

	for _, at := range positions {
		t.Run(string(at), func(t *testing.T) {
			t.Parallel()

			r := startRig(t, at, ordinary())
			before := r.size(t)
			beside := r.bystand(t)
			for _, part := range []struct {
				name string
				test func(*testing.T, *rig)
			}{
				{"what is only slow ends well", slow},
				{"stalls end with the deadline", stalls},
				{"connections that are cut", cuts},
				{"connections that end under RPCs", endings},
				{"half-closed connections", halfCloses},
				{"connections that cannot be made", accepts},
				{"connections that end before the first RPC", handshakes},
			} {
				t.Run(part.name, func(t *testing.T) { part.test(t, r) })
				r.proxy.Clear(t)
			}
			beside.mustNotHaveNoticed(t)
			r.mustSettle(t)
			r.mustShrinkTo(t, before)
		})
	}
}

// Every RPC ends OK, however its bytes come.
func slow(t *testing.T, r *rig) {
	for name, test := range map[string]struct {
		flow  fault.Flow
		least time.Duration
		shape exact.Shape
	}{
		"byte by byte":         {fault.Flow{Chunk: 1}, 0, exact.Shape{Messages: 5, Size: 500}},
		"delay":                {fault.Flow{Delay: 50 * time.Millisecond, Jitter: 30 * time.Millisecond}, 100 * time.Millisecond, small.shape},
		"bandwidth":            {fault.Flow{BytesPerSecond: 200 << 10}, 100 * time.Millisecond, small.shape},
		"others overtake":      {fault.Flow{Overtake: 20 * time.Millisecond}, 0, small.shape},
		"odd pieces":           {fault.Flow{Chunk: 13, Delay: time.Millisecond}, 0, small.shape},
		"bytes long in coming": {fault.Flow{Chunk: 7, BytesPerSecond: 20 << 10}, 100 * time.Millisecond, exact.Shape{Messages: 3, Size: 100}},
	} {
		began := time.Now()
		r.proxy.MustSet(t, fault.Both(test.flow))
		p := small
		p.shape = test.shape
		r.make(t, alone, p, codes.OK)
		if took := time.Since(began); took < test.least {
			t.Errorf("%s: took %v: the fault was not there", name, took)
		}
	}
	r.heal(t, alone)
}

// An RPC whose bytes do not come ends with its deadline, at the client and at the
// app. Nothing is left of it, even while the stall goes on.
func stalls(t *testing.T, r *rig) {
	const timeout = 500 * time.Millisecond

	for _, kind := range []fault.Stall{fault.Unread, fault.Held} {
		for name, faults := range map[string]fault.Faults{
			"both":      fault.Both(fault.Flow{Stall: kind}),
			"to server": {ToServer: fault.Flow{Stall: kind}},
			"to client": {ToClient: fault.Flow{Stall: kind}},
		} {
			// So much that no buffer takes it all.
			p := plan{each: 2, shape: exact.Shape{Messages: 40, Size: 200 << 10}, timeout: timeout}
			under := r.begin(alone, p)
			r.awaitTraffic(t, under)
			r.proxy.MustSet(t, faults)
			p.shape = small.shape
			later := r.begin(alone, p)
			counts := under.judge(t, codes.OK, codes.DeadlineExceeded)
			if counts := later.judge(t, codes.DeadlineExceeded); counts[codes.DeadlineExceeded] == 0 {
				t.Errorf("%s: %v: the fault was not there", name, counts)
			}
			if counts[codes.DeadlineExceeded] == 0 {
				t.Errorf("%s: %v of those under way", name, counts)
			}
			if r.at != atClient {
				r.make(t, pair, plan{each: 3, shape: exact.Shape{Size: 10}, timeout: timeout}, codes.OK, codes.DeadlineExceeded)
			}
			r.mustBeIdle(t, alone, pair)
			r.heal(t, alone)
		}
	}
}

// awaitTraffic waits until some bytes of RPCs went to the server, or they are over.
func (r *rig) awaitTraffic(t *testing.T, under *running) {
	t.Helper()

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conns, err := r.proxy.AwaitConns(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	before := make([]int64, len(conns))
	for i, c := range conns {
		before[i] = c.Delivered(fault.ToServer)
	}
	for ctx.Err() == nil {
		for i, c := range conns {
			if c.Delivered(fault.ToServer) > before[i]+10_000 {
				return
			}
		}
		select {
		case <-under.over: // on a machine on which their time passed before
			return
		case <-time.After(time.Millisecond):
		}
	}
	t.Fatal("no traffic")
}

// A connection that is cut in or between frames: UNAVAILABLE for what was under
// way, since it may have been processed, whichever byte was the last. The one RPC
// whose answer's message has gone to the client in part is INTERNAL: trailers may
// not follow there, so the stream is reset, and HTTP/2 has no code for a reset
// that is UNAVAILABLE and does not ask for the RPC to be sent again.
func cuts(t *testing.T, r *rig) {
	places := []fault.FramePlace{
		{Type: http2.FrameHeaders, Nth: 3},
		{Type: http2.FrameHeaders, Nth: 3, Offset: 4},
		{Type: http2.FrameHeaders, Nth: 3, Offset: 9},
		{Type: http2.FrameHeaders, Nth: 3, FromEnd: true, Offset: -1},
		{Type: http2.FrameHeaders, Nth: 3, FromEnd: true},
		{Type: http2.FrameData, Nth: 3, Offset: 8},
		{Type: http2.FrameData, Nth: 3, Offset: 9},
		{Type: http2.FrameData, Nth: 3, Offset: 12},
		{Type: http2.FrameData, Nth: 3, FromEnd: true, Offset: -1},
		{Type: http2.FrameData, Nth: 3, FromEnd: true},
		{Type: http2.FrameData, Nth: 3, FromEnd: true, Offset: 2},
	}
	for _, place := range places {
		for _, direction := range []fault.Direction{fault.ToServer, fault.ToClient} {
			for _, ending := range []fault.Ending{fault.Close, fault.Abort} {
				cut := &fault.Cut{Direction: direction, Ending: ending, Frame: &place, Connections: 1}
				done := r.proxy.Cuts()
				r.proxy.MustSet(t, fault.Faults{Cut: cut})
				allowed := []codes.Code{codes.OK, codes.Unavailable}
				inMessage := r.at != atClient && direction == fault.ToClient && place.Type == http2.FrameData
				if inMessage {
					allowed = append(allowed, codes.Internal)
				}
				counts := r.make(t, alone, small, allowed...)
				if counts[codes.Internal] > 1 {
					t.Errorf("%v: %v", cut, counts)
				}
				if r.proxy.Cuts() != done+1 {
					t.Errorf("%v: the fault was not there", cut)
				}
				if counts[codes.Unavailable]+counts[codes.Internal] == 0 {
					t.Errorf("%v: all ended well", cut)
				}
				r.heal(t, alone)
				if t.Failed() {
					t.Fatalf("at %v", cut)
				}
			}
		}
	}
}

// broken is how RPCs with large messages may end on a connection that breaks: see
// cuts.
func (r *rig) broken() []codes.Code {
	allowed := []codes.Code{codes.OK, codes.Unavailable}
	if r.at != atClient {
		allowed = append(allowed, codes.Internal)
	}

	return allowed
}

// A connection that ends at any time under RPCs.
func endings(t *testing.T, r *rig) {
	for _, ending := range []fault.Ending{fault.Close, fault.Abort, fault.Close, fault.Abort} {
		under := r.begin(alone, plan{each: 4, shape: exact.Shape{Messages: 50, Size: 20_000}, timeout: small.timeout})
		r.awaitTraffic(t, under)
		r.proxy.EndAll(ending)
		if counts := under.judge(t, r.broken()...); counts[codes.Unavailable] == 0 {
			t.Errorf("%v: %v", ending, counts)
		}
		r.heal(t, alone)
	}
}

// A connection of which one direction is closed under RPCs: the rest of them is
// not waited for in vain.
func halfCloses(t *testing.T, r *rig) {
	for _, direction := range []fault.Direction{fault.ToServer, fault.ToClient} {
		under := r.begin(alone, plan{each: 4, shape: exact.Shape{Messages: 50, Size: 20_000}, timeout: small.timeout})
		r.awaitTraffic(t, under)
		for _, c := range r.proxy.Conns() {
			c.HalfClose(direction)
		}
		began := time.Now()
		if counts := under.judge(t, r.broken()...); counts[codes.Unavailable] == 0 {
			t.Errorf("half-close %v: %v", direction, counts)
		}
		if took := time.Since(began); took > small.timeout/2 {
			t.Errorf("half-close %v: over after %v", direction, took)
		}
		r.heal(t, alone)
	}
}

// Where no connection can be made: UNAVAILABLE within the connect timeout, or OK
// at another instance.
func accepts(t *testing.T, r *rig) {
	for _, accept := range []fault.Accept{fault.Drop, fault.Reset, fault.Mute, fault.Refuse} {
		r.proxy.MustSet(t, fault.Faults{Accept: accept})
		r.proxy.EndAll(fault.Abort)
		await(t, "no connection is left", func() bool { return len(r.proxy.Conns()) == 0 })
		name := fmt.Sprint(fault.Faults{Accept: accept})
		r.forgetConnections(t)

		began := time.Now()
		p := plan{each: 2, shape: small.shape, timeout: connectTimeout + grace}
		counts := r.make(t, alone, p, codes.Unavailable)
		t.Logf("%s: %v after %v", name, counts, time.Since(began).Round(time.Millisecond))
		if r.at != atClient {
			if counts := r.make(t, pair, p, codes.OK); counts[codes.OK] == 0 {
				t.Errorf("%s: %v", name, counts)
			}
		}
		r.heal(t, alone)
	}
}

// awaitConnected waits until pair's instance behind the fault is in use again.
func (r *rig) awaitConnected(t *testing.T) {
	t.Helper()

	for began := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		r.make(t, pair, plan{each: 1, timeout: small.timeout}, codes.OK)
		for _, in := range instances(t, r.outbound) {
			if in.service == pair && in.Address == r.proxy.Address() && in.Connections > 0 {
				return
			}
		}
		if took := time.Since(began); took > recovery+grace {
			t.Fatalf("not connected %v after the fault's end", took)
		}
	}
}

// forgetConnections waits until a sidecar has noticed that those to the instance
// behind the fault are gone.
func (r *rig) forgetConnections(t *testing.T) {
	t.Helper()

	if r.at == atClient {
		return
	}
	for deadline := time.Now().Add(patience); ; {
		open := 0
		for _, in := range instances(t, r.outbound) {
			if in.Address == r.proxy.Address() {
				open += in.Connections
			}
		}
		if open == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d connections are still there", open)
		}
	}
}

// A connection that ends before the instance's SETTINGS are there: Pillion has
// written no RPC on it, so all go elsewhere, unseen.
func handshakes(t *testing.T, r *rig) {
	if r.at == atClient {
		t.Skip("a client's connection, and a client's retry")
	}
	for _, cut := range []fault.Cut{
		{Direction: fault.ToClient, Bytes: 0, Ending: fault.Abort},
		{Direction: fault.ToClient, Bytes: 5},
		{Direction: fault.ToClient, Frame: &fault.FramePlace{Type: http2.FrameSettings, FromEnd: true, Offset: -1}},
		{Direction: fault.ToClient, Bytes: 5, Ending: fault.Vanish},
	} {
		r.awaitConnected(t)
		done := r.proxy.Cuts()
		r.proxy.MustSet(t, fault.Faults{Cut: &cut})
		r.proxy.EndAll(fault.Abort)
		r.forgetConnections(t)
		// The instance may be left alone for a while before it is tried again.
		for began := time.Now(); r.proxy.Cuts() == done; {
			r.make(t, pair, small, codes.OK)
			if time.Since(began) > recovery+grace {
				t.Errorf("%v: the fault was not there", cut)

				break
			}
		}
		r.make(t, pair, small, codes.OK)
		r.heal(t, alone)
	}
}

package relay

import (
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"github.com/pillion-proxy/pillion/proxy/admission"
	"github.com/pillion-proxy/pillion/proxy/internal/scriptpeer"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
)

// halfOpen lets a test begin where one place of two is for requests that are not
// complete, and one that never will be has it.
func halfOpen(t *testing.T, test func(r *rig, in *scriptpeer.Peer, counts *telemetry.Admission)) {
	t.Helper()
	simulated(t, func(t *testing.T) {
		g, counts := gate(0, &admission.Concurrency{InitialLimit: 2})
		r := newRig(t, options{Config: Config{Side: telemetry.Inbound, Gate: g, Shield: true}})
		in := r.ask(r.net.Listen("a:1"), 1, false)
		test(r, in, counts)
		r.Close()
		synctest.Wait()
		if w, f := counts.Waiting.Load(), counts.InFlight.Load(); w != 0 || f != 0 {
			t.Errorf("%d waiting, %d in flight, want none", w, f)
		}
	})
}

// A second one stays in the sidecar, until it is complete.
func TestHalfOpenRequestsAreHeld(t *testing.T) {
	halfOpen(t, func(r *rig, in *scriptpeer.Peer, counts *telemetry.Admission) {
		r.Request(3, "/a.B/C", false)
		r.Want()
		in.Want()
		r.Message(3, 10, true)
		in.Want("HEADERS 3*", "DATA 3 15 end")
		if n := counts.Waiting.Load(); n != 1 {
			r.t.Errorf("%d RPCs wait, want the one that is complete", n)
		}
		in.TrailersOnly(3, "0")
		r.Want("HEADERS 3 :status=200 grpc-status=0 end")
		// Nor is it different where the end comes by itself, or there is no message.
		r.Request(5, "/a.B/C", false)
		r.Message(5, 10, false)
		r.Request(7, "/a.B/C", false)
		r.Data(7, nil, true)
		in.Want("HEADERS 5*", "DATA 5 15", "HEADERS 7 *end")
	})
}

// Nothing is kept of it for ever.
func TestHeldRequestsAreRefusedInTheEnd(t *testing.T) {
	halfOpen(t, func(r *rig, in *scriptpeer.Peer, counts *telemetry.Admission) {
		r.Request(3, "/a.B/C", false)
		time.Sleep(admission.EarlyTime - time.Millisecond)
		r.Want()
		time.Sleep(2 * time.Millisecond)
		r.Want("HEADERS 3 :status=200 grpc-status=14 grpc-message=overloaded: the app has* pillion-flags=OM end", "RST_STREAM 3 NO_ERROR")
		if n := counts.Shed[telemetry.ShedConcurrency].Load(); n != 1 {
			r.t.Errorf("%d RPCs count as shed, want 1", n)
		}
		in.Want()
	})
}

// One that sends much of a message has to be decided on, before it fills memory.
func TestHeldRequestsKeepLittle(t *testing.T) {
	halfOpen(t, func(r *rig, in *scriptpeer.Peer, _ *telemetry.Admission) {
		r.Request(3, "/a.B/C", false)
		r.Data(3, append([]byte{0, 0, 1, 0, 0}, make([]byte, maxKeptReplay)...), false)
		r.Want("HEADERS 3 :status=200 grpc-status=14 grpc-message=overloaded: the app has* pillion-flags=OM end", "RST_STREAM 3 NO_ERROR")
		in.Want()
	})
}

// When the place is free, one that is held gets it.
func TestHeldRequestsGetThePlace(t *testing.T) {
	halfOpen(t, func(r *rig, in *scriptpeer.Peer, _ *telemetry.Admission) {
		r.Request(3, "/a.B/C", false)
		in.Response(1)
		r.Want("HEADERS 1 :status=200")
		time.Sleep(admission.EarlyTime + time.Millisecond)
		in.Want("HEADERS 3*")
	})
}

// What was complete too late, when the app has enough and has seen the headers, is not
// said to be unprocessed.
func TestHalfOpenRequestsThatCameTooLate(t *testing.T) {
	halfOpen(t, func(r *rig, in *scriptpeer.Peer, counts *telemetry.Admission) {
		for id := uint32(3); id < 20; id += 2 { // others come by meanwhile
			time.Sleep(2 * time.Second)
			r.Request(id, "/a.B/C", false)
			r.Reset(id, http2.ErrCodeCancel)
		}
		r.Request(31, "/a.B/C", true)
		r.Request(33, "/a.B/C", true)
		synctest.Wait()
		in.Frames()
		r.Frames()
		if n := counts.Waiting.Load(); n != 2 {
			r.t.Fatalf("%d RPCs wait, want 2", n)
		}
		r.Message(1, 10, true)
		r.Want("HEADERS 1 :status=200 grpc-status=8 grpc-message=overloaded: the app has* pillion-flags=OM end")
		in.Want("RST_STREAM 1 CANCEL")
	})
}

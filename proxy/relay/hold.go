package relay

import (
	"time"

	"google.golang.org/grpc/codes"

	"github.com/pillion-proxy/pillion/proxy/admission"
	"github.com/pillion-proxy/pillion/proxy/h2"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
	"github.com/pillion-proxy/pillion/proxy/wire"
)

// stage is how far the request has come. r.mu is held.
func (r *RPC) stage() admission.Stage {
	switch {
	case r.reqEnd:
		return admission.Whole
	case r.reqMsgs > 0:
		return admission.Said
	}
	return admission.Begun
}

// hold keeps an RPC from its instance until more of its request is there, or time
// is over. r.mu is held.
func (r *RPC) hold() {
	r.early = true
	life := r.life
	r.held = time.AfterFunc(admission.EarlyTime, func() { r.onHeld(life) })
}

// letGo ends that. r.mu is held.
func (r *RPC) letGo() {
	if r.early {
		r.early = false
		r.held.Stop()
	}
}

// onHeld is called by the timer, perhaps when the RPC is over.
func (r *RPC) onHeld(life uint32) {
	var b h2.Batch
	defer b.Done()
	r.mu.Lock()
	defer r.mu.Unlock()
	if life == r.life && r.early {
		r.decide(&b, r.pass.Late(b.Now(), r.stage()))
	}
}

// mayGoOn tells the gate that more of the request is there. It is false where the
// RPC has to wait, or is refused. r.mu is held.
func (r *RPC) mayGoOn(b *h2.Batch) bool {
	if !r.pass.Wants(r.stage()) {
		return true
	}
	verdict := r.pass.More(b.Now(), r.stage())
	if verdict == admission.Early && len(r.replay) > maxKeptReplay {
		// It waits in vain where its message is larger than the stream's window, and
		// many of them would be the budget's end.
		verdict = r.pass.Late(b.Now(), r.stage())
	}
	return r.decide(b, verdict)
}

// decide does what the gate said of an RPC that it had not refused so far.
func (r *RPC) decide(b *h2.Batch, verdict admission.Verdict) bool {
	switch verdict {
	case admission.Early:
		return false
	case admission.Admitted:
		if r.early {
			r.letGo()
			r.findDestination(b)
		}
		return true
	}
	code := codes.Unavailable
	if r.p.cfg.Side == telemetry.Outbound || r.sent > 0 { // the app may have seen it
		code = codes.ResourceExhausted
	}
	r.fail(b, code, wire.FlagOverload, overLimit)
	return false
}

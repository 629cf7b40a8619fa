package relay

import (
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/pillion-proxy/pillion/proxy/admission"
	"github.com/pillion-proxy/pillion/proxy/h2"
	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
	"github.com/pillion-proxy/pillion/proxy/upstream"
	"github.com/pillion-proxy/pillion/proxy/wire"
)

// phase is how far an RPC has come.
type phase uint8

const (
	// phaseRouting: the destination is being looked up.
	phaseRouting phase = iota
	// phaseTrying: an attempt waits for a connection, or the instance has not
	// answered yet; the RPC may still go elsewhere.
	phaseTrying
	// phaseAnswering: the instance's response headers went to the caller.
	phaseAnswering
	// phaseRefusing: Pillion answers with a plain HTTP status, once the request
	// has come to its end.
	phaseRefusing
	// phaseDone: the caller was told the end.
	phaseDone
)

// RPC is one RPC under way. It is the [h2.Owner] of the caller's stream.
type RPC struct {
	p    *Proxy
	down h2.Stream
	skip func(*upstream.Instance) bool // wasTried

	mu    sync.Mutex
	life  uint32 // which RPC this is, of those that the memory served
	over  uint32 // the life of down that ended before it was handed over
	timer alarm
	first attempt
	spare *policed // what pol is where policies hold; stays from one RPC to the next
	// untilRecorded is how many RPCs of this memory come until one is remembered.
	untilRecorded uint32
	state
}

// state is what belongs to one RPC only. It is guarded by RPC.mu. What is small
// stands together: there may be many RPCs.
type state struct {
	downGen   uint32
	timeoutAt int32 // where grpc-timeout is in block; noTimeout, twoTimeouts
	phase     phase
	isOpen    bool // the engine knows down
	early     bool // its request is not complete enough to begin
	reqEnd    bool
	capped    bool // the deadline is not the caller's own
	// An instance refused the RPC because it is overloaded, and it went elsewhere.
	overloaded bool
	replayable bool
	counted    bool // method.Started was called
	own        bool // the sidecar itself answers it

	pass admission.Pass
	held *time.Timer

	// The request.
	block     *hpack.Block // its fields; nil once no attempt can need them
	path      string
	authority string
	start     time.Time
	begun     time.Duration // start since Proxy.made
	asked     time.Duration // when reqEnd came, since start
	reqBytes  uint64
	reqMsgs   uint64
	req       wire.Messages

	// What is kept of the request until the RPC cannot be tried again, or as
	// long as there is no stream to send it on.
	replay     []byte
	credited   int   // request bytes given back to the caller's window
	reserved   int32 // bytes of the budget that replay holds, which windows bound
	shared     int32 // of those, the ones that are counted in dest.Kept
	fieldBytes int   // bytes of the budget that block holds

	deadline time.Duration // since start; 0: none

	// The attempts.
	dest    *upstream.Cluster
	choice  upstream.Choice // which of its instances
	route   string
	cur     *attempt
	tried   []*upstream.Instance
	lastErr error // why the last attempt failed
	live    int32 // attempts whose stream the engine knows
	tries   int32 // attempts, those that could not be sent included
	sent    int32 // attempts that were sent

	// The answer.
	status    int16 // :status of the answer
	refusal   int16 // phaseRefusing: the status to come
	respBytes uint64
	respMsgs  uint64
	resp      wire.Messages

	method *telemetry.Method

	pol    *policed // nil: no policy holds for it
	judged *judged  // nil: access rules need nothing of it again
}

// What state.timeoutAt is where there is not one grpc-timeout.
const (
	noTimeout   = -1
	twoTimeouts = -2 // or more
)

func newRPC(p *Proxy) *RPC {
	r := &RPC{p: p, life: 1}
	r.down.Init(r)
	r.first.init(r)
	r.skip = r.wasTried
	r.timer.ring = r.onDeadline
	r.untilRecorded = p.cfg.Recording.Gap(p.cfg.Random)
	return r
}

// begin makes r a new RPC. r.mu is held.
func (r *RPC) begin(b *h2.Batch, gen uint32, h *h2.Head, end bool) {
	r.downGen, r.isOpen = gen, true
	r.phase = phaseRouting
	r.start = b.Now()
	r.begun = r.start.Sub(r.p.made)
	r.reqEnd = end
	r.path, r.authority = h.Path, h.Authority
	r.block = h.Take()
	r.method = r.p.cfg.Metrics.Method(r.path)
	r.timeoutAt = noTimeout
	r.replayable = true
}

// end notes how the RPC ended, once, and cancels what is under way. r.mu is
// held.
func (r *RPC) end(b *h2.Batch, code codes.Code, flag wire.Flag, message string) {
	if r.phase == phaseDone {
		return
	}
	r.phase = phaseDone
	took := b.Now().Sub(r.start)
	r.timer.leave(r.begun + took)
	r.letGo()
	r.forgetRequest()
	r.pass.End(b.Now(), r.askedAt(), code == codes.OK && r.reqMsgs <= 1 && r.respMsgs <= 1)
	r.count()
	r.method.Handled(code, took)
	if r.pol != nil {
		flag = r.endPolicies(b, code, flag, took)
	}
	if flag != wire.FlagNone {
		r.counts().Failed(flag)
	}
	if r.p.cfg.Log.Want(code) {
		r.log(code, flag, message, took)
	}
	r.cancelAttempts(b, h2.Cancel)
}

// askedAt is when the instance was asked: when the request was complete, and no policy
// had it wait any more. The zero time: it was not.
func (r *RPC) askedAt() time.Time {
	asked := r.asked
	if r.pol != nil {
		asked = max(asked, r.pol.sentAt)
	}
	if !r.reqEnd || r.pol != nil && r.tries == 0 {
		return time.Time{}
	}
	return r.start.Add(asked)
}

// counts returns the counters of the destination.
func (r *RPC) counts() *telemetry.Service {
	if r.dest != nil {
		return r.dest.Counts()
	}
	return r.p.cfg.Unrouted
}

// learn makes the RPC's path known to the metrics, since an instance answered
// it: a caller alone cannot make up label values. r.mu is held.
func (r *RPC) learn() {
	if !r.counted {
		r.method = r.p.cfg.Metrics.Learn(r.path, telemetry.TypeUnknown)
		r.count()
	}
}

// count counts the RPC as begun. Where its path was not known at first, that is
// done late, with what has come since. r.mu is held.
func (r *RPC) count() {
	if r.counted {
		return
	}
	r.counted = true
	r.method.Started()
	r.countRequest(int(r.reqMsgs))
	r.countResponse(int(r.respMsgs))
}

func (r *RPC) countRequest(n int) {
	if r.p.cfg.Side == telemetry.Outbound {
		r.method.Sent(n)
	} else {
		r.method.Received(n)
	}
}

func (r *RPC) countResponse(n int) {
	if r.p.cfg.Side == telemetry.Outbound {
		r.method.Received(n)
	} else {
		r.method.Sent(n)
	}
}

func (r *RPC) log(code codes.Code, flag wire.Flag, message string, took time.Duration) {
	rec := telemetry.Record{
		Start: r.start, Duration: took, Side: r.p.cfg.Side,
		Peer: r.down.Conn().RemoteAddr().String(), Source: r.p.cfg.Caller, Authority: r.authority, Path: r.path,
		Route: r.route, Attempts: int(r.tries), Code: code, Message: message, Flag: flag,
		HTTPStatus: int(r.status), RequestMessages: r.reqMsgs, ResponseMessages: r.respMsgs,
		RequestBytes: r.reqBytes, ResponseBytes: r.respBytes,
	}
	if c := r.caller(); c != nil {
		rec.Source, rec.Identity = c.name, c.id
	}
	if r.dest != nil {
		rec.Service = r.dest.Name()
	}
	if r.pol != nil {
		rec.Groups = r.groupNames()
		rec.NoRetry = r.pol.reason
	}
	if r.cur != nil && r.cur.inst != nil {
		rec.Instance = r.cur.inst.String()
		rec.UpstreamDuration = took - r.cur.began
	}
	r.p.cfg.Log.Log(&rec)
}

// forgetFields gives up the request's fields as well: an RPC may go on for days
// once it is answered. r.mu is held.
func (r *RPC) forgetFields() {
	if known := r.method.Path(); known != "" {
		r.path = known
	} else {
		r.path = r.block.Keep(r.path)
	}
	r.authority = r.block.Keep(r.authority)
	r.freeFields()
}

// release gives r back for another RPC, once nothing refers to it any more. r.mu
// is held.
func (r *RPC) release() {
	if r.phase != phaseDone || r.isOpen || r.live > 0 {
		return
	}
	r.freeFields()
	r.freeJudged()
	r.pass.Exit()
	clear(r.tried)
	replay := r.replay[:0]
	if cap(replay) > maxKeptReplay {
		freeReplay(replay)
		replay = nil
	}
	if r.pol != nil {
		r.pol.forget()
	}
	r.state = state{tried: r.tried[:0], replay: replay}
	r.life++
	r.p.rpcs.Put(r)
}

const (
	// maxKeptReplay is the capacity that an RPC keeps for the next one's request.
	// As much is not counted against the budget,
	maxKeptReplay = 4 << 10
	// but only for so many RPCs at once: 16 MiB. It spares nearly all RPCs the
	// counting, which all cores do in one place.
	maxUncounted = 4096
)

// uncounted is how many bytes of the request the budget does not count.
func (r *RPC) uncounted() int {
	if r.pass.Count > maxUncounted {
		return 0
	}
	return maxKeptReplay
}

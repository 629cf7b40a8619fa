package relay

import (
	"strings"

	"google.golang.org/grpc/codes"

	"github.com/pillion-proxy/pillion/proxy/access"
	"github.com/pillion-proxy/pillion/proxy/h2"
	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
	"github.com/pillion-proxy/pillion/proxy/wire"
)

// mayCall says whether the caller may make this RPC; else it is answered. r.mu is held.
func (r *RPC) mayCall(b *h2.Batch) bool {
	who := r.caller().may(r.p.cfg.Access)
	if who == nil {
		return true
	}
	decision := who.Decide(r.path, r.block.Fields)
	decision.Count()
	if !decision.Allowed {
		r.denied(b, who, &decision)
		return false
	}
	if decision.Audit != "" && r.p.cfg.Audited != nil {
		r.p.cfg.Audited(who.Name(), r.path, decision.Audit)
	}
	if who.Looks(r.path) && !r.keepJudged() {
		r.fail(b, codes.ResourceExhausted, wire.FlagOverload, tooManyFields)
		return false
	}
	return true
}

// denied ends an RPC that the caller may not make. r.mu is held.
func (r *RPC) denied(b *h2.Batch, who *access.Caller, d *access.Decision) {
	r.failWith(b, codes.PermissionDenied, wire.FlagAccessDenied, who.Message(d), h2.InadequateSecurity)
}

// judged is what is kept of a request to judge it again by other rules: its fields, as
// the caller sent them.
type judged struct {
	fields []hpack.Field
	taken  int // bytes of the budget
}

// keepJudged keeps the request's fields to its end. It is false where they are more than
// the process may keep. r.mu is held.
func (r *RPC) keepJudged() bool {
	n := 0
	for i := range r.block.Fields {
		n += int(r.block.Fields[i].Size())
	}
	taken := 0
	if n > ordinaryFields {
		if !r.p.cfg.Budget.Take(n) {
			return false
		}
		taken = n
	}
	var text strings.Builder
	text.Grow(n)
	for _, f := range r.block.Fields {
		text.WriteString(f.Name)
		text.WriteString(f.Value)
	}
	all := text.String()
	fields := make([]hpack.Field, len(r.block.Fields))
	for i, f := range r.block.Fields {
		fields[i].Name, all = all[:len(f.Name)], all[len(f.Name):]
		fields[i].Value, all = all[:len(f.Value)], all[len(f.Value):]
	}
	r.judged = &judged{fields, taken}
	return true
}

// freeJudged lets go of them. r.mu is held.
func (r *RPC) freeJudged() {
	if r.judged == nil {
		return
	}
	if r.judged.taken > 0 {
		r.p.cfg.Budget.Release(r.judged.taken)
	}
	r.judged = nil
}

// recheckEach is how many RPCs are looked at again before others get their turn.
const recheckEach = 64

// Recheck looks again at whether the RPCs that are under way on callers' connections may
// be, and ends those that may not any more: other rules are in force. It takes its time,
// so that 10,000 RPCs do not hold up those that carry them.
func (p *Proxy) Recheck(conns []*h2.Conn) {
	var streams []h2.StreamRef
	for _, c := range conns {
		streams = c.Streams(streams[:0])
		for len(streams) > 0 {
			n := min(len(streams), recheckEach)
			p.recheck(streams[:n])
			streams = streams[n:]
			c.MakeWay()
		}
	}
}

func (p *Proxy) recheck(streams []h2.StreamRef) {
	var b h2.Batch
	defer b.Done()
	for _, s := range streams {
		if r, ok := s.Stream.Owner().(*RPC); ok && r.p == p {
			r.recheck(&b, s.Gen)
		}
	}
}

// recheck ends an RPC that may not be any more. One whose request is about to be handed
// over is judged then.
func (r *RPC) recheck(b *h2.Batch, gen uint32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if gen != r.downGen || !r.isOpen || r.phase == phaseDone || r.phase == phaseRefusing || r.own {
		return
	}
	who := r.caller().may(r.p.cfg.Access)
	if who == nil {
		return
	}
	var fields []hpack.Field
	if r.judged != nil {
		fields = r.judged.fields
	} else if who.Looks(r.path) {
		r.failWith(b, codes.Unavailable, wire.FlagAccessDenied,
			"access rules have come into force that look at metadata, which is no longer known of this RPC: make it again", h2.Cancel)
		return
	}
	if decision := who.Decide(r.path, fields); !decision.Allowed {
		decision.Count()
		r.denied(b, who, &decision)
	}
}

package policy

import (
	"google.golang.org/grpc/codes"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	"github.com/pillion-proxy/pillion/proxy/faultinject"
)

// Fault is the faults of one policy, and which RPCs they are for. A nil one does no
// harm.
type Fault struct {
	// Policy makes the faults, and counts those under way.
	*faultinject.Policy

	match *Match
}

// Decide says what is done to an RPC; ok: something. Nothing is counted: see
// [faultinject.Policy.Begin].
func (f *Fault) Decide(rpc *RPC) (fault faultinject.Fault, ok bool) {
	if f == nil {
		return faultinject.Fault{}, false
	}
	d := dice{random: rpc.Random}
	if !f.match.matches(rpc, &d, 0) {
		return faultinject.Fault{}, false
	}
	return f.Policy.Decide(rpc.Fields, rpc.Random)
}

// compileFault compiles a fault policy.
func (p *problems) compileFault(m *configv1.FaultPolicy) *Fault {
	options := faultinject.Options{Name: p.policy, AllowMetadata: m.GetAllowMetadata(), MaxActive: int(m.GetMaxActive())}
	if delay := m.GetDelay(); delay != nil {
		options.Delay = &faultinject.Delay{For: delay.GetFor().AsDuration(), Fraction: delay.GetFraction()}
		if delay.GetFor() == nil && !m.GetAllowMetadata() {
			p.addf("fault.delay.for", "is missing: write how long, or allow_metadata for callers to say so")
		}
	}
	if abort := m.GetAbort(); abort != nil {
		options.Abort = &faultinject.Abort{FromCaller: abort.GetStatus() == nil, Fraction: abort.GetFraction()}
		if status := abort.GetStatus(); status != nil {
			s := p.compileStatus("fault.abort.status", status, "")
			options.Abort.Code, options.Abort.Message = s.Code, s.Message
			if s.Code == codes.OK {
				p.addf("fault.abort.status.code", "is OK, which fails nothing: write another, or a route with status")
			}
		} else if !m.GetAllowMetadata() {
			p.addf("fault.abort.status", "is missing: write which, or allow_metadata for callers to say so")
		}
	}
	if m.GetDelay() == nil && m.GetAbort() == nil {
		p.addf("fault", "does nothing: write delay or abort")
	}
	return &Fault{Policy: faultinject.New(options), match: p.compileMatch("fault.match", m.GetMatch())}
}

package faultinject

import (
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
	"github.com/pillion-proxy/pillion/proxy/wire"
)

// Whole is the share of all RPCs: shares are in 1/10,000.
const Whole = 10000

// Delay makes RPCs late.
type Delay struct {
	// For is how long. 0: callers say so, where they may.
	For time.Duration
	// Fraction is the share of RPCs, in 1/10,000.
	Fraction uint32
}

// Abort makes RPCs fail.
type Abort struct {
	// Code is the status, unless FromCaller: then callers say it, where they may.
	Code       codes.Code
	FromCaller bool
	// Message is the status' message. Default: one that names the policy.
	Message string
	// Fraction is the share of RPCs, in 1/10,000.
	Fraction uint32
}

// Options are what a policy says.
type Options struct {
	// Name is the policy's.
	Name string
	// Delay and Abort are the faults; nil: there is no such.
	Delay *Delay
	Abort *Abort
	// AllowMetadata has callers choose what Delay and Abort leave open.
	AllowMetadata bool
	// MaxActive bounds the RPCs that are under a fault at a time. 0: no bound.
	MaxActive int
}

// Policy makes faults. It is safe for concurrent use.
type Policy struct {
	// Name is the policy's.
	Name string

	delay    Delay
	abort    Abort
	metadata bool // a caller may choose something
	max      int64
	active   atomic.Int64
	delayed  atomic.Uint64
	aborted  atomic.Uint64
	unharmed atomic.Uint64
}

// New returns a policy.
func New(o Options) *Policy {
	p := &Policy{Name: o.Name, max: int64(o.MaxActive)}
	if o.Delay != nil {
		p.delay = *o.Delay
		p.metadata = o.AllowMetadata && p.delay.For <= 0
	}
	if o.Abort != nil {
		p.abort = *o.Abort
		p.metadata = p.metadata || o.AllowMetadata && p.abort.FromCaller
	}
	if p.abort.Message == "" {
		p.abort.Message = fmt.Sprintf("policy %q: a fault was injected", o.Name)
	}
	return p
}

// Fault is what is done to an RPC. Where there are both, it waits first.
type Fault struct {
	// Delay is how long it waits before anything of it is sent. 0: not.
	Delay time.Duration
	// Abort says that it ends then, with Code and Message.
	Abort   bool
	Code    codes.Code
	Message string
}

// chosen returns the faults that are for an RPC with these fields, once its caller
// has chosen what callers may.
func (p *Policy) chosen(fields []hpack.Field) (wait Delay, abort Abort) {
	wait, abort = p.delay, p.abort
	if p.metadata {
		chosen := readChoice(fields)
		if wait.For <= 0 {
			wait.For, wait.Fraction = chosen.delay, min(wait.Fraction, chosen.fraction)
		}
		if abort.FromCaller && chosen.hasCode {
			abort.FromCaller, abort.Code, abort.Fraction = false, chosen.code, min(abort.Fraction, chosen.fraction)
		}
	}
	return wait, abort
}

// Describe says in words what may be done to an RPC with these fields; "" for nothing.
func (p *Policy) Describe(fields []hpack.Field) string {
	wait, abort := p.chosen(fields)
	var says []string
	if wait.For > 0 && wait.Fraction > 0 {
		says = append(says, fmt.Sprintf("%s wait %v", percent(wait.Fraction), wait.For))
	}
	if !abort.FromCaller && abort.Fraction > 0 {
		says = append(says, fmt.Sprintf("%s end %s", percent(abort.Fraction), wire.StatusName(abort.Code)))
	}
	return strings.Join(says, ", ")
}

func percent(fraction uint32) string {
	return strconv.FormatFloat(float64(fraction)*100/Whole, 'g', 4, 64) + " %"
}

// Decide says what is done to an RPC with these fields; ok: something. rnd returns
// random numbers; whether an RPC waits and whether it fails are drawn independently.
// Nothing is counted: see Begin.
func (p *Policy) Decide(fields []hpack.Field, rnd func() uint64) (f Fault, ok bool) {
	wait, abort := p.chosen(fields)
	if wait.For > 0 && hits(wait.Fraction, rnd) {
		f.Delay = wait.For
	}
	if !abort.FromCaller && hits(abort.Fraction, rnd) {
		f.Abort, f.Code, f.Message = true, abort.Code, abort.Message
	}
	return f, f.Abort || f.Delay > 0
}

// hits draws whether an RPC is one of a share.
func hits(fraction uint32, rnd func() uint64) bool {
	switch {
	case fraction == 0:
		return false
	case fraction >= Whole:
		return true
	}
	return rnd()%Whole < uint64(fraction)
}

// Begin counts an RPC that a fault is to be done to, until End. It says false where as
// many are under a fault as may be: then the RPC is left in peace, and does not End.
func (p *Policy) Begin(f Fault) bool {
	for {
		n := p.active.Load()
		if p.max > 0 && n >= p.max {
			p.unharmed.Add(1)
			return false
		}
		if p.active.CompareAndSwap(n, n+1) {
			break
		}
	}
	if f.Delay > 0 {
		p.delayed.Add(1)
	}
	if f.Abort {
		p.aborted.Add(1)
	}
	return true
}

// End says that the fault is over: the RPC has waited, and was ended where it had to
// be, or ended by itself.
func (p *Policy) End() { p.active.Add(-1) }

// Counts is what became of RPCs since the policy was made.
type Counts struct {
	// Active is how many are under a fault now.
	Active int
	// Delayed and Aborted are those that were to wait or to fail, Unharmed those
	// that were left in peace because of the bound.
	Delayed, Aborted, Unharmed uint64
}

// Counts returns what became of RPCs.
func (p *Policy) Counts() Counts {
	return Counts{
		Active: int(p.active.Load()), Delayed: p.delayed.Load(), Aborted: p.aborted.Load(),
		Unharmed: p.unharmed.Load(),
	}
}

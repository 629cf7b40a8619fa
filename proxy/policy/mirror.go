package policy

import (
	"sync/atomic"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

// Mirror says to where copies of RPCs are sent.
type Mirror struct {
	// Service is where they go; "": to the service that the RPC was addressed to.
	Service string
	// Subset is which part of it; "": its default.
	Subset string
	// MaxConcurrent is how many copies are under way at most.
	MaxConcurrent int
	// MaxBytes is how much of a request is copied at most.
	MaxBytes int
	// Asking says that the registry is asked where Service is.
	Asking atomic.Bool

	fraction uint32
	active   atomic.Int64
}

// Begin says whether an RPC is copied, given a random number. If so, End has to be
// called once the copy has ended.
func (m *Mirror) Begin(random uint64) bool {
	if m == nil {
		return false
	}
	if share(random) >= m.fraction {
		return false
	}
	if m.active.Add(1) > int64(m.MaxConcurrent) {
		m.active.Add(-1)
		return false
	}
	return true
}

// End says that a copy has ended.
func (m *Mirror) End() { m.active.Add(-1) }

// Active is how many copies are under way.
func (m *Mirror) Active() int { return int(m.active.Load()) }

// compileMirror compiles a mirror; nil where there is none.
func (p *problems) compileMirror(field string, m *configv1.Mirror) *Mirror {
	if m == nil {
		return nil
	}
	if m.GetTo() == nil {
		p.addf(field+".to", "is missing: write where the copies go")
	}
	return &Mirror{
		Service:       m.GetTo().GetService(),
		Subset:        m.GetTo().GetSubset(),
		MaxConcurrent: int(m.GetMaxConcurrent()),
		MaxBytes:      int(m.GetMaxBytes()),
		fraction:      m.GetFraction(),
	}
}

// Share is the part of RPCs that are copied, from 0 to 1.
func (m *Mirror) Share() float64 { return float64(m.fraction) / shares }

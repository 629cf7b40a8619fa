package downstream

import (
	"sync"
	"sync/atomic"
	"time"
)

// pace bounds how many connections are accepted in a second, so that who connects
// and leaves again and again does not take the CPU from the RPCs of others. Those
// that come faster wait in the kernel's queue. It allows one second's at once.
type pace struct {
	perSecond float64 // 0: no bound
	held      atomic.Uint64

	mu    sync.Mutex
	spare float64 // connections that may come at once; negative: those already late
	last  time.Time
}

// late returns how long a connection that was accepted now has to wait.
func (p *pace) late(now time.Time) time.Duration {
	if p.perSecond == 0 {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.last.IsZero() {
		p.spare = p.perSecond
	} else {
		p.spare = min(p.spare+now.Sub(p.last).Seconds()*p.perSecond, p.perSecond)
	}
	p.last = now
	p.spare--
	if p.spare >= 0 {
		return 0
	}
	return time.Duration(-p.spare / p.perSecond * float64(time.Second))
}

// HeldBack counts the connections that were accepted, but had to wait because there
// were more than Options.ConnsPerSecond. As long as it rises the accept loop moves, and
// who has just connected waits behind others.
func (s *Server) HeldBack() uint64 { return s.pace.held.Load() }

// wait waits until a connection that was accepted may be served, or until stop.
func (p *pace) wait(stop <-chan struct{}) {
	d := p.late(time.Now())
	if d == 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-stop:
	}
	p.held.Add(1)
}

package relay

import "time"

// alarm is the timer of an RPC's memory. Most RPCs are over long before their
// deadlines, and the next ones in the same memory have later ones. So the timer is
// left running at an RPC's end, and set again only where it would ring too late: whom
// it rings too early for sets it again. Times are since Proxy.made. Its fields are
// guarded by RPC.mu.
type alarm struct {
	ring  func() // what is called
	timer *time.Timer
	at    time.Duration // when it rings; 0: it does not run
}

// mostLeft is how long a timer may be left running with nobody to ring for: the
// memory stays for as long.
const mostLeft = 10 * time.Second

// set has it ring at that time, or before.
func (a *alarm) set(now, at time.Duration) {
	switch {
	case a.timer == nil:
		a.timer = time.AfterFunc(at-now, a.ring)
	case a.at > 0 && a.at <= at:
		return
	default:
		a.timer.Reset(at - now)
	}
	a.at = at
}

// rang says that it has rung.
func (a *alarm) rang() { a.at = 0 }

// leave says that nobody waits for it any more.
func (a *alarm) leave(now time.Duration) {
	if a.at-now > mostLeft {
		a.timer.Stop()
		a.at = 0
	}
}

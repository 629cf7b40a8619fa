package h2

// resetSet remembers streams that we reset and whose last frame of the peer's has
// not come: what is still on its way is no offence (RFC 9113 section 5.1,
// "closed"), as far as the stream's window let it be sent.
type resetSet struct {
	limit   int
	windows map[uint32]int32 // by id: what the peer may still send
}

const (
	// minRemembered is for how many streams a server at least remembers that it
	// reset them; it is twice as many as may be open, if that is more.
	minRemembered = 2048
	// clientRemembered is the same for a client, which may have any number of
	// streams open, and resets them only for its own reasons.
	clientRemembered = 16 << 10
)

func newResetSet(role Role, cfg *Config) resetSet {
	if role == Client {
		return resetSet{limit: clientRemembered}
	}
	return resetSet{limit: max(minRemembered, 2*int(min(cfg.MaxConcurrentStreams, clientRemembered)))}
}

// add remembers a stream, in the place of any other where there are too many.
// window is what the peer may still send on it.
func (r *resetSet) add(id uint32, window int32) {
	if r.windows == nil {
		r.windows = make(map[uint32]int32)
	}
	if len(r.windows) >= r.limit {
		for old := range r.windows {
			delete(r.windows, old)
			break
		}
	}
	r.windows[id] = window
}

func (r *resetSet) has(id uint32) bool {
	_, ok := r.windows[id]
	return ok
}

func (r *resetSet) remove(id uint32) { delete(r.windows, id) }

// spend takes n bytes off what may come on a stream. It is false where they are
// more than the peer was ever allowed: the connection's window, which is given back
// on receipt, bounds nothing.
func (r *resetSet) spend(id uint32, n int) bool {
	window, ok := r.windows[id]
	if !ok {
		return true
	}
	if int64(n) > int64(window) {
		return false
	}
	r.windows[id] = window - int32(n)
	return true
}

// grow lets n bytes more come on each stream: a peer that has not heard of the reset
// yet, which may be postponed, counts a larger initial window for it as well.
func (r *resetSet) grow(n int32) {
	for id := range r.windows {
		r.windows[id] += n
	}
}

// late says whether a frame on a stream that is not open is only late: we have
// reset the stream, or said by GOAWAY that we will not look at it. cost is what
// it costs as a nuisance, end that no other will follow. c.mu is held.
func (c *Conn) late(id uint32, cost int32, end bool) (yes bool, err error) {
	if id <= c.goAwayID {
		if !c.resets.has(id) {
			return false, nil
		}
		if end {
			c.resets.remove(id)
			c.usefulWork(1)
		}
	}
	if cost == 0 {
		return true, nil
	}
	return true, c.nuisance(cost)
}

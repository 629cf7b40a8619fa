package h2

// resetSet remembers streams that we reset and whose last frame of the peer's has
// not come: what is still on its way is no offence (RFC 9113 section 5.1,
// "closed").
type resetSet struct {
	limit int
	ids   map[uint32]struct{}
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
func (r *resetSet) add(id uint32) {
	if r.ids == nil {
		r.ids = make(map[uint32]struct{})
	}
	if len(r.ids) >= r.limit {
		for old := range r.ids {
			delete(r.ids, old)
			break
		}
	}
	r.ids[id] = struct{}{}
}

func (r *resetSet) has(id uint32) bool {
	_, ok := r.ids[id]
	return ok
}

func (r *resetSet) remove(id uint32) { delete(r.ids, id) }

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

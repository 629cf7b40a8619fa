package h2

import "time"

// calm decides when a peer has sent too much that gets nothing done. It is
// guarded by Conn.mu.
type calm struct {
	left     int32 // nuisances still tolerated
	refilled int64 // Unix time in seconds

	opened    uint32 // streams that the peer opened
	premature uint32 // of those, reset by it or for its errors before an answer
}

const (
	// prematureShareDiv says that half of all streams may end prematurely, where
	// they are more than Config.PrematureResets.
	prematureShareDiv = 2
	// prematureMemory is after how many streams half of the past is forgotten:
	// a connection cannot save up for an attack.
	prematureMemory = 4096
	// prematureAge is the age up to which an unanswered stream that ends counts.
	// Who waits longer has at most SETTINGS_MAX_CONCURRENT_STREAMS open at a time,
	// and may just have short deadlines and an instance that hangs.
	prematureAge = int64(100 * time.Millisecond)
)

// nuisance notes a frame that gets nothing done. The reader holds c.mu.
func (c *Conn) nuisance(cost int32) error {
	c.calm.left -= cost
	if c.calm.left >= 0 {
		return nil
	}
	now := time.Now().Unix()
	if now != c.calm.refilled {
		c.calm.refilled = now
		c.calm.left += c.cfg.Nuisance / 2
		if c.calm.left >= 0 {
			return nil
		}
	}
	return connError(EnhanceYourCalm, "too many frames that get nothing done")
}

// usefulWork gives back some of what nuisances used up. c.mu is held.
func (c *Conn) usefulWork(n int32) {
	c.calm.left = min(c.calm.left+n, c.cfg.Nuisance)
}

// noteOpened notes a stream that the peer opened. c.mu is held.
func (c *Conn) noteOpened() {
	if c.calm.opened++; c.calm.opened >= prematureMemory {
		c.calm.opened /= 2
		c.calm.premature /= 2
	}
}

// endedEarly notes that a client's stream ended by the client's doing. c.mu is
// held.
func (c *Conn) endedEarly(s *Stream, now int64) error {
	if c.role != Server || s.answered || now-s.openedAt > prematureAge {
		return nil
	}
	c.calm.premature++
	if c.calm.premature > c.cfg.PrematureResets && c.calm.premature > c.calm.opened/prematureShareDiv {
		return connError(EnhanceYourCalm, "too many streams reset before they were answered")
	}
	return nil
}

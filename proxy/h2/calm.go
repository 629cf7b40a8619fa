package h2

import "time"

// calm decides when a peer has sent too much that gets nothing done. It is
// guarded by Conn.mu.
type calm struct {
	left     int32 // nuisances still tolerated
	refilled int64 // Unix time in seconds
	// due is how many frames of the kinds that get nothing done the peer owes us
	// for our own: they are no nuisance.
	due int32

	opened    uint32 // streams that the peer opened
	premature uint32 // of those, reset by it or for its errors before an answer
	// spare are those that may end so, whatever their share.
	spare allowance
	// granted is what spare was when the connection began, and abandoned how many
	// streams its end has ended early (see Credit).
	granted   allowance
	abandoned uint32
}

const (
	// prematureShareDiv says that half of all streams may end prematurely, where
	// they are more than Config.PrematureResets.
	prematureShareDiv = 2
	// prematureMemory is after how many streams half of the past is forgotten:
	// a connection cannot save up for an attack.
	prematureMemory = 4096
	// leastPatience is the shortest deadline that excuses the end of a stream: below
	// it so many could be opened and ended that only their number counts.
	leastPatience = int64(10 * time.Millisecond)
	// maxDue bounds what a peer may owe us: 100,000 small messages a second are 20,000
	// frames in a tenth of a second, and nobody shall save up for a flood.
	maxDue = 1 << 16
)

// What our own frames may have a peer send. An honest peer may answer a DATA frame
// with two WINDOW_UPDATEs, the stream's and the connection's, or with a PING; and
// of a stream that a client resets, an answer, its end, a reset and an update may
// be on their way.
const (
	dueForData  = 2
	dueForReset = 4
)

// nuisance notes a frame that gets nothing done. The reader holds c.mu.
func (c *Conn) nuisance(cost int32) error {
	if c.calm.due >= cost {
		c.calm.due -= cost
		return nil
	}
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

// provoke notes that the peer may send n frames because of one of ours. However
// many come at once, they are its due. c.mu is held.
func (c *Conn) provoke(n int32) { c.calm.due = min(c.calm.due+n, maxDue) }

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

// endedEarly notes that a client's stream ended by the client's doing. It may end
// as many at once as Config.PrematureResets, and as many each second as if each had
// lived for a second at least; beyond that it must not be most of what it does.
// c.mu is held.
func (c *Conn) endedEarly(s *Stream, now int64) error {
	if !c.early(s, now) {
		return nil
	}
	m := &c.calm
	m.premature++
	if m.spare.take(now, c.cfg.PrematureResets, c.cfg.MaxConcurrentStreams) {
		return nil
	}
	if m.premature > m.opened/prematureShareDiv {
		return connError(EnhanceYourCalm, "too many streams reset before they were answered")
	}
	return nil
}

// early says whether the end of a stream, now, is premature. c.mu is held.
func (c *Conn) early(s *Stream, now int64) bool {
	age, patience := now-s.openedAt, int64(c.cfg.PrematureAge)
	if s.patience > 0 {
		patience = min(patience, max(int64(s.patience)*int64(time.Millisecond), leastPatience))
	}
	return c.role == Server && !s.answered && age <= patience
}

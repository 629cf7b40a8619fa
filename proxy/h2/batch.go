package h2

import "time"

// Batch collects what a run of events leaves to be done once no lock is held:
// which connections have output to flush, and what owners have to be told.
// Every function that sends takes one; whoever made it calls Done at the end. A
// Batch is not safe for concurrent use, and may be used again after Done.
type Batch struct {
	flush  []*Conn
	events []event
	now    time.Time
}

// event is something that an owner or a handler is told when the batch is done.
type event struct {
	kind   eventKind
	n      int
	gen    uint32
	stream *Stream
	conn   *Conn
	err    error
}

type eventKind uint8

const (
	eventTaken eventKind = iota
	eventClosed
	eventOverBudget
	eventSlots
	eventDraining
	eventFinished
	eventAbort
)

// Now returns the time at which it was first asked for since the batch began,
// so that a run of events asks the clock once.
func (b *Batch) Now() time.Time {
	if b.now.IsZero() {
		b.now = time.Now()
	}
	return b.now
}

// Done tells owners and handlers what happened to their streams, and flushes
// every connection that was appended to, until nothing is left. No lock may be
// held.
func (b *Batch) Done() {
	for len(b.flush) > 0 || len(b.events) > 0 {
		for i := 0; i < len(b.events); i++ { // more may come in while we are at it
			b.deliver(b.events[i])
		}
		clear(b.events)
		b.events = b.events[:0]
		if last := len(b.flush) - 1; last >= 0 {
			c := b.flush[last]
			b.flush[last] = nil
			b.flush = b.flush[:last]
			c.flush(b)
		}
	}
	b.now = time.Time{}
}

func (b *Batch) deliver(e event) {
	switch e.kind {
	case eventTaken:
		e.stream.owner.OnTaken(b, e.stream, e.gen, e.n)
	case eventClosed:
		e.stream.owner.OnClosed(b, e.stream, e.gen)
	case eventOverBudget:
		e.stream.owner.OnReset(b, e.stream, e.gen, Reset{Code: EnhanceYourCalm, Cause: CauseOverBudget})
	case eventSlots:
		e.conn.handler.OnConnSlots(b, e.conn)
	case eventFinished:
		e.conn.finished(b)
	case eventAbort:
		e.conn.abort(b, e.err)
	case eventDraining:
		e.conn.handler.OnConnDraining(b, e.conn)
	}
}

// touch has c flushed when the batch is done. c.mu is held.
func (b *Batch) touch(c *Conn) {
	if c.touchedBy != b && !c.writing {
		c.touchedBy = b
		b.flush = append(b.flush, c)
	}
}

package h2

import "time"

// Batch collects what a run of events leaves to be done once no lock is held:
// which connections have output to flush, and what owners have to be told.
// Every function that sends takes one; whoever made it calls Done at the end. A
// Batch is not safe for concurrent use, and may be used again after Done.
type Batch struct {
	flush  []*Conn
	later  []func()
	events []event
	told   int // of events
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
	for len(b.flush) > 0 || len(b.events) > 0 || len(b.later) > 0 {
		b.tell()
		b.callLater()
		if last := len(b.flush) - 1; last >= 0 {
			c := b.flush[last]
			b.flush[last] = nil
			b.flush = b.flush[:last]
			c.flush(b)
		}
	}
	b.now = time.Time{}
}

// Later has f called when the batch is done, with no lock held.
func (b *Batch) Later(f func()) { b.later = append(b.later, f) }

func (b *Batch) callLater() {
	later := b.later
	b.later = nil
	for _, f := range later {
		f()
	}
}

// tell delivers all events in their order, those too that come in while it is at
// it. It may be called again meanwhile, by what it calls.
func (b *Batch) tell() {
	for b.told < len(b.events) {
		e := b.events[b.told]
		b.told++
		b.deliver(e)
	}
	clear(b.events)
	b.events, b.told = b.events[:0], 0
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

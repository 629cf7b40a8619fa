package breaker

import "time"

// Verdict is what becomes of an RPC.
type Verdict uint8

// The verdicts.
const (
	// Admitted: it may begin, and has to Leave.
	Admitted Verdict = iota
	// Refused: the breaker is open, or half-open with as many probes as there may be.
	Refused
	// Full: as many RPCs are under way and wait as may be.
	Full
	// Pending: it waits for a place. Its Waiter is told, unless it leaves before.
	Pending
)

// Waiter is who waits for a place.
type Waiter interface {
	// OnPlace says that the wait is over: Admitted, or Refused because the breaker
	// opened meanwhile. life is what the wait began with: a waiter whose memory is
	// used again compares it under its own lock, and drops what is old; the place of
	// the earlier life was given back when that left.
	OnPlace(life uint32, v Verdict)
}

// Place is one RPC's at a [Circuit], or in the queue for it. The zero value is ready.
// Its methods, and Enter, are called by one goroutine at a time; after Leave it may be
// used again. It must not be copied while it is used.
type Place struct {
	circuit *Circuit
	waited  bool // it was in the queue: the circuit's lock guards what follows

	stage      stage
	ticket     Ticket
	waiter     Waiter
	life       uint32
	prev, next *Place
}

type stage uint8

const (
	stageNone   stage = iota // it has nothing, or was refused
	stageHeld                // its RPC may be under way
	stageQueued              // it waits
)

// Leave gives the place back, and says how its RPC ended and how long the first byte
// of the answer took (or the end, where there was none). What waits, or was admitted
// and never began, leaves as well, as Ignored; what has left already, or was refused,
// may do it again. Whoever got the place, or has to be told that the breaker is open
// now, is in what it returns.
func (p *Place) Leave(now time.Time, o Outcome, firstByte time.Duration) Woken {
	c := p.circuit
	if c == nil {
		return Woken{}
	}
	p.circuit = nil
	if p.waited {
		return c.leaveQueue(now, p, o, firstByte)
	}
	held := p.stage == stageHeld
	t := p.ticket
	p.stage, p.ticket = stageNone, Ticket{}
	if !held {
		return Woken{}
	}
	return c.leave(now, t, o, firstByte)
}

// Woken is who has to be told that their wait is over. Most often it is nobody.
type Woken struct {
	first wake
	more  []wake
}

type wake struct {
	waiter  Waiter
	life    uint32
	verdict Verdict
}

// Any says whether there is anybody to be told.
func (w Woken) Any() bool { return w.first.waiter != nil }

// Tell tells them, in the order in which they waited. OnPlace is likely to take the
// lock of an RPC, so it is called with none held: later, or in a goroutine of its own.
// The places are theirs already; until they are told, nobody uses them.
func (w Woken) Tell() {
	if !w.Any() {
		return
	}
	w.first.waiter.OnPlace(w.first.life, w.first.verdict)
	for _, next := range w.more {
		next.waiter.OnPlace(next.life, next.verdict)
	}
}

// with adds one.
func (w Woken) with(p *Place, v Verdict) Woken {
	next := wake{p.waiter, p.life, v}
	if w.first.waiter == nil {
		w.first = next
	} else {
		w.more = append(w.more, next)
	}
	return w
}

// queue is places in the order in which they came.
type queue struct{ head, tail *Place }

func (q *queue) push(p *Place) {
	p.prev, p.next = q.tail, nil
	if q.tail != nil {
		q.tail.next = p
	} else {
		q.head = p
	}
	q.tail = p
}

func (q *queue) remove(p *Place) {
	if p.prev != nil {
		p.prev.next = p.next
	} else {
		q.head = p.next
	}
	if p.next != nil {
		p.next.prev = p.prev
	} else {
		q.tail = p.prev
	}
	p.prev, p.next = nil, nil
}

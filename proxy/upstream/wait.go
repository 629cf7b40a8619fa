package upstream

import "github.com/pillion-proxy/pillion/proxy/h2"

// Caller waits for a connection to an instance.
type Caller interface {
	// OnConn says that a stream can be opened now, so that Open is worth another
	// try, or, with an error, that it is in vain. gen is what the Wait was
	// prepared with: a caller that is reused compares it under its own lock.
	OnConn(b *h2.Batch, w *Wait, gen uint32, err error)
}

// Wait is a caller's place in an instance's queue. It may be reused once it is
// not queued any more.
type Wait struct {
	caller     Caller
	gen        uint32
	queued     bool
	woken      bool // it was taken out of the queue to try again
	prev, next *Wait
}

// Prepare says whom to tell. It must not be called while w is queued.
func (w *Wait) Prepare(caller Caller, gen uint32) { w.caller, w.gen = caller, gen }

// waitList is a queue of waits, first come first served.
type waitList struct {
	head, tail *Wait
	len        int
}

// push adds w at the end, or at the front.
func (l *waitList) push(w *Wait, front bool) {
	w.queued, w.prev, w.next = true, l.tail, nil
	if front {
		w.prev, w.next = nil, l.head
	}
	if w.prev != nil {
		w.prev.next = w
	} else {
		l.head = w
	}
	if w.next != nil {
		w.next.prev = w
	} else {
		l.tail = w
	}
	l.len++
}

func (l *waitList) remove(w *Wait) {
	if w.prev != nil {
		w.prev.next = w.next
	} else {
		l.head = w.next
	}
	if w.next != nil {
		w.next.prev = w.prev
	} else {
		l.tail = w.prev
	}
	w.queued, w.prev, w.next = false, nil, nil
	l.len--
}

// take removes up to n waits.
func (l *waitList) take(n int) []ticket {
	out := make([]ticket, 0, min(n, l.len))
	for len(out) < n && l.head != nil {
		w := l.head
		out = append(out, ticket{w, w.caller, w.gen})
		l.remove(w)
		w.woken = true
	}
	return out
}

// ticket is a wait that was taken out of a queue: whom to tell what.
type ticket struct {
	w      *Wait
	caller Caller
	gen    uint32
}

func tell(b *h2.Batch, tickets []ticket, err error) {
	for _, t := range tickets {
		t.caller.OnConn(b, t.w, t.gen, err)
	}
}

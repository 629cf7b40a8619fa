package fault

import (
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// batchBytes is the most that is read at a time.
	batchBytes = 16 << 10
	// queued is how many batches may be on their way: 4 MiB of full ones.
	queued = 256
)

// lane is one direction of a connection: one goroutine reads, another writes what
// is due.
type lane struct {
	conn      *Conn
	direction Direction
	src, dst  net.Conn
	queue     chan batch
	delivered atomic.Int64
	// discards says that nothing more is delivered.
	discards atomic.Bool
	closed   sync.Once     // the write side of dst
	done     chan struct{} // closed when nothing more will be delivered

	held int // guarded by Proxy.mu

	// The reader's.
	dice    *rand.Rand
	scanner *scanner
	knife   knife
	rest    []byte // of a frame's header
	lastDue time.Time
}

// batch is bytes on their way.
type batch struct {
	data  []byte
	due   time.Time
	cutAt int   // where in data to cut by cut; -1: not
	cut   *Cut  // see cutAt
	end   error // what ended the source; data is empty
	held  bool  // until another connection overtakes it
	// others is what the other connections had delivered when this came.
	others int64
}

func newLane(c *Conn, d Direction, src, dst net.Conn) *lane {
	seed := uint64(c.Index)<<1 | uint64(d)

	return &lane{
		conn: c, direction: d, src: src, dst: dst,
		queue:   make(chan batch, queued),
		done:    make(chan struct{}),
		dice:    rand.New(rand.NewPCG(c.proxy.options.Seed, seed)),
		scanner: newScanner(d, c.proxy.options.Raw),
		knife:   knife{at: -1},
	}
}

// flow is the part of the faults that is this lane's.
func (l *lane) flow(f *Faults) Flow {
	if l.direction == ToServer {
		return f.ToServer
	}

	return f.ToClient
}

// read takes what the source sends until its end.
func (l *lane) read() {
	defer close(l.queue)

	buffer := make([]byte, batchBytes)
	for {
		l.awaitReading()
		n, err := l.src.Read(buffer)
		if n > 0 && !l.discards.Load() {
			l.arrived(buffer[:n])
		}
		if err != nil {
			if len(l.rest) > 0 { // no header was to come
				l.enqueue(batch{data: l.rest, cutAt: -1})
			}
			l.enqueue(batch{end: err, cutAt: -1})

			return
		}
	}
}

// awaitReading waits while nothing is to be read.
func (l *lane) awaitReading() {
	for {
		faults, changed := l.conn.proxy.state()
		if l.flow(&faults).Stall != Unread || l.discards.Load() {
			return
		}
		select {
		case <-changed:
		case <-l.conn.over:
			return
		}
	}
}

// arrived sends bytes on their way, and finds whether the connection is to be cut
// among them.
func (l *lane) arrived(data []byte) {
	faults, _ := l.conn.proxy.state()
	data = append(l.rest, data...)
	l.rest = nil

	start := l.scanner.offset
	cut := faults.Cut
	if cut != nil && cut.Direction != l.direction {
		cut = nil
	}
	l.knife.take(cut, start)
	n := l.scanner.feed(data, l.knife.frame)
	if n < len(data) {
		l.rest = append([]byte(nil), data[n:]...)
	}
	if n == 0 {
		return
	}
	b := batch{data: data[:n], cutAt: -1}
	if at := l.knife.at - start; l.knife.at >= 0 && !l.knife.done && at >= 0 && at <= int64(n) {
		b.cutAt, b.cut = int(at), cut
		l.knife.done = true
	}
	l.enqueue(b)
}

// enqueue says when a batch is due.
func (l *lane) enqueue(b batch) {
	faults, _ := l.conn.proxy.state()
	flow := l.flow(&faults)
	delay := flow.Delay
	if flow.Jitter > 0 {
		delay += time.Duration(l.dice.Int64N(int64(flow.Jitter)))
	}
	b.due = time.Now().Add(delay)
	if b.due.Before(l.lastDue) {
		b.due = l.lastDue
	}
	l.lastDue = b.due
	if flow.Overtake > 0 && b.end == nil && l.dice.IntN(2) == 0 {
		b.held, b.others = true, l.conn.proxy.deliveredByOthers(l)
	}

	select {
	case l.queue <- b:
	case <-l.conn.over:
	}
}

// write delivers batches as they are due until the last.
func (l *lane) write() {
	defer close(l.done)
	defer l.closeWrite()

	for b := range l.queue {
		l.await(&b)
		if b.end != nil {
			l.ended(b.end)

			return
		}
		for len(b.data) > 0 || b.cutAt == 0 {
			if b.cutAt == 0 {
				b.cutAt = -1
				if l.conn.proxy.mayCut(b.cut) {
					l.cut(b.cut.Ending)
				}

				continue
			}
			if !l.deliver(&b) {
				b.data = nil
			}
		}
	}
}

// deliver writes some bytes of a batch. It is false where nothing more can be
// delivered.
func (l *lane) deliver(b *batch) bool {
	flow := l.awaitFlow()
	if l.discards.Load() {
		return false
	}

	n := len(b.data)
	if b.cutAt >= 0 {
		n = min(n, b.cutAt)
	}
	if flow.Chunk > 0 {
		n = min(n, flow.Chunk)
	}
	if flow.BytesPerSecond > 0 {
		n = min(n, max(flow.BytesPerSecond/100, 1))
	}
	written, err := l.dst.Write(b.data[:n])
	b.data = b.data[n:]
	if b.cutAt >= 0 {
		b.cutAt -= n
	}
	l.progress(written)
	if err != nil {
		// The destination is gone; its own direction tells the source how. What
		// is still on its way here is thrown away, as a network does.
		l.discards.Store(true)

		return false
	}
	if flow.BytesPerSecond > 0 {
		l.sleep(time.Duration(n) * time.Second / time.Duration(flow.BytesPerSecond))
	}

	return true
}

// progress counts delivered bytes and tells those who wait for them.
func (l *lane) progress(n int) {
	l.delivered.Add(int64(n))
	p := l.conn.proxy
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.watched {
		p.watched = false
		p.tell()
	}
}

// await waits until a batch is due, and another connection has overtaken it if it
// is held.
func (l *lane) await(b *batch) {
	if wait := time.Until(b.due); wait > 0 {
		l.sleep(wait)
	}
	if b.held {
		l.awaitOvertaking(b)
	}
	if b.end != nil {
		l.awaitFlow()
	}
}

// awaitFlow waits while the lane is stalled or held.
func (l *lane) awaitFlow() Flow {
	p := l.conn.proxy
	for {
		p.mu.Lock()
		flow, held, changed := l.flow(&p.faults), l.held, p.changed
		p.mu.Unlock()
		if flow.Stall == Flowing && held == 0 || l.discards.Load() {
			return flow
		}
		select {
		case <-changed:
		case <-l.conn.over:
			return flow
		}
	}
}

func (l *lane) awaitOvertaking(b *batch) {
	p := l.conn.proxy
	var late <-chan time.Time
	for {
		p.mu.Lock()
		p.watched = true
		flow, changed := l.flow(&p.faults), p.changed
		p.mu.Unlock()
		if flow.Overtake == 0 || p.deliveredByOthers(l) != b.others || l.discards.Load() {
			return
		}
		if late == nil {
			timer := time.NewTimer(flow.Overtake)
			defer timer.Stop()
			late = timer.C
		}
		select {
		case <-changed:
		case <-late:
			return
		case <-l.conn.over:
			return
		}
	}
}

// deliveredByOthers is what all other connections that are open have delivered in
// a lane's direction. It changes as one of them does.
func (p *Proxy) deliveredByOthers(l *lane) (sum int64) {
	for _, c := range p.Conns() {
		if c != l.conn {
			sum += c.Delivered(l.direction)
		}
	}

	return sum
}

func (l *lane) sleep(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-l.conn.over:
	}
}

// cut ends the connection, at the place that was asked for.
func (l *lane) cut(how Ending) {
	if how == HalfClose {
		l.halfClose()

		return
	}
	l.conn.end(how)
}

func (l *lane) halfClose() {
	l.discards.Store(true)
	l.closeWrite()
	l.conn.proxy.mu.Lock()
	defer l.conn.proxy.mu.Unlock()
	l.conn.proxy.tell()
}

func (l *lane) closeWrite() {
	if l.conn.silent.Load() {
		return
	}
	l.closed.Do(func() { _ = closeWrite(l.dst) })
}

// ended passes on how the source ended: a FIN as a FIN, an RST as an RST.
func (l *lane) ended(err error) {
	if errors.Is(err, io.EOF) || l.discards.Load() {
		return // and closeWrite follows
	}
	l.conn.end(Abort)
}

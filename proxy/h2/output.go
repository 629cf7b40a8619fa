package h2

import (
	"sync"

	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
)

// output is bytes on their way to the socket.
type output struct{ b []byte }

var outputs = sync.Pool{New: func() any { return &output{b: make([]byte, 0, 4<<10)} }}

// maxKeptOutput is the capacity above which a buffer is left to the garbage
// collector instead of the pool.
const maxKeptOutput = 256 << 10

func (o *output) free() {
	if cap(o.b) <= maxKeptOutput {
		o.b = o.b[:0]
		outputs.Put(o)
	}
}

// setStuck notes whether the socket takes what there is to write. c.mu is held.
func (c *Conn) setStuck(stuck bool) {
	if c.stuck != stuck {
		c.stuck = stuck
		n := int(c.cfg.MaxOutput)
		if !stuck {
			n = -n
		}
		c.cfg.Budget.stick(n)
	}
}

// fit returns the output after n bytes, and how many of it are written: a buffer
// that is much too large for what is left is not held for as long as a peer likes.
func (o *output) fit(n int) (*output, int) {
	if rest := o.b[n:]; 2*len(rest)+crowdedOutput < cap(o.b) {
		fitting := &output{b: append([]byte(nil), rest...)}
		o.free()
		return fitting, 0
	}
	return o, n
}

func (o *output) appendWindowUpdate(id, increment uint32) {
	o.b = appendWindowUpdate(o.b, id, increment)
}

// output returns the buffer to append to. c.mu is held, and the caller touches c.
func (c *Conn) output() *output {
	if c.out == nil {
		if c.stuck && c.cfg.Budget.crowded() {
			c.out = new(output) // the pool's may be large
		} else {
			c.out = outputs.Get().(*output)
		}
		c.outputEpoch++
	}
	return c.out
}

// owe returns the output for a frame that the peer made us owe it. c.mu is held,
// and the caller touches c.
func (c *Conn) owe() *output {
	c.owed++
	return c.output()
}

// crowdedOutput is what may wait in the output of a connection that takes nothing,
// where too much waits in those of all of them together: thousands that take
// nothing must not hold MaxOutput each. It is a large unary answer's worth.
const crowdedOutput = 16 << 10

func (c *Conn) outputFull() bool {
	if c.out == nil {
		return false
	}
	n := len(c.out.b)
	return n >= int(c.cfg.MaxOutput) || n >= crowdedOutput && c.stuck && c.cfg.Budget.crowded()
}

// writeHeaders appends a header section of s to the output; a stream that waits
// to be opened gets its id here, so that ids rise in the order they are sent
// (RFC 9113 section 5.1.1). c.mu is held.
func (c *Conn) writeHeaders(s *Stream, fields []hpack.Field, end bool) {
	o := c.output()
	start := len(o.b)
	if s.id == 0 {
		s.id = c.nextID
		c.nextID += 2
		c.streams.put(s)
		s.headersAt = c.appended + uint64(start)
		// Both windows may have changed while it waited.
		s.sendWindow, s.recvWindow = c.peer.initialWindow, c.streamWindow
	}
	flags := uint8(flagEndHeaders)
	if end {
		flags |= flagEndStream
	}
	o.b = appendFrameHeader(o.b, 0, frameHeaders, flags, s.id)
	o.b = c.enc.BeginBlock(o.b)
	for i := range fields {
		f := &fields[i]
		o.b = c.enc.AppendField(o.b, f.Name, f.Value, f.Sensitive)
	}
	n := len(o.b) - start - frameHeaderLen
	if n > c.peer.maxFrameSize {
		o.b = splitHeaders(o.b, start, c.peer.maxFrameSize)
		return
	}
	putFrameLength(o.b[start:], n)
}

// splitHeaders makes the HEADERS frame at start, which is longer than max, into
// one HEADERS and as many CONTINUATION frames as it takes.
func splitHeaders(b []byte, start, max int) []byte {
	block := append([]byte(nil), b[start+frameHeaderLen:]...)
	h := parseFrameHeader(b[start:])
	b = b[:start]
	typ, flags := frameHeaders, h.flags&^flagEndHeaders
	for len(block) > max {
		b = append(appendFrameHeader(b, max, typ, flags, h.id), block[:max]...)
		block = block[max:]
		typ, flags = frameContinuation, 0
	}
	return append(appendFrameHeader(b, len(block), typ, flags|flagEndHeaders, h.id), block...)
}

// writeData appends as much of p as windows and the stream's share of the
// output allow, and END_STREAM with the last byte. c.mu is held.
func (c *Conn) writeData(s *Stream, p []byte, end bool) (taken int) {
	n := c.allowed(s, len(p))
	if n == 0 && len(p) > 0 {
		return 0
	}
	for {
		size := min(n-taken, c.peer.maxFrameSize)
		o := c.appendDataHeader(s, size, end && taken+size == len(p))
		o.b = append(o.b, p[taken:taken+size]...)
		taken += size
		if taken == n {
			return taken
		}
	}
}

// allowed returns how many of n bytes of DATA windows and the stream's share of
// the output allow now. c.mu is held.
func (c *Conn) allowed(s *Stream, n int) int {
	c.output()
	if s.outputEpoch != c.outputEpoch {
		s.outputEpoch, s.inOutput = c.outputEpoch, 0
	}
	return max(0, min(n, int(s.sendWindow), int(c.sendWindow), maxStreamOutput-int(s.inOutput)))
}

// smallestStep is how many bytes a window has to be opened by for its update to be
// no nuisance.
const smallestStep = 256

// appendDataHeader appends the header of a DATA frame, whose size bytes, which are
// allowed, the caller appends. c.mu is held.
func (c *Conn) appendDataHeader(s *Stream, size int, end bool) *output {
	flags := uint8(0)
	if end {
		flags = flagEndStream
	}
	o := c.output()
	o.b = appendFrameHeader(o.b, size, frameData, flags, s.id)
	s.sendWindow -= int32(size)
	c.sendWindow -= int32(size)
	s.inOutput += int32(size)
	// A few bytes that are all the windows allowed are the work of a peer that
	// opens them in tiny steps (CVE-2019-9511).
	if size >= smallestStep || s.sendWindow > 0 && c.sendWindow > 0 {
		c.provoke(dueForData)
	}
	return o
}

// parked is a stream's output that cannot go out yet: what was handed over, in
// order and unencoded, so that it can still be dropped.
type parked struct {
	heads    []*hpack.Block
	data     chunks
	trailers *hpack.Block
	end      bool // END_STREAM follows data, or the last of heads
	kept     int  // what all this takes of the budget
}

var parkedPool = sync.Pool{New: func() any { return new(parked) }}

func (p *parked) free(g *Budget) {
	g.Release(p.kept)
	p.data.free()
	for _, block := range p.heads {
		FreeBlock(block)
	}
	FreeBlock(p.trailers)
	clear(p.heads)
	*p = parked{heads: p.heads[:0], data: p.data}
	parkedPool.Put(p)
}

// park makes room for n bytes of parked output and queues the stream for its
// turn. It ends the stream, and returns nil, where the process keeps too many
// already. c.mu is held.
func (c *Conn) park(b *Batch, s *Stream, n int) *parked {
	if !c.mayKeep(s, n) {
		b.events = append(b.events, event{kind: eventOverBudget, stream: s, gen: s.gen})
		c.resetStream(b, s, EnhanceYourCalm)
		return nil
	}
	if s.parked == nil {
		s.parked = parkedPool.Get().(*parked)
		c.ready.push(s)
	}
	s.parked.kept += n
	c.kept += int64(n)
	return s.parked
}

// modest is how many bytes a stream may have parked whatever else the connection
// keeps: a connection to an instance is shared, and those who fill it must not leave
// the small RPCs of others without room.
const modest = 4 << 10

// mayKeep takes n bytes of the budget to be parked on s. c.mu is held.
func (c *Conn) mayKeep(s *Stream, n int) bool {
	total := n
	if s.parked != nil {
		total += s.parked.kept
	}
	if total <= modest {
		return c.cfg.Budget.Take(n)
	}
	return c.cfg.Budget.TakeShare(c.kept, n)
}

// went gives the budget n bytes back that went on.
func (c *Conn) went(p *parked, n int) {
	p.kept -= n
	c.kept -= int64(n)
	c.cfg.Budget.Release(n)
}

// freeParked drops what is parked of a stream. c.mu is held.
func (c *Conn) freeParked(s *Stream) {
	c.kept -= int64(s.parked.kept)
	s.parked.free(c.cfg.Budget)
	s.parked = nil
}

// parkHeaders keeps a header section until the stream's turn; it is false where
// there is no memory for that. c.mu is held.
func (c *Conn) parkHeaders(b *Batch, s *Stream, fields []hpack.Field, end bool) bool {
	block := blocks.Get().(*hpack.Block)
	for i := range fields {
		f := &fields[i]
		block.Append(f.Name, f.Value)
		block.Fields[len(block.Fields)-1].Sensitive = f.Sensitive
	}
	p := c.park(b, s, int(block.Size()))
	if p == nil {
		FreeBlock(block)
		return false
	}
	if p.data.len > 0 {
		p.trailers = block
		return true
	}
	p.heads = append(p.heads, block)
	p.end = end
	return true
}

// parkData keeps bytes until the stream's turn. c.mu is held.
func (c *Conn) parkData(b *Batch, s *Stream, data []byte, end bool) {
	p := c.park(b, s, len(data))
	if p == nil {
		return
	}
	p.data.append(data)
	p.end = end
}

// refill moves parked output to the output, each stream in its turn. long says that
// it took as much work as one may do at a time, and that there is more. c.mu is held.
func (c *Conn) refill(b *Batch) (long bool) {
	for work := 0; c.ready.head != nil && !c.outputFull(); {
		if work >= turnWork {
			return true
		}
		work += c.sendParked(b, c.ready.pop())
	}
	return false
}

// sendParked sends what it can of one stream, at most a frame of DATA, and
// queues the stream again where more could go. It returns how much work the header
// sections were, as in [turn]. c.mu is held.
func (c *Conn) sendParked(b *Batch, s *Stream) (work int) {
	if s.id == 0 && c.mayOpen() <= 0 {
		c.unopened.push(s) // the peer has lowered its limit since
		return 0
	}
	if s.id == 0 {
		s.openedAt = b.Now().UnixNano() // the peer knows nothing of it before
	}
	p := s.parked
	for i, block := range p.heads {
		last := p.end && i == len(p.heads)-1 && p.data.len == 0
		c.writeHeaders(s, block.Fields, last)
		work += block.Memory()
		if last {
			c.unpark(b, s)
			return work
		}
		c.went(p, int(block.Size()))
		FreeBlock(block)
		p.heads[i] = nil
	}
	p.heads = p.heads[:0]

	if p.data.len > 0 || p.end && p.trailers == nil {
		if p.data.len > 0 && s.sendWindow <= 0 {
			return work // its WINDOW_UPDATE queues it again
		}
		if p.data.len > 0 && c.sendWindow <= 0 {
			c.blocked.push(s)
			return work
		}
		s.inOutput = 0 // the turns keep it fair here
		n := c.allowed(s, min(p.data.len, c.peer.maxFrameSize))
		o := c.appendDataHeader(s, n, p.end && p.trailers == nil && n == p.data.len)
		o.b = p.data.pop(o.b, n)
		c.went(p, n)
		if n > 0 {
			b.events = append(b.events, event{kind: eventTaken, stream: s, gen: s.gen, n: n})
		}
		if p.data.len > 0 {
			c.ready.push(s)
			return work
		}
	}
	if p.trailers != nil {
		c.writeHeaders(s, p.trailers.Fields, true)
		work += p.trailers.Memory()
		p.end = true
	}
	c.unpark(b, s)
	return work
}

// unpark ends the parking of a stream whose output all went out. c.mu is held.
func (c *Conn) unpark(b *Batch, s *Stream) {
	end := s.parked.end
	c.freeParked(s)
	if end {
		c.endLocal(b, s)
	}
}

// unblock queues a stream whose window has grown. c.mu is held.
func (c *Conn) unblock(s *Stream) {
	if s.parked != nil && s.list == nil {
		c.ready.push(s)
	}
}

// unblockAll queues the streams that waited for the connection's window. c.mu is
// held.
func (c *Conn) unblockAll() {
	for s := c.blocked.pop(); s != nil; s = c.blocked.pop() {
		c.ready.push(s)
	}
}

// takeOutput returns what is to be written next, or nil, and whether it took long to
// make it (see refill). c.mu is held.
func (c *Conn) takeOutput(b *Batch) (o *output, long bool) {
	if c.closedWrite { // too late
		c.dropOutput()
		return nil, false
	}
	long = c.refill(b)
	o = c.out
	if o == nil || len(o.b) == 0 {
		return nil, false
	}
	c.out, c.owed = nil, 0
	c.appended += uint64(len(o.b))
	c.outputEpoch++
	return o, long
}

func (c *Conn) dropOutput() {
	if c.out != nil {
		c.out.free()
		c.out, c.owed = nil, 0
	}
}

// maxFlushes is how often a flush looks for more: a connection that others keep
// busy must not keep a reader from its own connection.
const maxFlushes = 8

// flush writes the output without waiting. Who finds another goroutine writing
// leaves it to that one, which looks for more before it stops.
func (c *Conn) flush(b *Batch) {
	c.mu.Lock()
	if c.touchedBy == b {
		c.touchedBy = nil
	}
	if c.writing {
		c.mu.Unlock()
		return
	}
	c.writing = true
	for i := 0; ; i++ {
		o, long := c.takeOutput(b)
		if o == nil {
			c.stopWriting()
			return
		}
		if i == maxFlushes || long {
			c.setStuck(true)
			c.mu.Unlock()
			go c.keepWriting(o, 0)
			return
		}
		c.mu.Unlock()
		n, pending, err := c.t.TryWrite(o.b)
		if err != nil {
			o.free()
			c.writeFailed(b, n, err)
			return
		}
		c.mu.Lock()
		c.written += uint64(n)
		if n < len(o.b) || pending {
			c.setStuck(true)
			c.mu.Unlock()
			go c.keepWriting(o, n)
			return
		}
		o.free()
	}
}

// keepWriting is the writer goroutine: it owns writing from a flush that the socket
// did not take whole, until nothing is left to write.
func (c *Conn) keepWriting(o *output, n int) {
	var b Batch
	o, n = o.fit(n)
	for o != nil {
		m, err := c.t.Write(o.b[n:], c.cfg.StallTimeout)
		o.free()
		if err != nil {
			c.writeFailed(&b, m, err)
			break
		}
		n = 0
		c.mu.Lock()
		c.written += uint64(m)
		var long bool
		if o, long = c.takeOutput(&b); o == nil {
			c.stopWriting()
			break
		}
		c.room.Broadcast()
		c.mu.Unlock()
		b.Done()
		if long {
			c.MakeWay()
		}
	}
	b.Done()
}

// stopWriting gives up the ownership of writing when nothing is left to write.
// It unlocks c.mu, which is held.
func (c *Conn) stopWriting() {
	c.writing = false
	c.setStuck(false)
	last := c.dead && !c.closedWrite
	c.closedWrite = c.closedWrite || c.dead
	c.room.Broadcast()
	c.mu.Unlock()
	if last {
		_ = c.t.CloseWrite() // the reader closes the rest, whatever becomes of this
		c.linger()
	}
}

// writeFailed ends the connection as far as writing goes. The reader ends the
// rest: what the peer had sent before is still worth reading, above all a GOAWAY
// that says which streams it has not processed.
func (c *Conn) writeFailed(b *Batch, n int, err error) {
	c.mu.Lock()
	c.written += uint64(n)
	c.writing = false
	c.setStuck(false)
	c.closedWrite = true
	c.writeErr = err
	c.dropOutput()
	c.drain(b)
	c.room.Broadcast()
	c.mu.Unlock()
	c.linger()
}

package h2

import (
	"encoding/binary"
	"runtime"
	"sync"
	"time"

	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
)

// reader is the reading side of a connection: it belongs to the goroutine that
// runs it.
type reader struct {
	c     *Conn
	batch Batch
	dec   *hpack.Decoder

	lent  *readBuffer
	have  int    // carried bytes at the front of lent
	carry []byte // an incomplete frame, or a part of the preface

	sawPreface  bool
	sawSettings bool

	data  dataFrame
	block []byte // a header block whose CONTINUATION frames are awaited
	open  frameHeader
	conts int // CONTINUATION frames so far
	// selfDependent: the priority of the present HEADERS frame is malformed.
	selfDependent bool

	head Head

	unfinished unfinished
	turn       turn
}

// dataFrame is a DATA frame of which a part has not arrived yet.
type dataFrame struct {
	stream *Stream // nil: nobody wants the bytes
	gen    uint32
	id     uint32
	left   int // payload still to come
	pad    int // padding still to come
	end    bool
}

type readBuffer [readBufferSize]byte

var readBuffers = sync.Pool{New: func() any { return new(readBuffer) }}

// Lend implements Lender.
func (r *reader) Lend() []byte {
	r.lent = readBuffers.Get().(*readBuffer)
	r.have = copy(r.lent[:], r.carry)
	return r.lent[r.have:]
}

// Return implements Lender.
func (r *reader) Return() {
	readBuffers.Put(r.lent)
	r.lent = nil
}

// run reads until the connection ends.
func (r *reader) run() {
	c := r.c
	if c.role == Client {
		c.flush(&r.batch)
		r.batch.Done()
	} // A server speaks once it has seen how the client begins.
	for {
		n, err := c.t.Read(r)
		if err != nil {
			r.end(err)
			return
		}
		r.feed(n)
		began := r.batch.Now()
		waited := r.letOthersJoin()
		if err := r.readOn(); err != nil {
			r.end(err)
			return
		}
		r.batch.Done()
		if r.turn.over(began, waited) {
			r.c.MakeWay()
		}
		r.awaitRoom()
	}
}

// feed handles the n bytes that were read into what was lent.
func (r *reader) feed(n int) {
	if !r.ended() {
		all := r.lent[:r.have+n]
		rest, err := r.consume(all)
		if err == nil {
			err = r.keep(rest, len(rest) < len(all))
		}
		if err != nil {
			r.drop()
			r.c.abort(&r.batch, err)
		}
	}
	r.Return()
}

// end ends the connection, which err says that there is nothing more to read from.
func (r *reader) end(err error) {
	if r.lent != nil {
		r.Return()
	}
	r.drop()
	r.c.end(&r.batch, r.c.reason(err))
	_ = r.c.t.Close()
	r.batch.Done()
}

const (
	// manyFlushes is how many connections a batch has to have something for, so that
	// a read that may bring nothing costs little beside their writes.
	manyFlushes = 8
	// maxReadOns is how often more is read before a batch is done: what is ready for
	// others must not wait for what may still come.
	maxReadOns = 2
)

// moreReader is a transport that can be read without waiting.
type moreReader interface {
	// TryRead is Read, but returns 0 and no error where there is nothing to read yet.
	TryRead(l Lender) (int, error)
}

// readOn has a batch that many connections would be flushed for take along what has
// come since. An instance's answers are for many callers, few for each, and those to
// RPCs that came together come apart from each other: each write saved is one less
// for the caller to read, and one more request that comes together with others.
func (r *reader) readOn() error {
	m, ok := r.c.t.(moreReader)
	if !ok {
		return nil
	}
	for range maxReadOns {
		if len(r.batch.flush) < manyFlushes {
			return nil
		}
		n, err := m.TryRead(r)
		if n == 0 || err != nil {
			return err
		}
		r.feed(n)
		runtime.Gosched()
	}
	return nil
}

// letOthersJoin lets readers that became readable together with this one run
// before its batch is flushed, so that what they all have for one connection goes
// out in one write: with many callers of few streams each, that saves a tenth of
// the CPU. A reader that always finds something to read does not do it: its turn
// would come back before the poller's, and who waits for the poller would starve.
func (r *reader) letOthersJoin() (waited bool) {
	w, ok := r.c.t.(wayMaker)
	if ok && w.Waited() {
		runtime.Gosched()
		return true
	}
	return !ok
}

// ended says that the connection is over, and what still comes is thrown away.
func (r *reader) ended() bool {
	c := r.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.keepalive.timer != nil {
		c.keepalive.heard(r.batch.Now())
	}
	return c.dead
}

// keep carries an incomplete frame over to the next read. moved says that it is not
// the one that was carried over the last time.
func (r *reader) keep(rest []byte, moved bool) error {
	if len(rest) == 0 {
		r.carry = nil
	} else {
		r.carry = append(r.carry[:0], rest...)
	}
	return r.unfinished.note(r.c, r.batch.Now(), len(rest), len(r.block), r.open.id, moved)
}

// drop lets go of what is incomplete, and will never be completed.
func (r *reader) drop() {
	r.carry, r.block = nil, nil
	r.unfinished.end(r.c)
}

// awaitRoom holds the reader back while the peer does not take what we owe it.
// The writer's stall timeout ends a wait that is in vain.
func (r *reader) awaitRoom() {
	c := r.c
	c.mu.Lock()
	defer c.mu.Unlock()
	begun := !r.unfinished.since.IsZero()
	waited := false
	for (c.owed > int(c.cfg.MaxOwed) || c.out != nil && len(c.out.b) > int(c.cfg.MaxControl)) && c.writing && !c.dead {
		r.unfinished.since, waited = time.Time{}, true // the rest may long be there
		c.room.Wait()
	}
	if begun && waited && !c.dead {
		r.unfinished.start(c, time.Now())
	}
}

// consume handles all complete frames in p, and DATA as far as it came. It
// returns what it could not use yet.
func (r *reader) consume(p []byte) (rest []byte, err error) {
	if !r.sawPreface && r.c.role == Server {
		if p, err = r.preface(p); err != nil || !r.sawPreface {
			return p, err
		}
	}
	for {
		if r.data.left > 0 || r.data.pad > 0 {
			if p, err = r.moreData(p); err != nil && !r.resetFor(&err) {
				return nil, err
			}
		}
		if len(p) < frameHeaderLen {
			if !r.sawSettings && isTLSAlert(p) {
				return nil, errTLSServer // which is all that will come
			}
			return p, nil
		}
		h := parseFrameHeader(p)
		if err := r.checkFrame(h, p); err != nil {
			return nil, err
		}
		if h.typ == frameData {
			used, err := r.beginData(h, p)
			if err != nil && !r.resetFor(&err) {
				return nil, err
			}
			if used == 0 {
				return p, nil // the pad length has not come yet
			}
			p = p[used:]
			continue
		}
		size := frameHeaderLen + h.length
		if len(p) < size {
			return p, nil
		}
		if err := r.frame(h, p[frameHeaderLen:size]); err != nil && !r.resetFor(&err) {
			return nil, err
		}
		p = p[size:]
		if r.turn.long() {
			r.turn.work = 0
			r.batch.Done()
			r.c.MakeWay()
		}
	}
}

// preface checks a client's first bytes (RFC 9113 section 3.4).
func (r *reader) preface(p []byte) ([]byte, error) {
	n := min(len(p), len(clientPreface))
	if string(p[:n]) != clientPreface[:n] {
		switch yes, perhaps := looksLikeHTTP1(p); {
		case yes:
			r.answerHTTP1()
			return nil, ErrHTTP1
		case perhaps:
			return p, nil
		}
		return nil, connError(ProtocolError, missingPreface(p))
	}
	if n < len(clientPreface) {
		return p, nil
	}
	r.sawPreface = true
	return p[n:], nil
}

// checkFrame applies the rules that hold for all types of frames. p begins with
// the frame.
func (r *reader) checkFrame(h frameHeader, p []byte) error {
	if h.length > int(r.c.cfg.MaxFrameSize) {
		if !r.sawSettings && string(p[:len(http1Status)]) == http1Status {
			return errHTTP1Server
		}
		if !r.sawSettings && isTLSAlert(p) {
			return errTLSServer
		}
		return connError(FrameSizeError, "a frame longer than SETTINGS_MAX_FRAME_SIZE")
	}
	if h.typ != frameData && h.length > maxWholeFrame {
		return connError(FrameSizeError, "a frame that has to be read as a whole is too long for that")
	}
	if !r.sawSettings {
		if h.typ != frameSettings || h.has(flagAck) {
			return connError(ProtocolError, "the first frame is not SETTINGS")
		}
		r.sawSettings = true
	}
	if r.open.id != 0 && (h.typ != frameContinuation || h.id != r.open.id) {
		return connError(ProtocolError, "a header block is interrupted by another frame")
	}
	return nil
}

// frame handles one complete frame of any type but DATA.
func (r *reader) frame(h frameHeader, p []byte) error {
	c, b := r.c, &r.batch
	switch h.typ {
	case frameHeaders:
		return r.onHeaders(h, p)
	case frameContinuation:
		return r.onContinuation(h, p)
	case framePriority:
		return r.onPriority(h, p)
	case frameRSTStream:
		return c.onRSTStream(b, h, p)
	case frameSettings:
		return c.onSettings(b, h, p)
	case framePushPromise:
		return connError(ProtocolError, "PUSH_PROMISE, though push is disabled")
	case framePing:
		return c.onPing(b, h, p)
	case frameGoAway:
		return c.onGoAway(b, h, p)
	case frameWindowUpdate:
		return c.onWindowUpdate(b, h, p)
	}
	// Unknown types are ignored (RFC 9113 section 5.5), though not without end.
	return r.annoyed(1)
}

func (r *reader) annoyed(cost int32) error {
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	return r.c.nuisance(cost)
}

// resetFor resets the stream that *err is about, and says whether that is all
// there is to do. It may replace *err by an error of the connection's.
func (r *reader) resetFor(err *error) bool {
	se, ok := (*err).(*streamError)
	if !ok {
		return false
	}
	c, b := r.c, &r.batch
	c.mu.Lock()
	if c.dead {
		*err = c.err
		c.mu.Unlock()
		return false
	}
	s := c.streams.get(se.id)
	var gen uint32
	if s == nil {
		b.touch(c)
		o := c.owe()
		o.b = appendRSTStream(o.b, se.id, se.code)
		c.resets.add(se.id, c.streamWindow)
		cost := int32(4)
		if se.code == RefusedStream {
			cost = 1 // a client that does not know the limit yet means no harm
		}
		*err = c.nuisance(cost)
	} else {
		gen = s.gen
		*err = c.endedEarly(s, b.Now().UnixNano())
		c.resetStream(b, s, se.code)
	}
	c.mu.Unlock()
	if s != nil {
		s.owner.OnReset(b, s, gen, Reset{Code: se.code, Cause: CauseMalformed, Err: se})
	}
	return *err == nil
}

// onPriority ignores a PRIORITY frame (RFC 9113 section 6.3: deprecated).
func (r *reader) onPriority(h frameHeader, p []byte) error {
	if h.id == 0 {
		return connError(ProtocolError, "PRIORITY on stream 0")
	}
	switch {
	case h.length != 5:
		return r.c.refusePriority(&streamError{h.id, FrameSizeError, "PRIORITY of a length other than 5"})
	case binary.BigEndian.Uint32(p)&maxStreamID == h.id:
		return r.c.refusePriority(&streamError{h.id, ProtocolError, "a stream that depends on itself"})
	}
	return r.annoyed(1)
}

// refusePriority says what becomes of a malformed PRIORITY frame, the only frame
// that an idle stream may get: such a stream must not be reset (RFC 9113 section
// 6.4).
func (c *Conn) refusePriority(err *streamError) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.checkNotIdle(err.id) != nil {
		return connError(err.code, err.reason)
	}
	return err
}

// onRSTStream ends a stream that the peer reset.
func (c *Conn) onRSTStream(b *Batch, h frameHeader, p []byte) error {
	if h.id == 0 {
		return connError(ProtocolError, "RST_STREAM on stream 0")
	}
	if h.length != 4 {
		return connError(FrameSizeError, "RST_STREAM of a length other than 4")
	}
	code := ErrCode(binary.BigEndian.Uint32(p))
	c.mu.Lock()
	s := c.streams.get(h.id)
	if s == nil {
		err := c.onLateReset(h.id)
		c.mu.Unlock()
		return err
	}
	gen := s.gen
	err := c.endedEarly(s, b.Now().UnixNano())
	c.closeStream(b, s)
	c.mu.Unlock()
	s.owner.OnReset(b, s, gen, Reset{Code: code, Cause: CausePeer, Unprocessed: code == RefusedStream})
	return err
}

// onLateReset judges RST_STREAM on a stream that is not open. c.mu is held.
func (c *Conn) onLateReset(id uint32) error {
	if err := c.checkNotIdle(id); err != nil {
		return err
	}
	if late, err := c.late(id, 0, true); late {
		return err
	}
	return c.nuisance(1)
}

// checkNotIdle refuses a frame on a stream that nobody has opened yet (RFC 9113
// section 5.1). Those with even ids are a server's to open, and none does: ours
// pushes nothing, and others are told not to. c.mu is held.
func (c *Conn) checkNotIdle(id uint32) error {
	if id%2 == 0 || c.role == Server && id > c.lastID && id <= c.goAwayID || c.role == Client && id >= c.nextID {
		return connError(ProtocolError, "a frame on an idle stream")
	}
	return nil
}

// onWindowUpdate enlarges a window of ours (RFC 9113 section 6.9).
func (c *Conn) onWindowUpdate(b *Batch, h frameHeader, p []byte) error {
	if h.length != 4 {
		return connError(FrameSizeError, "WINDOW_UPDATE of a length other than 4")
	}
	inc := binary.BigEndian.Uint32(p) & maxWindow
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.nuisance(1); err != nil {
		return err
	}
	if h.id == 0 {
		if inc == 0 {
			return connError(ProtocolError, "WINDOW_UPDATE by 0")
		}
		if int64(c.sendWindow)+int64(inc) > maxWindow {
			return connError(FlowControlError, "the connection's window overflows")
		}
		c.sendWindow += int32(inc)
		b.touch(c)
		c.unblockAll()
		return nil
	}
	s := c.streams.get(h.id)
	if s == nil {
		return c.checkNotIdle(h.id)
	}
	if inc == 0 {
		return &streamError{h.id, ProtocolError, "WINDOW_UPDATE by 0"}
	}
	if int64(s.sendWindow)+int64(inc) > maxWindow {
		return &streamError{h.id, FlowControlError, "the stream's window overflows"}
	}
	s.sendWindow += int32(inc)
	if s.parked != nil {
		b.touch(c)
		c.unblock(s)
	}
	return nil
}

package h2

import (
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
)

// Handler is told what happens to a connection as a whole. Every call is made
// with no lock of the engine's held.
type Handler interface {
	// NewStream returns the stream that a new request of a client is given; its
	// owner then gets the request. Only server connections call it.
	NewStream(c *Conn) *Stream
	// OnConnSlots says that another stream may be opened, after Open had
	// returned ErrNoSlot or Room 0, or that the peer's first SETTINGS have come,
	// whether or not they allow a stream.
	OnConnSlots(b *Batch, c *Conn)
	// OnConnDraining says that the connection takes no new streams; those open
	// go on.
	OnConnDraining(b *Batch, c *Conn)
	// OnConnClosed is the last call: the connection has ended, and all its
	// streams' owners were told. err is never nil. What another goroutine is
	// about to tell may still come after it.
	OnConnClosed(b *Batch, c *Conn, err error)
}

// Conn is one HTTP/2 connection.
type Conn struct {
	t       Transport
	role    Role
	cfg     *Config
	handler Handler
	// Data is the handler's own; the engine does not look at it.
	Data     any
	peerHost atomic.Pointer[string] // see PeerHost

	mu sync.Mutex
	// room tells the reader that output was written.
	room sync.Cond

	// Output. written counts all bytes that the socket took, appended all that
	// were handed over for writing before the present output.
	out         *output
	owed        int // frames in out that the peer made us owe it
	outputEpoch uint32
	appended    uint64
	written     uint64
	writing     bool
	stuck       bool // the socket does not take all: the writer goroutine writes
	closedWrite bool
	touchedBy   *Batch
	enc         *hpack.Encoder
	ready       streamList // streams whose parked output could go out
	unopened    streamList // streams without an id that wait for the peer's limit
	blocked     streamList // streams whose parked DATA waits for sendWindow

	// Streams.
	streams   streamTable
	active    int    // streams open, those waiting for an id included
	nextID    uint32 // client: the next stream's id
	lastID    uint32 // server: the highest id that the client has used
	skipped   [4][2]uint32
	nSkipped  int
	resets    resetSet
	postponed postponed
	wantSlots bool
	idleSince time.Time

	// Windows of the connection; streamWindow is what a new stream's receive
	// window starts with.
	sendWindow   int32
	recvWindow   int32
	recvTarget   int32
	unreturned   int32
	streamWindow int32

	peer        peerSettings
	sawSettings bool

	// How it ends. draining: no new streams are taken; ending: the end is under
	// way; dead: streams and handler were told.
	draining bool
	shutdown shutdownStep
	ending   bool
	dead     bool
	err      error
	// goAwayID is the last id of the GOAWAY received (client) or of the last one
	// sent (server): streams beyond it do not exist.
	goAwayID uint32
	// goAwayErr is the error of a GOAWAY received, writeErr that of a write:
	// both say more about the end than the end itself does.
	goAwayErr error
	writeErr  error

	calm      calm
	unacked   int   // SETTINGS of ours that the peer has not acknowledged
	goneAway  bool  // the peer has sent GOAWAY
	answered  bool  // client: a response has come
	kept      int64 // bytes of parked output
	handshake *time.Timer
	keepalive keepalive
	grow      growth
	drainStop *time.Timer
}

// New makes a connection over t. Nothing is sent or read until Serve is called;
// streams may be opened at once. Connections share a config that has been through
// [Config.WithDefaults]; any other is copied for each.
func New(t Transport, role Role, config *Config, h Handler) *Conn {
	cfg := config
	if !cfg.complete {
		full := config.WithDefaults()
		cfg = &full
	}
	c := &Conn{
		t: t, role: role, cfg: cfg, handler: h,
		enc:          hpack.NewEncoder(),
		nextID:       1,
		sendWindow:   defaultInitialWindow,
		recvWindow:   int32(cfg.ConnWindow),
		recvTarget:   int32(cfg.ConnWindow),
		streamWindow: int32(cfg.InitialStreamWindow),
		peer:         initialPeerSettings(),
		goAwayID:     maxStreamID,
		idleSince:    time.Now(),
	}
	c.room.L = &c.mu
	if s := socketBeneath(t); s != nil {
		boundUnsent(s.Conn, s.rc, maxUnsent(role))
	}
	c.resets = newResetSet(role, cfg)
	c.calm.left = cfg.Nuisance
	if cfg.HeaderTableSize != hpack.DefaultTableSize {
		c.enc.SetLimit(cfg.HeaderTableSize)
	}
	o := c.output()
	if role == Client {
		o.b = append(o.b, clientPreface...)
	}
	o.b = appendFirstSettings(o.b, role, cfg)
	c.unacked = 1
	if extra := cfg.ConnWindow - defaultInitialWindow; extra > 0 {
		o.appendWindowUpdate(0, extra)
	}
	return c
}

// Serve reads the connection until it ends, in the calling goroutine.
func (c *Conn) Serve() {
	c.mu.Lock()
	c.handshake = time.AfterFunc(c.cfg.HandshakeTimeout, c.handshakeExpired)
	c.keepalive.start(c)
	c.mu.Unlock()
	r := reader{c: c, dec: hpack.NewDecoder(c.cfg.HeaderTableSize)}
	r.dec.Vet = harmless
	r.run()
	c.mu.Lock()
	c.handshake.Stop()
	c.keepalive.stop()
	if c.drainStop != nil {
		c.drainStop.Stop()
	}
	c.postponed.drop()
	c.mu.Unlock()
}

// RemoteAddr returns the peer's address.
func (c *Conn) RemoteAddr() net.Addr { return c.t.RemoteAddr() }

// PeerHost returns the peer's address without the port, "" where it has none. It is
// asked for often.
func (c *Conn) PeerHost() string {
	if host := c.peerHost.Load(); host != nil {
		return *host
	}
	host, _, err := net.SplitHostPort(c.RemoteAddr().String())
	if err != nil {
		host = ""
	}
	c.peerHost.Store(&host)
	return host
}

// LocalAddr returns the connection's own address.
func (c *Conn) LocalAddr() net.Addr { return c.t.LocalAddr() }

// Open opens a stream with a request. fields are only used during the call.
// After an error nothing was sent, and the stream was not opened.
func (c *Conn) Open(b *Batch, s *Stream, fields []hpack.Field, end bool) (gen uint32, err error) {
	now := b.Now().UnixNano()
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.dead:
		return 0, ErrClosed
	case c.draining:
		return 0, ErrDraining
	case c.inUse() >= c.maxStreams():
		c.wantSlots = true
		return 0, ErrNoSlot
	case c.nextID > maxStreamID-2*uint32(c.active):
		// Those waiting for an id will need one each. RFC 9113 section 5.1.1:
		// a client out of ids opens a new connection.
		c.drain(b)
		return 0, ErrDraining
	}
	s.begin(c, now)
	s.ending = end
	s.answered = true
	c.active++
	b.touch(c)
	if c.outputFull() || c.ready.head != nil && c.ready.head.id == 0 {
		c.parkHeaders(b, s, fields, end)
		return s.gen, nil
	}
	c.writeHeaders(s, fields, end)
	if end {
		c.endLocal(b, s)
	}
	return s.gen, nil
}

// endLocal notes that END_STREAM went to the output. c.mu is held.
func (c *Conn) endLocal(b *Batch, s *Stream) {
	s.sentEnd = true
	if s.gotEnd {
		c.closeStream(b, s)
		return
	}
	if c.role == Server {
		// The answer is complete before the request is: the client need not send
		// the rest (RFC 9113 section 8.1).
		c.resetStream(b, s, NoError)
	}
}

// resetStream ends a stream with RST_STREAM, unless it never reached the peer.
// c.mu is held.
func (c *Conn) resetStream(b *Batch, s *Stream, code ErrCode) {
	if s.id != 0 && !c.dead {
		b.touch(c)
		if c.tooEarly(b, s) {
			c.postpone(b, s.id, code)
		} else {
			o := c.output()
			o.b = appendRSTStream(o.b, s.id, code)
		}
		if !s.gotEnd {
			c.resets.add(s.id, s.recvWindow)
			if c.role == Client {
				c.provoke(dueForReset)
			}
		}
	}
	c.closeStream(b, s)
}

// closeStream ends a stream's life. c.mu is held.
func (c *Conn) closeStream(b *Batch, s *Stream) {
	c.forget(b, s)
	b.events = append(b.events, event{kind: eventClosed, stream: s, gen: s.gen})
	c.finishIfDrained(b)
	c.openMore(b)
	c.offerIfRoom(b)
}

// offerIfRoom tells a handler that waits for it that a stream may be opened. c.mu
// is held.
func (c *Conn) offerIfRoom(b *Batch) {
	if c.wantSlots && !c.draining && c.inUse() < c.maxStreams() {
		c.offerSlots(b)
	}
}

// inUse is how many streams count against the peer's limit, those that are about to
// be opened included. c.mu is held.
func (c *Conn) inUse() uint32 { return uint32(c.active + len(c.postponed.resets)) }

// mayOpen is how many streams the peer's limit lets begin now, below 0 where it was
// lowered. c.mu is held.
func (c *Conn) mayOpen() int {
	return int(c.maxStreams()) - c.streams.n - len(c.postponed.resets)
}

// forget removes a stream from everything. c.mu is held.
func (c *Conn) forget(b *Batch, s *Stream) {
	s.open = false
	if s.id != 0 {
		c.streams.remove(s)
	}
	if s.list != nil {
		s.list.remove(s)
	}
	if s.parked != nil {
		c.freeParked(s)
	}
	if c.active--; c.active == 0 {
		c.idleSince = b.Now()
	}
}

// openMore queues streams that were opened before the peer lowered its limit, and
// whose requests have not gone out yet, as far as the limit allows them now (RFC
// 9113 section 5.1.2). c.mu is held.
func (c *Conn) openMore(b *Batch) {
	for room := c.mayOpen(); room > 0 && c.unopened.head != nil; room-- {
		b.touch(c)
		c.ready.push(c.unopened.pop())
	}
}

// unsent calls f with each stream whose request has not gone out. c.mu is held.
func (c *Conn) unsent(f func(*Stream)) {
	for s := c.ready.head; s != nil; s = s.next {
		if s.id == 0 {
			f(s)
		}
	}
	for s := c.unopened.head; s != nil; s = s.next {
		f(s)
	}
}

// maxStreams is how many streams may be open. c.mu is held.
func (c *Conn) maxStreams() uint32 {
	if own := c.cfg.MaxOpenStreams; own > 0 {
		return min(own, c.peer.maxConcurrentStreams)
	}
	return c.peer.maxConcurrentStreams
}

func (c *Conn) offerSlots(b *Batch) {
	if c.role == Client {
		c.wantSlots = false
		b.events = append(b.events, event{kind: eventSlots, conn: c})
	}
}

// Room returns how many more streams may be opened now. Where it is none because
// of a limit, OnConnSlots tells when there is one again.
func (c *Conn) Room() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.draining {
		return 0
	}
	if limit := c.maxStreams(); c.inUse() < limit {
		return int(limit - c.inUse())
	}
	c.wantSlots = true
	return 0
}

// Stats describes a connection at one moment.
type Stats struct {
	Streams    int       // open now
	MaxStreams uint32    // how many may be
	IdleSince  time.Time // zero while streams are open
	Draining   bool
	// Settled says that the peer's SETTINGS have come: MaxStreams is its own
	// word, and not what is assumed until then.
	Settled bool
	// Opened and Answered say, of a connection to a server, that a stream was ever
	// opened and that a response has ever come.
	Opened, Answered bool
}

// Stats returns the connection's present state.
func (c *Conn) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	st := Stats{Streams: c.active, MaxStreams: c.maxStreams(), Draining: c.draining || c.dead, Settled: c.sawSettings,
		Opened: c.role == Client && c.nextID > 1, Answered: c.answered}
	if c.active == 0 {
		st.IdleSince = c.idleSince
	}
	return st
}

// end tells all owners and the handler that the connection is over, once. What
// is in the output is still written.
func (c *Conn) end(b *Batch, err error) {
	c.mu.Lock()
	if c.dead {
		c.mu.Unlock()
		return
	}
	c.dead, c.ending, c.draining, c.err = true, true, true, err
	// While somebody writes, all that it was given may have reached the peer.
	sent := c.written
	if c.writing {
		sent = c.appended
	}
	type ended struct {
		s   *Stream
		gen uint32
		r   Reset
	}
	// Copied, so that owners are told with no lock held.
	all := make([]ended, 0, c.active)
	add := func(s *Stream) {
		r := Reset{Code: connCode(err), Cause: CauseConn, Err: err}
		r.Unprocessed = s.id == 0 || s.id > c.goAwayID ||
			c.role == Client && s.headersAt >= sent
		all = append(all, ended{s, s.gen, r})
	}
	for s := range c.streams.all() {
		add(s)
	}
	c.unsent(add)
	now := b.Now().UnixNano()
	for _, e := range all {
		c.abandon(e.s, now)
		c.forget(b, e.s)
	}
	c.room.Broadcast()
	c.mu.Unlock()

	b.tell() // what happened before the end
	for i, e := range all {
		if i%turnEnds == turnEnds-1 {
			b.Done()
			c.MakeWay()
		}
		e.s.owner.OnReset(b, e.s, e.gen, e.r)
		e.s.owner.OnClosed(b, e.s, e.gen)
	}
	c.handler.OnConnClosed(b, c, err)
}

// lastReset says why a stream ended that came when the connection had ended.
func (c *Conn) lastReset() Reset {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Reset{Code: connCode(c.err), Cause: CauseConn, Err: c.err}
}

func connCode(err error) ErrCode {
	if ce, ok := err.(*ConnError); ok && ce.Remote {
		return ce.Code
	}
	return InternalError
}

// abort ends the connection for an error of the peer's, which is told so.
func (c *Conn) abort(b *Batch, err error) {
	c.mu.Lock()
	if ce, ok := err.(*ConnError); ok && !ce.Remote && !c.dead {
		o := c.output()
		o.b = appendGoAway(o.b, min(c.lastID, c.goAwayID), ce.Code, ce.Reason)
	}
	c.mu.Unlock()
	c.end(b, err)
	c.linger() // the last words have no longer than that to be written, either
	c.flush(b)
}

// Abort ends the connection at once: open streams are reset, and the peer is
// told code and reason. Where it is ending already, what is left to be written
// has little more time.
func (c *Conn) Abort(b *Batch, code ErrCode, reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead {
		c.linger()
		return
	}
	c.ending = true
	b.events = append(b.events, event{kind: eventAbort, conn: c, err: connError(code, reason)})
}

// linger has the reader close the connection after Config.LingerTimeout.
func (c *Conn) linger() { _ = c.t.SetReadDeadline(time.Now().Add(c.cfg.LingerTimeout)) }

func (c *Conn) handshakeExpired() {
	c.mu.Lock()
	late := !c.sawSettings
	c.mu.Unlock()
	if late {
		var b Batch
		c.abort(&b, connError(SettingsTimeout, "no SETTINGS within the handshake's time"))
		b.Done()
	}
}

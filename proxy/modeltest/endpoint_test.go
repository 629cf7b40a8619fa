package modeltest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// endpoint is one end of an HTTP/2 connection to the engine. It obeys flow control
// and checks that the engine does.
type endpoint struct {
	w      *world
	name   string
	nc     *end
	server bool
	style  endStyle
	// onStream is called with each request that comes, with no lock held, in a
	// goroutine of its own.
	onStream func(s *stream, fields []hpack.HeaderField)

	mu      sync.Mutex
	changed sync.Cond
	rng     *rand.Rand
	out     bytes.Buffer
	framer  *http2.Framer // writes to out
	enc     *hpack.Encoder
	block   bytes.Buffer

	streams map[uint32]*stream
	ended   map[uint32]ending
	nextID  uint32
	lastID  uint32
	windows

	goAway  *http2.GoAwayFrame // received
	drained bool               // a GOAWAY was sent
	drainAt uint32             // with this last id
	closing bool               // the connection is closed when out is empty
	dead    error
}

// ending is how a stream that is no longer open has ended.
type ending uint8

const (
	endedWell  ending = iota + 1 // by END_STREAM in both directions
	endedReset                   // by RST_STREAM, or the request was never looked at
)

// endStyle is how an endpoint behaves.
type endStyle struct {
	window     int64   // SETTINGS_INITIAL_WINDOW_SIZE
	connWindow int64   // of the connection, at least 65535
	chunk      int     // the longest DATA frame it sends
	eager      bool    // it gives the connection's window back on receipt
	padding    float64 // share of DATA frames that are padded
	limit      uint32  // SETTINGS_MAX_CONCURRENT_STREAMS
	table      uint32  // SETTINGS_HEADER_TABLE_SIZE
}

var errConnClosing = errors.New("no new stream may be opened on the connection")

// newEndpoint begins a connection.
func newEndpoint(w *world, name string, nc *end, server bool, style endStyle, rng *rand.Rand) *endpoint {
	e := &endpoint{
		w: w, name: name, nc: nc, server: server, style: style, rng: rng,
		streams: map[uint32]*stream{}, ended: map[uint32]ending{}, nextID: 1,
		windows: newWindows(style),
	}
	e.changed.L = &e.mu
	e.framer = http2.NewFramer(&e.out, nc)
	e.framer.SetMaxReadFrameSize(1 << 20)
	e.framer.ReadMetaHeaders = hpack.NewDecoder(style.table, nil)
	e.framer.MaxHeaderListSize = 1 << 20
	e.enc = hpack.NewEncoder(&e.block)
	if !server {
		e.out.WriteString(http2.ClientPreface)
	}
	settings := []http2.Setting{
		{ID: http2.SettingInitialWindowSize, Val: uint32(style.window)},
		{ID: http2.SettingHeaderTableSize, Val: style.table},
	}
	if server {
		settings = append(settings, http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: style.limit})
	}
	e.sendSettings(settings...)
	if extra := style.connWindow - 65535; extra > 0 {
		e.must(e.framer.WriteWindowUpdate(0, uint32(extra)))
	}
	return e
}

// start reads and writes until the connection ends.
func (e *endpoint) start() {
	e.w.running.Go(e.write)
	e.w.running.Go(e.read)
}

// must is for writes to memory, which fail only where this test is wrong.
func (e *endpoint) must(err error) {
	if err != nil {
		panic(fmt.Sprintf("%s: %v", e.name, err))
	}
}

// violate reports a violation of HTTP/2 by the engine.
func (e *endpoint) violate(format string, args ...any) {
	e.w.violate(nil, "%s: "+format, append([]any{e.name}, args...)...)
}

func (e *endpoint) write() {
	for {
		e.mu.Lock()
		for e.out.Len() == 0 && !e.closing && e.dead == nil {
			e.changed.Wait()
		}
		p := bytes.Clone(e.out.Bytes())
		e.out.Reset()
		dead := e.dead
		e.mu.Unlock()
		if dead != nil {
			return
		}
		if len(p) == 0 {
			e.die(errors.New("closed by the endpoint itself"))
			return
		}
		if _, err := e.nc.Write(p); err != nil {
			return // the reader learns it too, after what came before
		}
	}
}

// die ends the connection.
func (e *endpoint) die(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.dead != nil {
		return
	}
	e.dead = err
	open := len(e.streams)
	clear(e.streams)
	e.changed.Broadcast()
	harmed := e.nc.c.wasHarmed()
	if open > 0 && harmed == "" && !e.closing && !e.w.tearingDown() {
		e.violate("the connection ended with %d streams open, and nothing was done to it: %v (GOAWAY: %v)", open, err, e.goAway)
	}
	_ = e.nc.Close()
}

func (e *endpoint) read() {
	if e.server {
		if _, err := io.ReadFull(e.nc, make([]byte, len(http2.ClientPreface))); err != nil {
			e.die(err)
			return
		}
	}
	for {
		f, err := e.framer.ReadFrame()
		if err != nil {
			var se http2.StreamError
			if errors.As(err, &se) || !isIO(err) && e.nc.c.wasHarmed() == "" {
				e.violate("a frame that is malformed: %v", err)
			}
			e.die(err)
			return
		}
		e.handle(f)
	}
}

func isIO(err error) bool {
	var ce http2.ConnectionError
	return !errors.As(err, &ce)
}

// handle takes one frame.
func (e *endpoint) handle(f http2.Frame) {
	e.mu.Lock()
	defer e.mu.Unlock()
	defer e.changed.Broadcast()
	if e.dead != nil {
		return
	}
	switch f := f.(type) {
	case *http2.MetaHeadersFrame:
		e.onHeaders(f)
	case *http2.DataFrame:
		e.onData(f)
	case *http2.SettingsFrame:
		if f.IsAck() {
			e.settingsAcknowledged()
			return
		}
		e.onSettings(f)
		e.must(e.framer.WriteSettingsAck())
	case *http2.PingFrame:
		if !f.IsAck() {
			e.must(e.framer.WritePing(true, f.Data))
		}
	case *http2.WindowUpdateFrame:
		e.onWindowUpdate(f)
	case *http2.RSTStreamFrame:
		if s := e.streams[f.StreamID]; s != nil {
			code := f.ErrCode
			s.end(&streamEnd{reset: true, code: code})
			e.drop(s, endedReset)
		} else if e.idle(f.StreamID) {
			e.violate("RST_STREAM on stream %d, which is idle", f.StreamID)
		}
	case *http2.GoAwayFrame:
		e.onGoAway(f)
	}
}

func (e *endpoint) idle(id uint32) bool {
	if e.server {
		return id > e.lastID
	}
	return id >= e.nextID
}

// drop forgets a stream that has ended. e.mu is held.
func (e *endpoint) drop(s *stream, how ending) {
	delete(e.streams, s.id)
	e.ended[s.id] = how
	if e.drained && len(e.streams) == 0 {
		e.closing = true
	}
	e.changed.Broadcast()
}

func (e *endpoint) onHeaders(f *http2.MetaHeadersFrame) {
	if f.Truncated {
		e.violate("a header list that is too long")
	}
	id := f.StreamID
	s := e.streams[id]
	if s == nil {
		switch {
		case e.ended[id] == endedReset:
		case e.ended[id] == endedWell:
			e.violate("HEADERS on stream %d after its end", id)
		case e.server && id > e.lastID:
			e.request(f)
		default:
			e.violate("HEADERS on stream %d, which is not open", id)
		}
		return
	}
	if s.remoteEnd {
		e.violate("HEADERS on stream %d after END_STREAM", id)
		return
	}
	s.push(event{fields: f.Fields, end: f.StreamEnded()})
}

// request takes a new stream. e.mu is held.
func (e *endpoint) request(f *http2.MetaHeadersFrame) {
	id := f.StreamID
	e.lastID = id
	if e.drained && id > e.drainAt {
		e.ended[id] = endedReset
		e.w.unprocessed(e, f.Fields, "it came after GOAWAY")
		return
	}
	if n := len(e.streams); uint32(n) >= e.mostStreams() {
		e.violate("stream %d is one more than the %d that may be open", id, e.mostStreams())
	}
	s := e.newStream(id)
	if f.StreamEnded() {
		s.remoteEnd = true
		s.push(event{end: true, data: nil})
	}
	e.w.running.Go(func() { e.onStream(s, f.Fields) })
}

func (e *endpoint) onGoAway(f *http2.GoAwayFrame) {
	e.goAway = f
	if e.server {
		return
	}
	if f.ErrCode != http2.ErrCodeNo && e.nc.c.wasHarmed() == "" && !e.w.tearingDown() {
		e.violate("GOAWAY with %v: %s", f.ErrCode, f.DebugData())
	}
	for id, s := range e.streams {
		if id > f.LastStreamID {
			s.end(&streamEnd{refused: true})
			e.drop(s, endedReset)
		}
	}
}

// goAwayNow has the peer open no more streams; those open go on, those that are on
// their way are not looked at.
func (e *endpoint) goAwayNow(code http2.ErrCode, abrupt bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.dead != nil || e.drained {
		return
	}
	e.drained, e.drainAt = true, e.lastID
	e.must(e.framer.WriteGoAway(e.drainAt, code, nil))
	if abrupt || len(e.streams) == 0 {
		e.closing = true
	}
	e.changed.Broadcast()
}

// open opens a stream with a request.
func (e *endpoint) open(fields []hpack.HeaderField, end bool) (*stream, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for {
		switch {
		case e.dead != nil:
			return nil, e.dead
		case e.goAway != nil || e.drained || e.closing:
			return nil, errConnClosing
		case uint32(len(e.streams)) < e.peerLimit:
			s := e.newStream(e.nextID)
			e.nextID += 2
			s.opened = time.Now()
			s.writeHeaders(fields, end)
			return s, nil
		}
		e.changed.Wait()
	}
}

// writeBlock writes a header section. e.mu is held.
func (e *endpoint) writeBlock(id uint32, fields []hpack.HeaderField, end bool) {
	e.block.Reset()
	for _, f := range fields {
		e.must(e.enc.WriteField(f))
	}
	block := e.block.Bytes()
	most := 16384
	if e.rng.IntN(8) == 0 {
		most = 1 + e.rng.IntN(200) + len(block)/20
	}
	first := block[:min(len(block), most)]
	block = block[len(first):]
	e.must(e.framer.WriteHeaders(http2.HeadersFrameParam{
		StreamID: id, BlockFragment: first, EndStream: end, EndHeaders: len(block) == 0,
	}))
	for len(block) > 0 {
		part := block[:min(len(block), most)]
		block = block[len(part):]
		e.must(e.framer.WriteContinuation(id, len(block) == 0, part))
	}
	e.changed.Broadcast()
}

// active returns how many streams are open.
func (e *endpoint) active() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.streams)
}

// isDead says whether the connection has ended.
func (e *endpoint) isDead() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.dead != nil
}

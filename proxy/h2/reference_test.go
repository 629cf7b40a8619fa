package h2

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"
	"golang.org/x/net/http2"

	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
)

// reference says what a connection must make of what its peer sends after the
// preface, where its owners only listen. It is RFC 9113 written down a second
// time, plainly, frame by frame, over the Framer of golang.org/x/net; where the
// RFC leaves a choice, what the engine promises is written beside it.
type reference struct {
	role    Role
	listMax uint32
	streams uint32 // SETTINGS_MAX_CONCURRENT_STREAMS
	contMax int
	keep    bool // owners give nothing back
	// beforeFrame and beforeSection, if set, are asked before a frame, and before
	// what a header block holds, counts: true ends the reading there.
	beforeFrame   func(h frameHeader, payload []byte) bool
	beforeSection func(id uint32, fields []hpack.Field, err error, end bool) bool

	src *bytes.Reader
	fr  *http2.Framer
	dec *hpack.Decoder // compared with x/net's by FuzzDecode

	settled    bool
	last       uint32 // the highest stream that the client opened
	byID       map[uint32]*refStream
	order      []*refStream
	active     int
	draining   bool
	sendWindow int64
	initial    int64

	open     *http2.HeadersFrame // whose CONTINUATION is awaited
	openFlag http2.Flags
	selfDep  bool
	block    []byte
	conts    int
}

// refStream is a stream as the reference sees it.
type refStream struct {
	id       uint32
	lines    []string // what its owner is told, but for DATA
	data     []byte
	closed   bool
	refused  bool // the engine has reset it
	peerEnd  bool
	ownEnd   bool
	head     bool
	length   int64
	received int64
	window   int64 // with none of the padding given back
	padding  int64
	late     int64 // DATA since the engine has reset it
	send     int64
}

// refFault is a connection error. anyCode: the RFC allows several codes.
type refFault struct {
	code    ErrCode
	anyCode bool
	why     string
}

func (e *refFault) Error() string { return fmt.Sprintf("%v: %s", e.code, e.why) }

func fault(code ErrCode, why string) error { return &refFault{code: code, why: why} }

// errCut says that what a frame must lead to is not laid down.
var errCut = errors.New("not laid down")

func newReference(role Role, cfg Config, keep bool) *reference {
	full := cfg.WithDefaults()
	return &reference{
		role: role, listMax: full.MaxHeaderListSize, contMax: int(full.MaxContinuations), streams: full.MaxConcurrentStreams, keep: keep,
		dec: hpack.NewDecoder(4096), byID: map[uint32]*refStream{}, sendWindow: 65535, initial: 65535,
	}
}

// opened adds a stream that a client has opened.
func (r *reference) opened(id uint32, end bool) {
	s := &refStream{id: id, ownEnd: end, length: -1, window: 65535, send: r.initial}
	r.byID[id], r.order = s, append(r.order, s)
	r.active++
	r.last = id
}

// run reads all whole frames and header blocks of the input. It returns how much of
// the input is to be sent for the engine to see the same, and the connection's
// error.
func (r *reference) run(input []byte) (use int, err *refFault) {
	r.src = bytes.NewReader(input)
	r.fr = http2.NewFramer(io.Discard, r.src)
	r.fr.SetMaxReadFrameSize(minMaxFrameSize)
	for {
		at := len(input) - r.src.Len()
		if r.open == nil {
			use = at
		}
		rest := input[at:]
		if len(rest) < frameHeaderLen {
			return use, nil
		}
		h := parseFrameHeader(rest)
		if h.length <= minMaxFrameSize && len(rest) < frameHeaderLen+h.length {
			return use, nil
		}
		switch err := r.frame(h, rest).(type) {
		case nil:
		case *refFault:
			return min(len(input), at+frameHeaderLen+h.length), err
		default:
			return use, nil // errCut
		}
		if r.draining && r.active == 0 {
			return len(input) - r.src.Len(), nil // the connection ends here
		}
	}
}

func (r *reference) frame(h frameHeader, p []byte) error {
	if r.beforeFrame != nil && h.length <= minMaxFrameSize && r.beforeFrame(h, p[frameHeaderLen:][:h.length]) {
		return errCut
	}
	if own := h.typ > frameContinuation || h.typ == framePriority && h.length != 5; own && h.length <= minMaxFrameSize {
		// x/net knows a later type, and ends the connection for a PRIORITY of
		// another length, where section 6.3 has a stream error.
		_, _ = r.src.Seek(int64(frameHeaderLen+h.length), io.SeekCurrent)
		switch {
		case !r.settled:
			return &refFault{ProtocolError, true, "not SETTINGS"}
		case r.open != nil:
			return fault(ProtocolError, "within a header block") // section 4.3
		case h.typ != framePriority: // section 5.5: ignored
			return nil
		case h.id == 0:
			return fault(ProtocolError, "PRIORITY on stream 0")
		}
		return r.streamFault(h.id, FrameSizeError)
	}
	f, err := r.fr.ReadFrame()
	if !r.settled {
		if s, ok := f.(*http2.SettingsFrame); err != nil || !ok || s.IsAck() {
			return &refFault{ProtocolError, true, "not SETTINGS"} // section 3.4
		}
		r.settled = true
	}
	var ce http2.ConnectionError
	var se http2.StreamError
	switch {
	case errors.As(err, &ce):
		// A frame of a wrong length on a wrong stream has two faults, and so may
		// have SETTINGS of several parameters.
		onStream := h.typ == frameRSTStream || h.typ == framePriority
		several := h.typ == frameSettings && h.length > settingLen
		return &refFault{ErrCode(ce), onStream != (h.id != 0) || several, err.Error()}
	case errors.As(err, &se) && h.typ == frameWindowUpdate:
		return r.windowUpdate(h.id, 0)
	case errors.As(err, &se): // HEADERS: section 6.2 has a connection error; it may be too short as well
		return &refFault{ProtocolError, true, err.Error()}
	case errors.Is(err, http2.ErrFrameTooLarge):
		return fault(FrameSizeError, err.Error())
	case err != nil: // too short for its fields
		return &refFault{FrameSizeError, true, err.Error()}
	}
	switch f := f.(type) {
	case *http2.HeadersFrame:
		r.selfDep = f.HasPriority() && f.Priority.StreamDep == f.StreamID
		r.open, r.openFlag, r.block, r.conts = f, f.Flags, bytes.Clone(f.HeaderBlockFragment()), 0
		if f.HeadersEnded() {
			return r.section(h.id)
		}
	case *http2.ContinuationFrame:
		r.conts++
		if r.conts > r.contMax || len(r.block)+int(h.length) > int(r.listMax)+minMaxFrameSize {
			return fault(EnhanceYourCalm, "a long header block") // section 10.5.1: a limit of the engine's
		}
		r.block = append(r.block, f.HeaderBlockFragment()...)
		if f.HeadersEnded() {
			return r.section(h.id)
		}
	case *http2.DataFrame:
		return r.onData(f)
	case *http2.RSTStreamFrame:
		return r.onReset(f)
	case *http2.SettingsFrame:
		return r.onSettings(f)
	case *http2.WindowUpdateFrame:
		return r.windowUpdate(f.StreamID, int64(f.Increment))
	case *http2.PriorityFrame:
		if f.StreamDep == f.StreamID {
			return r.streamFault(f.StreamID, ProtocolError)
		}
	case *http2.PushPromiseFrame:
		return fault(ProtocolError, "push is off") // sections 6.6 and 8.4
	case *http2.GoAwayFrame:
		r.onGoAway(f)
	}
	return nil
}

// idle: nobody has opened the stream (section 5.1.1). The engine pushes nothing
// and lets nobody push, so that even ids are idle for ever.
func (r *reference) idle(id uint32) bool { return id%2 == 0 || id > r.last }

// streamFault resets a stream that is open. One that is idle cannot be reset
// (section 6.4).
func (r *reference) streamFault(id uint32, code ErrCode) error {
	if r.idle(id) {
		return &refFault{code, true, "a stream error on an idle stream"}
	}
	s := r.byID[id]
	if s == nil {
		s = &refStream{id: id, closed: true, window: defaultInitialWindow}
		r.byID[id] = s
	}
	if !s.closed {
		r.reset(s, "malformed "+code.String())
	}
	s.refused = true
	return nil
}

func (r *reference) reset(s *refStream, how string) {
	s.lines = append(s.lines, "reset "+how)
	r.close(s)
}

func (r *reference) close(s *refStream) {
	s.closed = true
	r.active--
}

// ended notes END_STREAM (section 8.1.1: content-length has to be right).
func (r *reference) ended(s *refStream, line string) error {
	if s.length >= 0 && s.length != s.received {
		return r.streamFault(s.id, ProtocolError)
	}
	s.lines = append(s.lines, line)
	s.peerEnd = true
	if s.ownEnd {
		r.close(s)
	}
	return nil
}

func (r *reference) onReset(f *http2.RSTStreamFrame) error {
	if r.idle(f.StreamID) {
		return fault(ProtocolError, "RST_STREAM on an idle stream")
	}
	if s := r.byID[f.StreamID]; s != nil && !s.closed {
		line := "peer " + ErrCode(f.ErrCode).String()
		if f.ErrCode == http2.ErrCodeRefusedStream {
			line += " unprocessed"
		}
		r.reset(s, line)
	}
	return nil
}

func (r *reference) windowUpdate(id uint32, inc int64) error {
	if id == 0 {
		if r.sendWindow += inc; inc == 0 || r.sendWindow > maxWindow {
			return &refFault{FlowControlError, inc == 0, "the connection's window"}
		}
		return nil
	}
	if r.idle(id) {
		return fault(ProtocolError, "WINDOW_UPDATE on an idle stream")
	}
	s := r.byID[id]
	switch {
	case s == nil || s.closed:
	case inc == 0:
		return r.streamFault(id, ProtocolError)
	case s.send+inc > maxWindow:
		return r.streamFault(id, FlowControlError)
	default:
		s.send += inc
	}
	return nil
}

func (r *reference) onSettings(f *http2.SettingsFrame) error {
	if f.IsAck() {
		return nil
	}
	before := r.initial
	err := f.ForeachSetting(func(s http2.Setting) error {
		if err := s.Valid(); err != nil && s.ID <= http2.SettingMaxHeaderListSize {
			return err // of later RFCs' parameters the engine knows none
		}
		switch {
		case s.ID == http2.SettingEnablePush && s.Val == 1 && r.role == Client: // section 6.5.2
			return http2.ConnectionError(http2.ErrCodeProtocol)
		case s.ID == http2.SettingInitialWindowSize:
			r.initial = int64(s.Val)
		}
		return nil
	})
	if err != nil {
		return &refFault{ErrCode(err.(http2.ConnectionError)), f.NumSettings() > 1, err.Error()}
	}
	for _, s := range r.order {
		// Section 6.9.2. The engine looks at the last value of a frame only.
		if s.send += r.initial - before; s.send > maxWindow && !s.closed {
			return fault(FlowControlError, "SETTINGS_INITIAL_WINDOW_SIZE")
		}
	}
	return nil
}

func (r *reference) onGoAway(f *http2.GoAwayFrame) {
	r.draining = true
	if r.role == Server {
		return
	}
	for _, s := range r.order {
		if !s.closed && s.id > f.LastStreamID {
			r.reset(s, "goaway REFUSED_STREAM unprocessed")
		}
	}
}

func (r *reference) onData(f *http2.DataFrame) error {
	if r.idle(f.StreamID) {
		return fault(ProtocolError, "DATA on an idle stream")
	}
	s := r.byID[f.StreamID]
	if s == nil || s.closed {
		if s != nil && s.refused {
			// What may still come is bounded by the window that the stream had
			// (section 6.9), of which this is the least.
			left := int64(defaultInitialWindow / 2)
			if r.keep {
				left = s.window
			}
			if s.late += int64(f.Length); s.late > left {
				return errCut
			}
		}
		return r.streamFault(f.StreamID, StreamClosed) // section 5.1, or ignored as late
	}
	size, payload := int64(f.Length), int64(len(f.Data()))
	switch {
	case s.peerEnd:
		return r.streamFault(s.id, StreamClosed)
	case !s.head:
		return r.streamFault(s.id, ProtocolError)
	case size > s.window+s.padding:
		return r.streamFault(s.id, FlowControlError)
	case size > s.window && r.keep:
		return errCut // depends on how much of the padding was given back
	}
	if r.keep {
		s.window -= size
		s.padding += size - payload
	}
	if s.received += payload; s.length >= 0 && s.received > s.length {
		return r.streamFault(s.id, ProtocolError)
	}
	if f.StreamEnded() && s.length >= 0 && s.received != s.length {
		return r.streamFault(s.id, ProtocolError) // and what is short is not handed on
	}
	s.data = append(s.data, f.Data()...)
	if f.StreamEnded() {
		return r.ended(s, "end")
	}
	return nil
}

// section takes a complete header block (section 8).
func (r *reference) section(id uint32) error {
	var block hpack.Block
	err := r.dec.Decode(r.block, r.listMax, &block)
	end := r.openFlag.Has(http2.FlagHeadersEndStream)
	if r.beforeSection != nil && r.beforeSection(id, block.Fields, err, end) {
		return errCut
	}
	r.open = nil
	large := errors.Is(err, hpack.ErrListTooLarge)
	if err != nil && !large {
		return fault(CompressionError, err.Error())
	}
	if r.role == Server && id%2 == 1 && id > r.last {
		return r.request(id, block.Fields, large, end)
	}
	if r.idle(id) {
		return fault(ProtocolError, "HEADERS on an idle stream")
	}
	s := r.byID[id]
	switch {
	case s == nil && r.role == Server:
		return &refFault{ProtocolError, true, "HEADERS on a stream that was passed over"} // section 5.1.1
	case s.closed && r.role == Client:
		return nil // section 5.1: STREAM_CLOSED, or late
	case s.closed && s.refused:
		return errCut // section 5.1: ignored, for as long as the engine remembers
	case s.closed:
		return fault(StreamClosed, "HEADERS on a closed stream")
	case s.peerEnd:
		return r.streamFault(id, StreamClosed)
	case !s.head:
		return r.response(s, block.Fields, large, end)
	case !end || large:
		return r.streamFault(id, ProtocolError)
	}
	if _, ok := checkRefFields(block.Fields); !ok {
		return r.streamFault(id, ProtocolError)
	}
	return r.ended(s, "trailers"+describe(block.Fields)+" end")
}

func (r *reference) request(id uint32, fields []hpack.Field, large, end bool) error {
	r.last = id
	s := &refStream{id: id, window: 65535, send: r.initial}
	pseudo, regular := splitPseudo(fields)
	length, ok := checkRefFields(regular)
	method, path, scheme, host := pseudo[":method"], pseudo[":path"], pseudo[":scheme"], pseudo[":authority"]
	if host == "" {
		for _, f := range regular {
			if f.Name == "host" && host == "" {
				host = f.Value
			}
		}
	}
	_, hasPath := pseudo[":path"]
	_, hasScheme := pseudo[":scheme"]
	switch _, hasStatus := pseudo[":status"]; {
	case pseudo == nil || hasStatus || r.selfDep:
		ok = false
	case large: // the list is not complete: the owner answers with 431
	case method == "CONNECT": // section 8.5
		ok = ok && !hasPath && !hasScheme && host != ""
	default: // section 8.3.1
		ok = ok && method != "" && path != "" && scheme != ""
	}
	if r.active >= int(r.streams) || !ok {
		// Refused before anybody was told: what was remembered of it is that.
		s.closed, s.refused = true, true
		r.byID[id] = s
		return nil
	}
	r.byID[id], r.order = s, append(r.order, s)
	r.active++
	s.head, s.length = true, length
	line := fmt.Sprintf("request %s %s://%s%s%s", method, scheme, host, path, describe(regular))
	if large {
		line += " too large"
	}
	if !end {
		s.lines = append(s.lines, line)
		return nil
	}
	if length > 0 { // the owner is told of the request, then of what is wrong
		s.lines = append(s.lines, line)
		return r.streamFault(id, ProtocolError)
	}
	return r.ended(s, line+" end")
}

func (r *reference) response(s *refStream, fields []hpack.Field, large, end bool) error {
	pseudo, regular := splitPseudo(fields)
	length, ok := checkRefFields(regular)
	status, err := strconv.ParseUint(pseudo[":status"], 10, 16)
	switch {
	case !ok || large || len(pseudo) != 1 || err != nil || len(pseudo[":status"]) != 3,
		status < 100, status == 101, // section 8.6
		status < 200 && end: // section 8.1
		return r.streamFault(s.id, ProtocolError)
	case status < 200:
		s.lines = append(s.lines, fmt.Sprintf("informational %d%s", status, describe(regular)))
		return nil
	}
	s.head = true
	line := fmt.Sprintf("response %d%s", status, describe(regular))
	if end { // section 8.1.1: an answer without content may have a length
		s.length = -1
		return r.ended(s, line+" end")
	}
	s.length = length
	s.lines = append(s.lines, line)
	return nil
}

// splitPseudo divides fields at the last pseudo-header field of the front. It
// returns nil where one occurs twice, is not known or comes later (section 8.3).
func splitPseudo(fields []hpack.Field) (pseudo map[string]string, regular []hpack.Field) {
	pseudo = map[string]string{}
	i := 0
	for ; i < len(fields) && strings.HasPrefix(fields[i].Name, ":"); i++ {
		f := fields[i]
		switch f.Name {
		case ":method", ":path", ":scheme", ":authority", ":status":
		default:
			return nil, nil
		}
		if _, twice := pseudo[f.Name]; twice || !httpguts.ValidHeaderFieldValue(f.Value) {
			return nil, nil
		}
		pseudo[f.Name] = f.Value
	}
	return pseudo, fields[i:]
}

// checkRefFields checks sections 8.2.1 and 8.2.2, and returns the content-length.
func checkRefFields(fields []hpack.Field) (length int64, ok bool) {
	length = -1
	hosts := 0
	for _, f := range fields {
		if !httpguts.ValidHeaderFieldName(f.Name) || strings.ToLower(f.Name) != f.Name || !httpguts.ValidHeaderFieldValue(f.Value) {
			return 0, false
		}
		switch f.Name {
		case "connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade":
			return 0, false
		case "host": // RFC 9110 section 7.2
			if hosts++; hosts > 1 {
				return 0, false
			}
		case "te":
			if f.Value != "trailers" {
				return 0, false
			}
		case "content-length":
			n, err := strconv.ParseUint(f.Value, 10, 63)
			if err != nil || length >= 0 && length != int64(n) {
				return 0, false
			}
			length = int64(n)
		}
	}
	return length, true
}

func describe(fields []hpack.Field) (line string) {
	for _, f := range fields {
		line += fmt.Sprintf(" %s=%s", f.Name, f.Value)
		if f.Sensitive {
			line += "(sensitive)"
		}
	}
	return line
}

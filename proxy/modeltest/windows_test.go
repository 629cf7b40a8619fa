package modeltest

import (
	"slices"

	"golang.org/x/net/http2"
)

// windows are an endpoint's: what the engine allows it to send, and what it
// allows the engine. They are guarded by the endpoint's lock.
type windows struct {
	// What the engine allows.
	peerInitial  int64
	peerMaxFrame int
	peerLimit    uint32
	sendWindow   int64
	granted      int64   // the connection's window, all that ever was given
	sent         int64   // DATA, all that was ever sent
	boundaries   []int64 // values of sent at the end of frames that were not given back yet

	// What the engine is allowed.
	acknowledged int64 // SETTINGS_INITIAL_WINDOW_SIZE that the engine knows of
	current      int64 // as it was announced last
	limit        uint32
	pending      []pendingSettings
	recvWindow   int64 // of the connection
	unreturned   int64 // consumed, and not given back
	hoards       bool  // nothing is given back for now

}

// pendingSettings are settings that the engine has not acknowledged.
type pendingSettings struct {
	window int64 // 0: not in the frame
	limit  *uint32
}

func newWindows(style endStyle) windows {
	return windows{
		peerInitial: 65535, peerMaxFrame: 16384, peerLimit: 100, sendWindow: 65535, granted: 65535,
		acknowledged: 65535, current: 65535, limit: ^uint32(0), recvWindow: style.connWindow,
	}
}

// sendSettings announces settings. e.mu is held, or nobody else knows e yet.
func (e *endpoint) sendSettings(settings ...http2.Setting) {
	var p pendingSettings
	for _, s := range settings {
		switch s.ID {
		case http2.SettingInitialWindowSize:
			p.window = int64(s.Val)
			e.current = p.window
		case http2.SettingMaxConcurrentStreams:
			p.limit = &s.Val
		}
	}
	e.pending = append(e.pending, p)
	e.must(e.framer.WriteSettings(settings...))
}

// change announces settings in the middle of things.
func (e *endpoint) change(settings ...http2.Setting) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.dead == nil && !e.closing {
		e.sendSettings(settings...)
		e.changed.Broadcast()
	}
}

// settingsAcknowledged applies the oldest settings that are pending. e.mu is held.
func (e *endpoint) settingsAcknowledged() {
	if len(e.pending) == 0 {
		e.violate("an acknowledgement of SETTINGS that were not sent")
		return
	}
	p := e.pending[0]
	e.pending = e.pending[1:]
	if p.limit != nil {
		e.limit = *p.limit
	}
	if p.window == 0 {
		return
	}
	delta := p.window - e.acknowledged
	e.acknowledged = p.window
	for _, s := range e.streams {
		s.recvWindow += delta
		s.giveBack(0)
	}
}

// mostStreams is how many streams the engine may have open: it may not know of the
// last settings yet. e.mu is held.
func (e *endpoint) mostStreams() uint32 {
	most := e.limit
	for _, p := range e.pending {
		if p.limit != nil {
			most = max(most, *p.limit)
		}
	}
	return most
}

// slack is by how much the engine may exceed a stream's window as this end counts
// it: settings that it has applied, and whose acknowledgement is on its way. e.mu
// is held.
func (e *endpoint) slack() (most int64) {
	for _, p := range e.pending {
		if p.window > 0 {
			most = max(most, p.window-e.acknowledged)
		}
	}
	return most
}

// onData takes DATA. e.mu is held.
func (e *endpoint) onData(f *http2.DataFrame) {
	size := int64(f.Length)
	if e.recvWindow -= size; e.recvWindow < 0 {
		e.violate("DATA beyond the connection's window by %d bytes", -e.recvWindow)
	}
	if f.Length > 16384 {
		e.violate("a DATA frame of %d bytes", f.Length)
	}
	if e.style.eager {
		e.returned(size)
	}
	s := e.streams[f.StreamID]
	if s == nil || s.remoteEnd {
		if s != nil || e.ended[f.StreamID] == endedWell {
			e.violate("DATA on stream %d after its end", f.StreamID)
		} else if e.idle(f.StreamID) {
			e.violate("DATA on stream %d, which is idle", f.StreamID)
		}
		if !e.style.eager {
			e.returned(size)
		}
		return
	}
	// Without a byte in it a frame needs no window (RFC 9113 section 6.9.1).
	if s.recvWindow -= size; size > 0 && s.recvWindow+e.slack() < 0 {
		e.violate("DATA beyond the window of stream %d by %d bytes", s.id, -s.recvWindow)
	}
	s.push(event{data: slices.Clone(f.Data()), size: size, end: f.StreamEnded()})
}

// consumed gives back what an event took of the windows. e.mu is held.
func (s *stream) consumed(size int64) {
	if !s.e.style.eager {
		s.e.returned(size)
	}
	s.giveBack(size)
}

// giveBack gives the stream's window back, in steps. e.mu is held.
func (s *stream) giveBack(size int64) {
	e := s.e
	s.uncredited += size
	if s.uncredited == 0 || s.remoteEnd || e.dead != nil || e.streams[s.id] != s {
		return
	}
	if s.recvWindow <= e.acknowledged/2 || s.uncredited >= e.acknowledged/2 {
		e.must(e.framer.WriteWindowUpdate(s.id, uint32(s.uncredited)))
		s.recvWindow += s.uncredited
		s.uncredited = 0
		e.changed.Broadcast()
	}
}

// returned gives the connection's window back, in steps. e.mu is held.
func (e *endpoint) returned(size int64) {
	e.unreturned += size
	if !e.hoards && e.unreturned >= e.style.connWindow/3 && e.dead == nil {
		e.must(e.framer.WriteWindowUpdate(0, uint32(e.unreturned)))
		e.recvWindow += e.unreturned
		e.unreturned = 0
		e.changed.Broadcast()
	}
}

// sentData counts a frame of DATA. e.mu is held.
func (e *endpoint) sentData(size int64) {
	e.sendWindow -= size
	e.sent += size
	if size > 0 {
		e.boundaries = append(e.boundaries, e.sent)
	}
}

// onSettings applies the engine's settings. e.mu is held.
func (e *endpoint) onSettings(f *http2.SettingsFrame) {
	_ = f.ForeachSetting(func(s http2.Setting) error {
		switch s.ID {
		case http2.SettingInitialWindowSize:
			for _, st := range e.streams {
				st.sendWindow += int64(s.Val) - e.peerInitial
			}
			e.peerInitial = int64(s.Val)
		case http2.SettingMaxConcurrentStreams:
			e.peerLimit = s.Val
		case http2.SettingMaxFrameSize:
			e.peerMaxFrame = int(s.Val)
		case http2.SettingHeaderTableSize:
			e.enc.SetMaxDynamicTableSizeLimit(s.Val)
		}
		return nil
	})
}

// onWindowUpdate takes a window that the engine gives back. e.mu is held.
func (e *endpoint) onWindowUpdate(f *http2.WindowUpdateFrame) {
	inc := int64(f.Increment)
	if f.StreamID != 0 {
		s := e.streams[f.StreamID]
		if s == nil {
			if e.idle(f.StreamID) {
				e.violate("WINDOW_UPDATE on stream %d, which is idle", f.StreamID)
			}
			return
		}
		if s.sendWindow += inc; e.w.plan.steady() && s.sendWindow > e.peerInitial {
			e.violate("the window of stream %d is %d, it was never given more than %d", s.id, s.sendWindow, e.peerInitial)
		}
		return
	}
	e.sendWindow += inc
	e.granted += inc
	if !e.w.plan.steady() {
		return
	}
	full := e.w.plan.connWindow()
	switch back := e.granted - full; {
	case back > 0:
		i := slices.Index(e.boundaries, back)
		if i < 0 {
			e.violate("the connection's window was given back to byte %d of %d, which is not the end of a frame", back, e.sent)
			return
		}
		e.boundaries = e.boundaries[i+1:]
	case e.sendWindow > full:
		e.violate("the connection's window is %d, it was never given more than %d", e.sendWindow, full)
	}
}

// checkWindows checks that the engine gave everything back, once nothing moves.
func (e *endpoint) checkWindows() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if full := e.w.plan.connWindow(); e.w.plan.steady() && e.sendWindow <= full-full/4 {
		e.violate("the connection's window is %d of %d, and nothing is under way", e.sendWindow, full)
	}
	if len(e.pending) > 0 {
		e.violate("%d SETTINGS frames are not acknowledged", len(e.pending))
	}
}

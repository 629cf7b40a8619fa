package modeltest

import (
	"fmt"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// stream is a stream of an endpoint. Its fields are guarded by the endpoint's
// lock.
type stream struct {
	e      *endpoint
	id     uint32
	opened time.Time

	sendWindow, recvWindow int64
	uncredited             int64 // bytes consumed and not given back

	events    []event
	localEnd  bool
	remoteEnd bool
	over      *streamEnd // how it ended early; nil: it did not
	abandoned bool       // nobody reads it any more
	arrived   int        // bytes of the answer that the client has
}

// event is something that came.
type event struct {
	fields []hpack.HeaderField
	data   []byte
	size   int64 // what it takes of the windows
	end    bool
}

// streamEnd says how a stream ended early. It is an error.
type streamEnd struct {
	reset   bool // by RST_STREAM with code
	local   bool // that was our own
	code    http2.ErrCode
	refused bool  // by a GOAWAY with a lower last id
	conn    error // with the connection
}

func (s *streamEnd) Error() string {
	switch {
	case s.local:
		return "reset by this end with " + s.code.String()
	case s.reset:
		return "reset with " + s.code.String()
	case s.refused:
		return "beyond the last id of a GOAWAY"
	}
	return fmt.Sprintf("the connection ended: %v", s.conn)
}

// newStream makes an open stream. e.mu is held.
func (e *endpoint) newStream(id uint32) *stream {
	s := &stream{e: e, id: id, sendWindow: e.peerInitial, recvWindow: e.acknowledged}
	e.streams[id] = s
	return s
}

// end notes that the stream ended early. e.mu is held.
func (s *stream) end(why *streamEnd) {
	if s.over == nil {
		s.over = why
	}
}

// err returns how the stream ended early. e.mu is held.
func (s *stream) err() error {
	if s.over != nil {
		return s.over
	}
	if s.e.dead != nil && !(s.localEnd && s.remoteEnd) {
		return &streamEnd{conn: s.e.dead}
	}
	return nil
}

// push queues an event. e.mu is held.
func (s *stream) push(ev event) {
	if ev.end {
		s.remoteEnd = true
	}
	if s.abandoned {
		s.consumed(ev.size)
	} else {
		s.events = append(s.events, ev)
	}
	s.closeIfDone()
}

// closeIfDone forgets a stream both of whose ends have come. e.mu is held.
func (s *stream) closeIfDone() {
	if s.localEnd && s.remoteEnd && s.e.streams[s.id] == s {
		s.e.drop(s, endedWell)
	}
}

// recv waits for the next event. What came before an early end comes first, but
// not before an end of our own.
func (s *stream) recv() (event, error) {
	e := s.e
	e.mu.Lock()
	defer e.mu.Unlock()
	for {
		if s.over != nil && s.over.local {
			return event{}, s.over
		}
		if len(s.events) > 0 {
			ev := s.events[0]
			s.events = s.events[1:]
			s.consumed(ev.size)
			return ev, nil
		}
		if err := s.err(); err != nil {
			return event{}, err
		}
		e.changed.Wait()
	}
}

// abandon says that nobody will read the stream any more.
func (s *stream) abandon() {
	s.e.mu.Lock()
	defer s.e.mu.Unlock()
	s.abandoned = true
	for _, ev := range s.events {
		s.consumed(ev.size)
	}
	s.events = nil
}

// headers sends a header section.
func (s *stream) headers(fields []hpack.HeaderField, end bool) error {
	s.e.mu.Lock()
	defer s.e.mu.Unlock()
	if err := s.err(); err != nil {
		return err
	}
	s.writeHeaders(fields, end)
	return nil
}

func (s *stream) writeHeaders(fields []hpack.HeaderField, end bool) {
	s.e.writeBlock(s.id, fields, end)
	s.localEnd = s.localEnd || end
	s.closeIfDone()
}

// send sends bytes as the windows allow, in frames of random sizes. It returns how
// many went out before the stream ended early.
func (s *stream) send(p []byte, end bool) (sent int, err error) {
	e := s.e
	e.mu.Lock()
	defer e.mu.Unlock()
	for {
		if err := s.err(); err != nil {
			return sent, err
		}
		if len(p) == 0 && !end {
			return sent, nil
		}
		n := int(min(int64(len(p)), s.sendWindow, e.sendWindow, int64(e.peerMaxFrame), int64(1+e.rng.IntN(e.style.chunk))))
		if n <= 0 && len(p) > 0 {
			e.changed.Wait()
			continue
		}
		last := end && n == len(p) && (n == 0 || e.rng.IntN(2) == 0)
		var pad []byte
		if room := min(s.sendWindow, e.sendWindow, int64(e.peerMaxFrame)) - int64(n) - 1; room > 0 && e.rng.Float64() < e.style.padding {
			pad = make([]byte, 1+e.rng.IntN(int(min(room, 255))))
		}
		e.must(e.framer.WriteDataPadded(s.id, last, p[:n], pad))
		size := int64(n)
		if pad != nil {
			size += int64(1 + len(pad))
		}
		s.sendWindow -= size
		e.sentData(size)
		sent += n
		p = p[n:]
		e.changed.Broadcast()
		if last {
			s.localEnd = true
			s.closeIfDone()
			return sent, nil
		}
	}
}

// reset ends the stream with RST_STREAM, if it is still open.
func (s *stream) reset(code http2.ErrCode) bool {
	e := s.e
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.dead != nil || e.streams[s.id] != s {
		return false
	}
	e.must(e.framer.WriteRSTStream(s.id, code))
	s.end(&streamEnd{reset: true, local: true, code: code})
	e.drop(s, endedReset)
	return true
}

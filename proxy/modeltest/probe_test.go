package modeltest

import (
	"bytes"
	"strconv"
	"time"

	"golang.org/x/net/http2/hpack"
)

const probePath = "/model.Test/Probe"

// probeRounds is how often a probe sends a step of the window and gets one back.
const probeRounds = 6

// probe checks windows to the byte, once nothing else is under way: the engine gives
// a stream's back in steps, so after steps that were all taken nothing may be
// missing; and it uses a connection's up to the last byte.
func (w *world) probe() {
	if w.plan.shutdown > 0 || !w.plan.steady() || w.plan.scarce() {
		return
	}
	for _, c := range w.clients {
		e, err := c.connection()
		if err != nil {
			w.violate(nil, "%s cannot connect any more: %v", c.name, err)
			continue
		}
		// A proxy may be about to end a connection that is idle or old; a client
		// that was told so opens another one.
		s, err := e.open(probeFields(e), false)
		if err != nil {
			c.forget(e)
			continue
		}
		w.probeOn(s)
		s.abandon()
	}
}

func probeFields(e *endpoint) []hpack.HeaderField {
	return []hpack.HeaderField{
		{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "http"},
		{Name: ":path", Value: probePath}, {Name: ":authority", Value: service},
		{Name: "content-type", Value: "application/grpc"}, {Name: "te", Value: "trailers"},
		{Name: "x-size", Value: strconv.FormatInt(e.style.connWindow+50_000, 10)},
	}
}

// step is how many bytes of a stream's window the engine gives back at once.
func (p *plan) step() int { return int(p.http2.InitialStreamWindow / 4) }

// probeMessage is a message of n bytes with its prefix.
func probeMessage(n int) []byte { return body(uint64(n), []int{n - 5}) }

func (w *world) probeOn(s *stream) {
	e, step := s.e, probeMessage(w.plan.step())
	e.padNoMore()
	for round := range probeRounds {
		if _, err := s.send(step, false); err != nil {
			w.violate(nil, "%s: a probe ends in round %d: %v", e.name, round, err)
			return
		}
		if !s.takeAll(step) {
			w.violate(nil, "%s: a probe does not come back in round %d", e.name, round)
			return
		}
	}
	time.Sleep(5 * time.Second)
	s.checkFull()

	// A connection's window that is not given back is used up.
	e.mu.Lock()
	e.hoards = true
	s.recvWindow += 4 << 20
	e.must(e.framer.WriteWindowUpdate(s.id, 4<<20))
	e.changed.Broadcast()
	e.mu.Unlock()
	if _, err := s.send(nil, true); err != nil {
		w.violate(nil, "%s: a probe cannot be ended: %v", e.name, err)
		return
	}
	time.Sleep(20 * time.Second)
	e.mu.Lock()
	if e.dead != nil || e.recvWindow != 0 {
		e.violate("%d bytes of the connection's window are not used, and there is more to send (%v)", e.recvWindow, e.dead)
	}
	e.hoards = false
	e.returned(0)
	e.mu.Unlock()
	if !s.takeAll(probeMessage(int(e.style.connWindow + 50_000))) {
		w.violate(nil, "%s: a large probe does not come whole", e.name)
	}
	for {
		ev, err := s.recv()
		if err != nil || ev.end {
			if got := field(ev.fields, "grpc-status"); err != nil || got != "0" {
				w.violate(nil, "%s: a probe ends with status %q: %v", e.name, got, err)
			}
			return
		}
	}
}

// padNoMore has DATA frames without padding: it is given back in steps of its own.
func (e *endpoint) padNoMore() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.style.padding = 0
}

// takeAll reads until want has come, and says whether that came and nothing else.
func (s *stream) takeAll(want []byte) bool {
	for len(want) > 0 {
		ev, err := s.recv()
		if err != nil || !bytes.HasPrefix(want, ev.data) {
			return false
		}
		want = want[len(ev.data):]
	}
	return true
}

// checkFull checks that all of the stream's window was given back.
func (s *stream) checkFull() {
	s.e.mu.Lock()
	defer s.e.mu.Unlock()
	if missing := s.e.peerInitial - s.sendWindow; missing != 0 && s.e.dead == nil {
		s.e.violate("%d bytes of the window of stream %d were taken and not given back", missing, s.id)
	}
}

// answerProbe sends each step back, and at last as much as it was asked for.
func (in *instance) answerProbe(s *stream, fields []hpack.HeaderField) {
	step := probeMessage(in.w.plan.step())
	head := []hpack.HeaderField{{Name: ":status", Value: "200"}, {Name: "content-type", Value: "application/grpc"}}
	if s.headers(head, false) != nil {
		return
	}
	s.e.padNoMore()
	for range probeRounds {
		if !s.takeAll(step) {
			return // the client says what is missing
		}
		if _, err := s.send(step, false); err != nil {
			return
		}
	}
	for {
		ev, err := s.recv()
		if err != nil {
			return
		}
		if ev.end {
			break
		}
	}
	s.checkFull()
	n, _ := strconv.Atoi(field(fields, "x-size"))
	if _, err := s.send(probeMessage(n), false); err == nil {
		_ = s.headers([]hpack.HeaderField{{Name: "grpc-status", Value: "0"}}, true)
	}
}

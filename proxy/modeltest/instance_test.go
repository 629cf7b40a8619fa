package modeltest

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/pillion-proxy/pillion/proxy/inbound"
)

// instance is an instance of the service: an app, and perhaps the sidecar beside
// it.
type instance struct {
	w        *world
	index    int
	name     string
	refusing atomic.Int32
	restarts sync.Mutex // held while the sidecar restarts

	sidecar *inbound.Proxy // nil: none

	mu  sync.Mutex
	all []*endpoint
}

func (in *instance) appAddress() string { return fmt.Sprintf("app%d:1", in.index) }

// reachedAt is the address in the registry.
func (in *instance) reachedAt() string {
	if in.w.plan.sidecars {
		return fmt.Sprintf("side%d:1", in.index)
	}
	return in.appAddress()
}

func (in *instance) accept(nc *end) {
	in.mu.Lock()
	defer in.mu.Unlock()
	r := in.w.rng(in.name+" connection", len(in.all))
	e := newEndpoint(in.w, nc.c.name, nc, true, in.w.plan.style(r), r)
	e.onStream = in.serve
	in.all = append(in.all, e)
	e.start()
}

func (in *instance) connections() []*endpoint {
	in.mu.Lock()
	defer in.mu.Unlock()
	return append([]*endpoint(nil), in.all...)
}

func (in *instance) change(s http2.Setting) {
	for _, e := range in.connections() {
		e.change(s)
	}
}

// attempt is an RPC as an instance saw it. It is guarded by the RPC's lock.
type attempt struct {
	serial      int
	e           *endpoint
	stream      uint32
	at          time.Time
	unprocessed string // why the instance did not begin it; "": it did
	got         int    // bytes of the request
	gotEnd      bool
	sent        int  // bytes of the answer handed to the connection
	complete    bool // the answer is
	status      string
	reset       *http2.ErrCode // it was reset so by the instance
	over        string         // why it ended early
}

func (a *attempt) String() string {
	s := fmt.Sprintf("attempt %d on stream %d of %s at %v: got %d bytes (end: %v), sent %d (complete: %v)",
		a.serial, a.stream, a.e.name, a.at, a.got, a.gotEnd, a.sent, a.complete)
	if a.unprocessed != "" {
		s += ", not processed: " + a.unprocessed
	}
	return s
}

// rpcOf finds the RPC of a request.
func (w *world) rpcOf(fields []hpack.HeaderField) *rpc {
	id, err := strconv.Atoi(strings.TrimPrefix(field(fields, ":path"), "/model.Test/R"))
	if err != nil || id >= len(w.plan.rpcs) {
		return nil
	}
	return w.plan.rpcs[id]
}

// attempted notes that an RPC came to an instance.
func (r *rpc) attempted(w *world, e *endpoint, stream uint32, unprocessed string) *attempt {
	r.mu.Lock()
	a := &attempt{serial: len(r.attempts), e: e, stream: stream, at: time.Now(), unprocessed: unprocessed}
	r.attempts = append(r.attempts, a)
	r.mu.Unlock()
	r.note(w, "came to %s, stream %d: attempt %d %s", e.name, stream, a.serial, unprocessed)
	return a
}

// unprocessed notes a request that an instance never looked at.
func (w *world) unprocessed(e *endpoint, fields []hpack.HeaderField, why string) {
	if r := w.rpcOf(fields); r != nil {
		r.attempted(w, e, 0, why)
	}
}

var errUnexpected = errors.New("the request is not what the client sent")

// serve answers an RPC as its plan says.
func (in *instance) serve(s *stream, fields []hpack.HeaderField) {
	w := in.w
	defer s.abandon()
	if field(fields, ":path") == probePath {
		in.answerProbe(s, fields)
		return
	}
	r := w.rpcOf(fields)
	if r == nil {
		w.violate(nil, "%s got an RPC that nobody sent: %v", in.name, fields)
		return
	}
	a := r.attempted(w, s.e, s.id, "")
	r.checkFields(w, fields, "m-", r.metadata, "the request's metadata")
	r.checkTimeout(w, a, field(fields, "grpc-timeout"))
	switch {
	case in.refusing.Load() > 0:
		r.refuse(s, a, "it refuses")
		return
	case r.ends == endsReset && r.code == http2.ErrCodeRefusedStream:
		r.refuse(s, a, "it always refuses this one")
		return
	}
	if err := r.respond(w, s, a); err != nil {
		r.note(w, "attempt %d: %v", a.serial, err)
		r.set(func() { a.over = err.Error() })
	}
}

func (r *rpc) set(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
}

func (r *rpc) refuse(s *stream, a *attempt, why string) {
	r.set(func() { a.unprocessed = why })
	s.reset(http2.ErrCodeRefusedStream)
}

// checkTimeout checks what the instance is told of the deadline: what remained
// when the RPC was sent on, and a little more, but never more than the caller gave.
func (r *rpc) checkTimeout(w *world, a *attempt, told string) {
	if r.timeout == 0 {
		if told != "" {
			w.violate(r, "the instance is told a timeout of %s, the caller gave none", told)
		}
		return
	}
	d, err := parseTimeout(told)
	if err != nil {
		w.violate(r, "the instance is told a timeout of %q: %v", told, err)
		return
	}
	r.mu.Lock()
	elapsed := time.Since(r.outcome.began)
	r.mu.Unlock()
	if d > r.timeout || d < r.timeout-elapsed {
		w.violate(r, "the instance is told a timeout of %v, the caller gave %v and %v are over", d, r.timeout, elapsed)
	}
}

func parseTimeout(s string) (time.Duration, error) {
	if s == "" {
		return 0, errors.New("there is none")
	}
	n, err := strconv.ParseInt(s[:len(s)-1], 10, 64)
	unit := map[byte]time.Duration{'H': time.Hour, 'M': time.Minute, 'S': time.Second, 'm': time.Millisecond, 'u': time.Microsecond, 'n': 1}
	return time.Duration(n) * unit[s[len(s)-1]], err
}

// respond answers, as the RPC's plan says.
func (r *rpc) respond(w *world, s *stream, a *attempt) error {
	if r.ends == endsAtOnce {
		return r.finish(s, a, true)
	}
	if r.ends != endsEarly && r.kind != bidi {
		if err := r.read(w, s, a, -1); err != nil {
			return err
		}
	}
	time.Sleep(r.think)
	if r.ends == endsReset {
		return r.resetAs(s, a)
	}
	if r.infoHead {
		if err := s.headers([]hpack.HeaderField{{Name: ":status", Value: "103"}}, false); err != nil {
			return err
		}
	}
	if err := s.headers(r.answerHead(a), false); err != nil {
		return err
	}
	p := r.answer(a.serial)
	for i := range r.answers {
		if r.ends != endsWell && i == r.after {
			return r.breakOff(s, a, p)
		}
		if r.kind == bidi && r.ends != endsEarly {
			upTo := -1 // the end
			if i < len(r.requests)-1 && i < len(r.answers)-1 {
				upTo = boundary(r.requests, i+1)
			}
			if err := r.read(w, s, a, upTo); err != nil {
				return err
			}
		}
		if i > 0 {
			time.Sleep(r.think)
		}
		if err := r.answerUpTo(s, a, p, boundary(r.answers, i+1)); err != nil {
			return err
		}
	}
	return r.finish(s, a, false)
}

func (r *rpc) answerUpTo(s *stream, a *attempt, p []byte, to int) error {
	n, err := s.send(p[a.sent:to], false)
	r.set(func() { a.sent += n })
	return err
}

// breakOff ends an answer that does not end well.
func (r *rpc) breakOff(s *stream, a *attempt, p []byte) error {
	switch r.ends {
	case endsEarly:
		return r.finish(s, a, false)
	case endsResetMid:
		if err := r.answerUpTo(s, a, p, boundary(r.answers, r.after)+3); err != nil {
			return err
		}
	case endsDying:
		c := s.e.nc.c
		s.e.w.disturb(troubleConn|troubleDial, time.Millisecond)
		c.harm(fmt.Sprintf("RPC %d", r.id))
		c.reset()
		return nil
	}
	return r.resetAs(s, a)
}

func (r *rpc) resetAs(s *stream, a *attempt) error {
	r.set(func() { a.reset = &r.code })
	s.reset(r.code)
	return nil
}

// answerHead is the header section of an answer.
func (r *rpc) answerHead(a *attempt) []hpack.HeaderField {
	f := []hpack.HeaderField{
		{Name: ":status", Value: "200"}, {Name: "content-type", Value: "application/grpc"},
		{Name: "x-attempt", Value: strconv.Itoa(a.serial)},
	}
	if a.e.w.plan.sidecars {
		f = append(f, hpack.HeaderField{Name: "pillion-flags", Value: "UF"}) // an app has no say in that
	}
	return append(f, r.headers...)
}

// finish ends an answer, or is all of it.
func (r *rpc) finish(s *stream, a *attempt, only bool) error {
	var f []hpack.HeaderField
	if only {
		f = r.answerHead(a)
	} else {
		f = append(f, hpack.HeaderField{Name: "x-attempt", Value: strconv.Itoa(a.serial)})
	}
	if a.e.w.plan.sidecars {
		f = append(f, hpack.HeaderField{Name: "pillion-flags", Value: "UF"})
	}
	f = append(f, hpack.HeaderField{Name: "grpc-status", Value: strconv.Itoa(r.status)})
	if r.message != "" {
		f = append(f, hpack.HeaderField{Name: "grpc-message", Value: r.grpcMessage()})
	}
	r.set(func() { a.complete, a.status = true, strconv.Itoa(r.status) })
	if err := s.headers(append(f, r.trailers...), true); err != nil {
		r.set(func() { a.complete = false })
		return err
	}
	return nil
}

// grpcMessage is the message as it is written in a field.
func (r *rpc) grpcMessage() string {
	return strings.NewReplacer("%", "%25", "ä", "%C3%A4").Replace(r.message)
}

// read reads the request up to a byte, or to its end (-1), and compares it.
func (r *rpc) read(w *world, s *stream, a *attempt, upTo int) error {
	want := r.request()
	for n := 0; !a.gotEnd && (upTo < 0 || a.got < upTo); n++ {
		ev, err := s.recv()
		if err != nil {
			return err
		}
		if a.got+len(ev.data) > len(want) || !bytes.Equal(ev.data, want[a.got:a.got+len(ev.data)]) {
			w.violate(r, "bytes %d to %d of the request are not those that the client sent (%d in all)", a.got, a.got+len(ev.data), len(want))
			return errUnexpected
		}
		r.set(func() { a.got, a.gotEnd = a.got+len(ev.data), ev.end })
		if ev.end && a.got != len(want) {
			w.violate(r, "the request ends after %d of %d bytes", a.got, len(want))
			return errUnexpected
		}
		if n < 5 {
			time.Sleep(r.slowReading)
		}
	}
	return nil
}

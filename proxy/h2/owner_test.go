package h2

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
)

// recorder is an owner that writes down what it is told, and checks that it is
// told so in an order that the contract allows.
type recorder struct {
	t testing.TB
	s Stream
	// keep: the bytes that come are not given back at once.
	keep bool
	// react, if set, is called after each event, with no lock held.
	react func(b *Batch, o *recorder, event string)

	mu     sync.Mutex
	gen    uint32
	events []string
	data   []byte
	taken  int
	ended  bool // the peer's end has come
	reset  Reset
	wasRST bool
	closed bool
}

func newRecorder(t testing.TB) *recorder {
	o := &recorder{t: t}
	o.s.Init(o)
	return o
}

func (o *recorder) note(b *Batch, gen uint32, event string) {
	o.mu.Lock()
	if o.gen == 0 {
		o.gen = gen
	}
	if gen != o.gen {
		o.t.Errorf("an event of life %d in life %d: %s", gen, o.gen, event)
	}
	if o.closed {
		o.t.Errorf("after OnClosed: %s", event)
	}
	o.events = append(o.events, event)
	o.closed = event == "closed"
	react := o.react
	o.mu.Unlock()
	if react != nil {
		react(b, o, event)
	}
}

func (o *recorder) noteEnd(event string, end bool) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ended || o.wasRST {
		o.t.Errorf("after the stream's end: %s", event)
	}
	if end {
		o.ended = true
		event += " end"
	}
	return event
}

func (o *recorder) OnHeaders(b *Batch, s *Stream, gen uint32, h *Head, end bool) {
	line := [...]string{"request", "informational", "response", "trailers"}[h.Kind]
	switch h.Kind {
	case HeadRequest:
		line += fmt.Sprintf(" %s %s://%s%s", h.Method, h.Scheme, h.Authority, h.Path)
	case HeadInformational, HeadResponse:
		line += fmt.Sprintf(" %d", h.Status)
	}
	for _, f := range h.Regular {
		line += fmt.Sprintf(" %s=%s", f.Name, f.Value)
		if f.Sensitive {
			line += "(sensitive)"
		}
	}
	if h.TooLarge {
		line += " too large"
	}
	o.note(b, gen, o.noteEnd(line, end))
}

func (o *recorder) OnData(b *Batch, s *Stream, gen uint32, p []byte, end bool) {
	line := o.noteEnd(fmt.Sprintf("data %d", len(p)), end)
	o.mu.Lock()
	o.data = append(o.data, p...)
	if !o.keep {
		s.Consume(b, len(p))
	}
	o.mu.Unlock()
	o.note(b, gen, line)
}

func (o *recorder) OnReset(b *Batch, s *Stream, gen uint32, r Reset) {
	o.mu.Lock()
	if o.wasRST {
		o.t.Errorf("OnReset twice: %v", r)
	}
	o.reset, o.wasRST = r, true
	o.mu.Unlock()
	line := "reset " + [...]string{"peer", "conn", "malformed", "over budget", "goaway"}[r.Cause] + " " + r.Code.String()
	if r.Unprocessed {
		line += " unprocessed"
	}
	o.note(b, gen, line)
}

func (o *recorder) OnTaken(b *Batch, s *Stream, gen uint32, n int) {
	o.mu.Lock()
	o.taken += n
	o.mu.Unlock()
	o.note(b, gen, fmt.Sprintf("taken %d", n))
}

func (o *recorder) OnClosed(b *Batch, s *Stream, gen uint32) { o.note(b, gen, "closed") }

// log returns the events since it was last asked.
func (o *recorder) log() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	l := o.events
	o.events = nil
	return l
}

// watcher is a handler that writes down what it is told, and gives each request
// a recorder.
type watcher struct {
	t testing.TB
	// fresh, if set, prepares the recorder of a new request.
	fresh func(o *recorder)
	// slots, if set, is called by OnConnSlots.
	slots func(b *Batch, c *Conn)

	mu      sync.Mutex
	events  []string
	streams []*recorder
	closed  bool
	err     error
}

func (w *watcher) NewStream(c *Conn) *Stream {
	o := newRecorder(w.t)
	if w.fresh != nil {
		w.fresh(o)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.streams = append(w.streams, o)
	return &o.s
}

func (w *watcher) note(event string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	// That it drains may be told by who has called Shutdown, while the reader ends it.
	if w.closed && event != "draining" {
		w.t.Errorf("after OnConnClosed: %s", event)
	}
	w.events = append(w.events, event)
}

func (w *watcher) OnConnSlots(b *Batch, c *Conn) {
	w.note("slots")
	if w.slots != nil {
		w.slots(b, c)
	}
}

func (w *watcher) OnConnDraining(*Batch, *Conn) { w.note("draining") }

func (w *watcher) OnConnClosed(b *Batch, c *Conn, err error) {
	if err == nil {
		w.t.Error("OnConnClosed without an error")
	}
	w.note(fmt.Sprintf("closed: %v", err))
	w.mu.Lock()
	w.closed, w.err = true, err
	w.mu.Unlock()
}

// log returns the events since it was last asked.
func (w *watcher) log() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	l := w.events
	w.events = nil
	return l
}

// stream returns the recorder of the i-th request.
func (w *watcher) stream(i int) *recorder {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if i >= len(w.streams) {
		w.t.Fatalf("%d streams were opened, so there is no stream %d", len(w.streams), i)
	}
	return w.streams[i]
}

// fields makes header fields of names and values, which alternate.
func fields(pairs ...string) (list []hpack.Field) {
	for i := 0; i < len(pairs); i += 2 {
		list = append(list, hpack.Field{Name: pairs[i], Value: pairs[i+1]})
	}
	return list
}

// want compares lines, of which those wanted may end in "*" for any rest.
func want(t testing.TB, what string, got []string, lines ...string) {
	t.Helper()
	same := slices.EqualFunc(got, lines, func(g, w string) bool {
		if w, open := strings.CutSuffix(w, "*"); open {
			return strings.HasPrefix(g, w)
		}
		return g == w
	})
	if !same {
		for i, g := range got {
			got[i] = g[:min(len(g), 200)]
		}
		t.Errorf("%s:\n got  %q\n want %q", what, got, lines)
	}
}

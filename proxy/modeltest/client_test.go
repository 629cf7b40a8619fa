package modeltest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// client is a caller. It has one connection at a time.
type client struct {
	w     *world
	index int
	name  string

	connecting chan struct{} // a lock that may be held for long
	mu         sync.Mutex
	now        *endpoint
	all        []*endpoint
}

func newClient(w *world, i int) *client {
	return &client{w: w, index: i, name: fmt.Sprintf("client%d", i), connecting: make(chan struct{}, 1)}
}

// outcome is how an RPC ended for its client.
type outcome struct {
	how     howEnded
	at      time.Time
	began   time.Time
	conn    *endpoint
	status  string
	message string
	flag    string
	http    string
	heads   int
	serial  int // of the attempt whose answer it is; -1: it does not say
	got     int // bytes of the answer
	code    http2.ErrCode
	why     string
}

type howEnded uint8

const (
	notSent howEnded = iota
	answered
	wasReset
	connLost
	notTaken // beyond a GOAWAY's last id
	cancelled
)

var howNames = [...]string{"not sent", "answered", "reset", "connection lost", "not taken", "cancelled"}

// connection returns the one to open streams on.
func (c *client) connection() (*endpoint, error) {
	c.connecting <- struct{}{}
	defer func() { <-c.connecting }()
	c.mu.Lock()
	now := c.now
	c.mu.Unlock()
	if now != nil {
		return now, nil
	}
	nc, err := c.w.net.dial(context.Background(), c.name, outboundAddress)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.w.rng(c.name+" connection", len(c.all))
	c.now = newEndpoint(c.w, nc.c.name, nc, false, c.w.plan.style(r), r)
	c.all = append(c.all, c.now)
	c.now.start()
	return c.now, nil
}

// forget has the next RPC use another connection.
func (c *client) forget(e *endpoint) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.now == e {
		c.now = nil
	}
}

// leave ends the present connection.
func (c *client) leave(abruptly bool) {
	c.mu.Lock()
	e := c.now
	c.now = nil
	c.mu.Unlock()
	if e == nil {
		return
	}
	if abruptly {
		e.nc.c.harm("the client left")
		_ = e.nc.Close()
		return
	}
	e.goAwayNow(http2.ErrCodeNo, false)
}

func (c *client) change(s http2.Setting) {
	c.mu.Lock()
	e := c.now
	c.mu.Unlock()
	if e != nil {
		e.change(s)
	}
}

func (c *client) connections() []*endpoint {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]*endpoint(nil), c.all...)
}

// run plays an RPC.
func (c *client) run(r *rpc) {
	if r.left {
		return
	}
	w := c.w
	time.Sleep(time.Until(w.began.Add(r.start)))
	var s *stream
	for range 5 {
		e, err := c.connection()
		if err != nil {
			r.note(w, "%s cannot connect: %v", c.name, err)
			break
		}
		if s, err = e.open(r.requestFields(), false); err == nil {
			break
		}
		r.note(w, "cannot be opened on %s: %v", e.name, err)
		c.forget(e)
	}
	if s == nil {
		return
	}
	r.note(w, "stream %d of %s", s.id, s.e.name)
	r.mu.Lock()
	r.outcome = outcome{began: s.opened, conn: s.e, serial: -1}
	r.mu.Unlock()
	if r.cancelAfter > 0 {
		timer := time.AfterFunc(r.cancelAfter, func() {
			if s.reset(http2.ErrCodeCancel) {
				r.note(w, "cancelled")
			}
		})
		defer timer.Stop()
	}
	w.running.Go(func() { r.sendRequest(w, s) })
	r.receive(w, s)
	s.abandon()
}

// requestFields are the header section of the request.
func (r *rpc) requestFields() []hpack.HeaderField {
	f := []hpack.HeaderField{
		{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "http"},
		{Name: ":path", Value: r.path}, {Name: ":authority", Value: service},
		{Name: "content-type", Value: "application/grpc"}, {Name: "te", Value: "trailers"},
	}
	if r.timeout > 0 {
		f = append(f, hpack.HeaderField{Name: "grpc-timeout", Value: fmt.Sprintf("%du", r.timeout.Microseconds())})
	}
	return append(f, r.metadata...)
}

// sendRequest sends the messages; each of a bidirectional stream once the one
// before was answered.
func (r *rpc) sendRequest(w *world, s *stream) {
	p := r.request()
	for i := range r.requests {
		if i > 0 {
			time.Sleep(r.pause)
			if r.kind == bidi {
				s.awaitProgress(boundary(r.answers, min(i, len(r.answers)-1)))
			}
		}
		last := i == len(r.requests)-1
		from, to := boundary(r.requests, i), boundary(r.requests, i+1)
		if _, err := s.send(p[from:to], last && !r.endApart); err != nil {
			r.note(w, "the request ends early: %v", err)
			return
		}
	}
	if r.endApart {
		time.Sleep(r.pause)
		_, _ = s.send(nil, true)
	}
	r.note(w, "the request is sent")
}

// receive reads the answer and notes how it ends.
func (r *rpc) receive(w *world, s *stream) {
	o := r.outcome
	var want []byte
	for n := 0; ; n++ {
		ev, err := s.recv()
		if err != nil {
			o.failed(err)
			break
		}
		if ev.fields != nil {
			r.head(w, &o, ev)
			if o.serial >= 0 && want == nil {
				want = r.answer(o.serial)
			}
		}
		if len(ev.data) > 0 {
			if o.got+len(ev.data) > len(want) || !bytes.Equal(ev.data, want[o.got:o.got+len(ev.data)]) {
				w.violate(r, "bytes %d to %d of the answer are not those of attempt %d (%d in all)", o.got, o.got+len(ev.data), o.serial, len(want))
			}
			o.got += len(ev.data)
			s.progress(o.got)
		}
		if ev.end {
			o.how = answered
			break
		}
		if n < 5 {
			time.Sleep(r.slowness)
		}
	}
	o.at = time.Now()
	r.note(w, "ends: %v", &o)
	r.mu.Lock()
	r.outcome = o
	r.mu.Unlock()
}

// head takes a header section of the answer.
func (r *rpc) head(w *world, o *outcome, ev event) {
	get := func(name string) string { return field(ev.fields, name) }
	status := get(":status")
	if len(status) == 3 && status[0] == '1' {
		return
	}
	o.heads++
	if status != "" {
		o.http = status
	}
	if serial := get("x-attempt"); serial != "" {
		_, _ = fmt.Sscan(serial, &o.serial)
	}
	if o.heads == 1 && o.serial >= 0 {
		r.checkFields(w, ev.fields, "h-", r.headers, "the headers of the answer")
	}
	if ev.end {
		o.status, o.message, o.flag = get("grpc-status"), get("grpc-message"), get("pillion-flags")
		if o.flag == "" {
			r.checkFields(w, ev.fields, "t-", r.trailers, "the trailers")
		}
	}
}

// checkFields checks that metadata arrived unchanged and in order.
func (r *rpc) checkFields(w *world, got []hpack.HeaderField, prefix string, want []hpack.HeaderField, what string) {
	i := 0
	for _, f := range got {
		if len(f.Name) < 2 || f.Name[:2] != prefix {
			continue
		}
		if i >= len(want) || f.Name != want[i].Name || f.Value != want[i].Value {
			w.violate(r, "%s: field %d is %v, want %v", what, i, f, want)
			return
		}
		i++
	}
	if i != len(want) {
		w.violate(r, "%s: %d of %d fields", what, i, len(want))
	}
}

func field(fields []hpack.HeaderField, name string) string {
	for _, f := range fields {
		if f.Name == name {
			return f.Value
		}
	}
	return ""
}

func (o *outcome) failed(err error) {
	var e *streamEnd
	if !errors.As(err, &e) {
		panic(err)
	}
	o.why = e.Error()
	switch {
	case e.local:
		o.how = cancelled
	case e.reset:
		o.how, o.code = wasReset, e.code
	case e.refused:
		o.how = notTaken
	default:
		o.how = connLost
	}
}

func (o *outcome) String() string {
	switch o.how {
	case answered:
		return fmt.Sprintf("answered: HTTP %s, status %q %q, flag %q, attempt %d, %d bytes", o.http, o.status, o.message, o.flag, o.serial, o.got)
	case wasReset, connLost:
		return fmt.Sprintf("%s: %s; headers: %v, attempt %d, %d bytes", howNames[o.how], o.why, o.heads > 0, o.serial, o.got)
	}
	return howNames[o.how]
}

// progress says how many bytes of the answer have come; awaitProgress waits for
// that many, or the stream's end.
func (s *stream) progress(n int) {
	s.e.mu.Lock()
	defer s.e.mu.Unlock()
	s.arrived = n
	s.e.changed.Broadcast()
}

func (s *stream) awaitProgress(n int) {
	s.e.mu.Lock()
	defer s.e.mu.Unlock()
	for s.arrived < n && s.err() == nil && !s.remoteEnd {
		s.e.changed.Wait()
	}
}

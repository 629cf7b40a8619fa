package relay

import (
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/pillion-proxy/pillion/proxy/h2"
	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
	"github.com/pillion-proxy/pillion/proxy/policy"
	"github.com/pillion-proxy/pillion/proxy/upstream"
	"github.com/pillion-proxy/pillion/proxy/wire"
)

// mirrorTime is how long a copy of an RPC without a deadline may take.
const mirrorTime = 30 * time.Second

// shadow is a copy of an RPC's request that is on its way to somebody else: nobody
// waits for it, and its answer is thrown away. It is the [h2.Owner] of its stream.
//
// Its lock comes after the RPC's. It lives on its own once the RPC has ended.
type shadow struct {
	mirror *policy.Mirror
	inst   *upstream.Instance

	mu      sync.Mutex
	stream  h2.Stream
	wait    upstream.Wait
	gen     uint32
	fields  []hpack.Field
	kept    []byte // as long as there is no stream
	size    int    // of the request so far
	taken   int    // of that, what went on
	end     bool   // of the request
	turn    upstream.Turn
	timer   *time.Timer
	waiting bool
	open    bool
	over    bool
}

// mirror sends a copy of the RPC to where its route says. r.mu is held.
func (r *RPC) mirror(b *h2.Batch, m *policy.Mirror) {
	if !m.Begin(r.p.cfg.Random()) {
		return
	}
	dest := r.mirrorTo(m)
	if dest == nil {
		m.End()
		return
	}
	inst, ok := dest.Pick(&upstream.Choice{Subset: m.Subset})
	if !ok {
		m.End()
		return
	}
	s := &shadow{mirror: m, inst: inst, fields: r.mirrored()}
	s.stream.Init(s)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.turn = inst.Begin(b.Now())
	s.timer = time.AfterFunc(r.mirrorTime(b), s.expire)
	r.pol.shadow = s
	if s.send(b, r.replay, r.reqEnd); !s.over {
		s.start(b)
	}
}

// mirrorTo returns where copies go, nil where that is not known. Then the registry is
// asked, for the next ones.
func (r *RPC) mirrorTo(m *policy.Mirror) *upstream.Cluster {
	service := m.Service
	if service == "" {
		service = r.pol.addressed
	}
	if service == "" || service == r.dest.Name() {
		return r.dest
	}
	router := r.p.cfg.Router
	found := router.Service(service)
	if found.Wait && m.Asking.CompareAndSwap(false, true) && !router.Await(strings.Clone(service), "", "", asker{m}, 0) {
		m.Asking.Store(false)
	}
	return found.Cluster
}

// asker waits for the destination of a mirror: only one does, or copies that nobody
// waits for would take the places of RPCs that wait.
type asker struct{ mirror *policy.Mirror }

// OnRoute implements Waiter.
func (a asker) OnRoute(uint32) { a.mirror.Asking.Store(false) }

// mirrored returns a copy of the request's fields, in memory of its own.
func (r *RPC) mirrored() []hpack.Field {
	fields := make([]hpack.Field, 0, len(r.block.Fields)+1)
	for _, f := range r.block.Fields {
		if f.Name == wire.HeaderMirror {
			continue
		}
		fields = append(fields, hpack.Field{Name: strings.Clone(f.Name), Value: strings.Clone(f.Value), Sensitive: f.Sensitive})
	}
	return append(fields, hpack.Field{Name: wire.HeaderMirror, Value: "1"})
}

func (r *RPC) mirrorTime(b *h2.Batch) time.Duration {
	if r.deadline == 0 {
		return mirrorTime
	}
	return r.deadline - b.Now().Sub(r.start)
}

// mirrorData sends more of the request to the copy. r.mu is held.
func (r *RPC) mirrorData(b *h2.Batch, p []byte, end bool) {
	s := r.pol.shadow
	s.mu.Lock()
	defer s.mu.Unlock()
	s.send(b, p, end)
}

// mirrorEnds lets go of the copy: what is not complete now never will be. r.mu is
// held.
func (r *RPC) mirrorEnds(b *h2.Batch) {
	s := r.pol.shadow
	r.pol.shadow = nil
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.end {
		s.finish(b, h2.Cancel)
	}
}

// start opens the stream, or queues for a connection. s.mu is held.
func (s *shadow) start(b *h2.Batch) {
	s.wait.Prepare(s, 0)
	gen, queued, err := s.inst.Open(b, &s.stream, s.fields, s.end && len(s.kept) == 0, &s.wait)
	switch {
	case err != nil:
		s.finish(b, h2.NoError)
	case queued:
		s.waiting = true
	default:
		s.gen, s.open = gen, true
		if len(s.kept) > 0 {
			s.taken = s.stream.SendData(b, s.kept, s.end)
			s.kept = nil
		}
	}
}

// send takes more of the request. s.mu is held.
func (s *shadow) send(b *h2.Batch, p []byte, end bool) {
	if s.over {
		return
	}
	s.size += len(p)
	s.end = end
	switch {
	case s.size > s.mirror.MaxBytes:
		s.finish(b, h2.Cancel)
	case s.open:
		s.taken += s.stream.SendData(b, p, end)
	default:
		s.kept = append(s.kept, p...)
	}
}

// finish ends the copy, once. s.mu is held.
func (s *shadow) finish(b *h2.Batch, code h2.ErrCode) {
	if s.over {
		return
	}
	s.over = true
	s.timer.Stop()
	switch {
	case s.waiting:
		s.inst.Leave(&s.wait)
	case s.open:
		s.stream.Reset(b, code)
	}
	s.waiting, s.open, s.kept, s.fields = false, false, nil, nil
	s.inst.Observe(b.Now(), &upstream.Outcome{Turn: s.turn, Code: codes.OK, Excused: true})
	s.inst.End()
	s.mirror.End()
}

// expire is called by the timer.
func (s *shadow) expire() {
	var b h2.Batch
	defer b.Done()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.finish(&b, h2.Cancel)
}

// OnConn implements upstream.Caller.
func (s *shadow) OnConn(b *h2.Batch, _ *upstream.Wait, _ uint32, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over || !s.waiting {
		return
	}
	s.waiting = false
	if err != nil {
		s.finish(b, h2.NoError)
		return
	}
	s.start(b)
}

// OnHeaders implements h2.Owner.
func (s *shadow) OnHeaders(b *h2.Batch, _ *h2.Stream, gen uint32, _ *h2.Head, end bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if gen == s.gen && end {
		s.answered(b)
	}
}

// OnData implements h2.Owner.
func (s *shadow) OnData(b *h2.Batch, _ *h2.Stream, gen uint32, p []byte, end bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case gen != s.gen || !s.open:
	case end:
		s.answered(b)
	default:
		s.stream.Consume(b, len(p))
	}
}

// answered ends the copy whose answer is complete. s.mu is held.
func (s *shadow) answered(b *h2.Batch) {
	if s.end && s.taken == s.size {
		s.open = false // the stream ends by itself
	}
	s.finish(b, h2.NoError)
}

// OnReset implements h2.Owner.
func (s *shadow) OnReset(b *h2.Batch, _ *h2.Stream, gen uint32, _ h2.Reset) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if gen == s.gen {
		s.open = false
		s.finish(b, h2.NoError)
	}
}

// OnTaken implements h2.Owner.
func (s *shadow) OnTaken(_ *h2.Batch, _ *h2.Stream, gen uint32, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if gen == s.gen {
		s.taken += n
	}
}

// OnClosed implements h2.Owner.
func (*shadow) OnClosed(*h2.Batch, *h2.Stream, uint32) {}

package h2

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
)

// eager is a transport that can be read without waiting: it has more frames there.
type eager struct {
	*simEnd
	more  [][]byte
	err   error // after them; nil: nothing to read yet
	tried atomic.Int32
}

func (e *eager) TryRead(l Lender) (int, error) {
	e.tried.Add(1)
	if len(e.more) == 0 {
		return 0, e.err
	}
	n := copy(l.Lend(), e.more[0])
	e.more = e.more[1:]
	return n, nil
}

// A batch that has something for many connections takes along what has come since,
// so that it goes out in the same write; others are not read for twice.
func TestReadOn(t *testing.T) {
	ping := appendPing(nil, true, [8]byte{})
	tests := map[string]struct {
		conns int
		more  [][]byte
		err   error
		tried int32
	}{
		"few connections":    {conns: manyFlushes - 1, more: [][]byte{ping}},
		"nothing more":       {conns: manyFlushes, tried: 1},
		"a little more":      {conns: manyFlushes, more: [][]byte{ping}, tried: 2},
		"always more":        {conns: manyFlushes, more: [][]byte{ping, ping, ping, ping}, tried: maxReadOns},
		"part of a frame":    {conns: manyFlushes, more: [][]byte{ping[:5], ping[5:]}, tried: 2},
		"the end":            {conns: manyFlushes, err: io.EOF, tried: 1},
		"the end after more": {conns: manyFlushes, more: [][]byte{ping}, err: syscall.ECONNRESET, tried: 2},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				var others []*rig
				var streams []*recorder
				for range test.conns {
					o := newClient(t, Config{})
					streams = append(streams, o.open(false, post...))
					o.frames()
					others = append(others, o)
				}
				r := newServer(t, Config{})
				e := &eager{simEnd: r.engine, more: test.more, err: test.err}
				synctest.Wait()
				r.c.t = e
				r.must(r.WritePing(true, [8]byte{})) // or the next read is still the one before
				r.w.fresh = func(o *recorder) {
					o.react = func(b *Batch, _ *recorder, event string) {
						if event == "closed" {
							return
						}
						for _, s := range streams {
							s.s.SendData(b, []byte("x"), false)
						}
					}
				}
				r.headers(1, false, post...)
				synctest.Wait()
				if got := e.tried.Load(); got != test.tried {
					t.Errorf("it tried to read %d times, want %d", got, test.tried)
				}
				r.w.mu.Lock()
				ended, err := r.w.closed, r.w.err
				r.w.mu.Unlock()
				if ended != (test.err != nil) || test.err == syscall.ECONNRESET && !errors.Is(err, test.err) {
					t.Errorf("the connection has ended: %v, because of %v", ended, err)
				}
				for _, o := range others {
					if got := o.frames(); len(got) == 0 || got[0] != "DATA 1 1" {
						t.Errorf("another connection's frames are %q", got)
					}
				}
			})
		})
	}
}

// A socket that has nothing to read says so, and is waited for afterwards as ever.
func TestTryRead(t *testing.T) {
	t.Parallel()
	socketPairs(t, func(t *testing.T, a, b net.Conn) {
		tr := NewTransport(a)
		m, ok := tr.(moreReader)
		if !ok {
			return // a pipe cannot be tried
		}
		l := &lent{p: make([]byte, 100)}
		if n, err := m.TryRead(l); n != 0 || err != nil || l.out {
			t.Fatalf("nothing to read: %d, %v, the buffer is kept: %v", n, err, l.out)
		}
		wrote := make(chan struct{})
		go func() {
			defer close(wrote)
			b.Write([]byte("one"))
		}()
		if n, err := tr.Read(l); err != nil || string(l.p[:n]) != "one" {
			t.Fatalf("it is waited for: %q, %v", l.p[:n], err)
		}
		<-wrote
		b.Write([]byte("two"))
		// The kernel may take a moment to pass on what was written.
		try := func() (n int, err error) {
			for n == 0 && err == nil {
				n, err = m.TryRead(l)
			}
			return n, err
		}
		if n, err := try(); err != nil || string(l.p[:n]) != "two" {
			t.Fatalf("what is there already: %q, %v", l.p[:n], err)
		}
		b.Close()
		if n, err := try(); n != 0 || err != io.EOF {
			t.Fatalf("the end: %d, %v", n, err)
		}
	})
}

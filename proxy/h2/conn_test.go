package h2

import (
	"fmt"
	"io"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
)

func maxStreams(n uint32) http2.Setting {
	return http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: n}
}

// tryOpen opens a stream and returns Open's error.
func (r *rig) tryOpen() (err error) {
	o := newRecorder(r.t)
	do(func(b *Batch) {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.gen, err = r.c.Open(b, &o.s, fields(get...), true)
	})
	if err == nil {
		r.opened = append(r.opened, o)
	}
	return err
}

func TestSlots(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newClient(t, Config{}, maxStreams(2))
		first, second := r.open(true, get...), r.open(true, get...)
		for range 2 {
			if err := r.tryOpen(); err != ErrNoSlot {
				t.Fatalf("Open says %v", err)
			}
		}
		r.frames()
		want(t, "what the handler is told", r.w.log())
		first.rst(Cancel)
		want(t, "what the handler is told", r.w.log(), "slots")
		second.rst(Cancel)
		want(t, "what the handler is told once it was", r.w.log())
		want(t, "the resets", r.frames(), "RST_STREAM 1 CANCEL", "RST_STREAM 3 CANCEL")
	})
}

// A limit of our own holds where the server's is higher.
func TestMaxOpenStreams(t *testing.T) {
	for server, limit := range map[uint32]uint32{1: 1, 3: 2, 100: 2} {
		t.Run(fmt.Sprint(server), func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r := newClient(t, Config{MaxOpenStreams: 2}, maxStreams(server))
				if st := r.c.Stats(); st.MaxStreams != limit {
					t.Errorf("%d streams may be open", st.MaxStreams)
				}
				for range limit {
					r.open(true, get...)
				}
				if err := r.tryOpen(); err != ErrNoSlot {
					t.Errorf("Open says %v", err)
				}
				r.opened[0].rst(Cancel)
				want(t, "what the handler is told", r.w.log(), "slots")
			})
		})
	}
}

func TestRoom(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newClient(t, Config{}, maxStreams(2))
		for room := 2; room > 0; room-- {
			if n := r.c.Room(); n != room {
				t.Errorf("there is room for %d, not %d", n, room)
			}
			r.open(true, get...)
		}
		r.opened[0].rst(Cancel)
		want(t, "what the handler is told", r.w.log())
		r.open(true, get...)
		if n := r.c.Room(); n != 0 {
			t.Errorf("there is room for %d", n)
		}
		r.opened[1].rst(Cancel)
		want(t, "what the handler is told", r.w.log(), "slots")
		r.shutdown()
		if n := r.c.Room(); n != 0 {
			t.Errorf("there is room for %d in a connection that drains", n)
		}
	})
}

func TestAddresses(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r, o := openStream(t, Server)
		if c := o.s.Conn(); c != r.c || c.LocalAddr().String() != "local" || c.RemoteAddr().String() != "remote" {
			t.Errorf("connection %p from %v to %v, not %p", c, c.RemoteAddr(), c.LocalAddr(), r.c)
		}
	})
}

func TestSlotsChange(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newClient(t, Config{}, maxStreams(0))
		if err := r.tryOpen(); err != ErrNoSlot {
			t.Fatalf("Open says %v", err)
		}
		r.must(r.WriteSettings(maxStreams(2)))
		r.frames()
		want(t, "what the handler is told", r.w.log(), "slots")
		r.open(true, get...)
		second := r.open(true, get...)
		r.must(r.WriteSettings(maxStreams(1)))
		r.frames()
		if err := r.tryOpen(); err != ErrNoSlot {
			t.Fatalf("Open says %v", err)
		}
		second.rst(Cancel)
		want(t, "what the handler is told while too many are open", r.w.log())
		r.must(r.WriteSettings())
		r.must(r.WriteSettings(maxStreams(2)))
		r.frames()
		want(t, "what the handler is told", r.w.log(), "slots")
	})
}

// Before the server's SETTINGS a client assumes a limit, and its handler is told
// when they come, whatever they say.
func TestSlotsBeforeTheFirstSettings(t *testing.T) {
	for _, max := range []int{-1, 0, 5, 1000} {
		t.Run(fmt.Sprint(max), func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r := newRig(t, Client, Config{})
				for range assumedMaxStreams {
					r.open(true, get...)
				}
				if err := r.tryOpen(); err != ErrNoSlot {
					t.Fatalf("Open says %v", err)
				}
				var settings []http2.Setting
				if max >= 0 {
					settings = append(settings, maxStreams(uint32(max)))
				}
				r.must(r.WriteSettings(settings...))
				r.frames()
				want(t, "what the handler is told", r.w.log(), "slots")
				if st := r.c.Stats(); !st.Settled || max >= 0 && st.MaxStreams != uint32(max) {
					t.Errorf("the state is %+v", st)
				}
			})
		})
	}
}

func TestClientExceedsTheLimit(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newServer(t, Config{MaxConcurrentStreams: 2})
		r.headers(1, true, get...)
		r.headers(3, false, post...)
		r.headers(5, false, with(post, "x-decoded", "nevertheless")...)
		r.must(r.WriteData(5, true, []byte("for nobody")))
		want(t, "the answer", r.frames(), "RST_STREAM 5 REFUSED_STREAM")
		r.w.stream(0).send(true, ok...)
		r.headers(7, true, with(get, "x-decoded", "nevertheless")...)
		want(t, "the answer", r.frames(), "HEADERS 1 end*")
		want(t, "the stream that has a place", r.w.stream(2).log(), "request GET http://a/ x-decoded=nevertheless end")
	})
}

func TestStreamIDsRunOut(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newClient(t, Config{})
		r.c.nextID = maxStreamID - 2
		first := r.open(true, get...)
		want(t, "the last stream but one", r.frames(), "HEADERS 2147483645 end*")
		r.headers(maxStreamID-2, true, ok...)
		r.frames()
		want(t, "its owner is told", first.log(), "response 200 end", "closed")
		last := r.open(true, get...)
		want(t, "the last stream", r.frames(), "HEADERS 2147483647 end*")
		if err := r.tryOpen(); err != ErrDraining {
			t.Fatalf("Open says %v", err)
		}
		want(t, "what the handler is told", r.w.log(), "draining")
		r.headers(maxStreamID, true, ok...)
		want(t, "the end", r.frames(), "end: EOF")
		want(t, "its owner is told", last.log(), "response 200 end", "closed")
	})
}

func TestServerTakesTheLastStreamID(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newServer(t, Config{})
		r.headers(maxStreamID, true, get...)
		r.frames()
		r.w.stream(0).send(true, ok...)
		want(t, "the answer", r.frames(), "HEADERS 2147483647 end*")
	})
}

func TestStats(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newClient(t, Config{}, maxStreams(5))
		began := time.Now()
		if st := r.c.Stats(); st != (Stats{MaxStreams: 5, IdleSince: began, Settled: true}) {
			t.Errorf("idle: %+v", st)
		}
		o := r.open(true, get...)
		time.Sleep(time.Minute)
		if st := r.c.Stats(); st != (Stats{MaxStreams: 5, Streams: 1, Settled: true, Opened: true}) {
			t.Errorf("busy: %+v", st)
		}
		o.rst(Cancel)
		if st := r.c.Stats(); st != (Stats{MaxStreams: 5, IdleSince: began.Add(time.Minute), Settled: true, Opened: true}) {
			t.Errorf("idle again: %+v", st)
		}
		r.must(r.WriteGoAway(0, http2.ErrCodeNo, nil))
		r.frames()
		if st := r.c.Stats(); !st.Draining {
			t.Errorf("draining: %+v", st)
		}
	})
}

// Whatever ends the connection, each owner is told of one end.
func TestEndOfTheConnection(t *testing.T) {
	ends := map[string]struct {
		by     func(r *rig)
		code   ErrCode
		reason string
	}{
		"EOF":            {func(r *rig) { r.end.Close() }, InternalError, io.EOF.Error()},
		"half-close":     {func(r *rig) { r.end.CloseWrite() }, InternalError, io.EOF.Error()},
		"protocol error": {func(r *rig) { r.headers(2, true, get...) }, InternalError, "PROTOCOL_ERROR: *"},
		"abort":          {func(r *rig) { do(func(b *Batch) { r.c.Abort(b, EnhanceYourCalm, "no") }) }, InternalError, "ENHANCE_YOUR_CALM: no"},
		"write failure": {func(r *rig) {
			r.end.in.mu.Lock()
			r.end.in.werr = syscall.EPIPE
			r.end.in.mu.Unlock()
			r.must(r.WritePing(false, [8]byte{}))
		}, InternalError, syscall.EPIPE.Error()},
	}
	for name, test := range ends {
		t.Run(name, func(t *testing.T) {
			bothRoles(t, func(t *testing.T, role Role) {
				simulated(t, func(t *testing.T) {
					r, o := openStream(t, role, initialWindow(10))
					o.log()
					o.write(100, false) // some is parked
					r.frames()
					test.by(r)
					<-r.served
					want(t, "what the owner is told", o.log(), "reset conn "+test.code.String(), "closed")
					log := r.w.log()
					want(t, "what the handler is told", log[len(log)-1:], "closed: "+test.reason)
					if o.reset.Err != r.w.err {
						t.Errorf("the owner was told %v, the handler %v", o.reset.Err, r.w.err)
					}
					if n := o.write(5, true); n != 5 {
						t.Errorf("%d of 5 bytes count as gone on", n)
					}
					o.send(true, ok...)
					o.rst(Cancel)
					do(func(b *Batch) { r.c.Shutdown(b); r.c.Abort(b, NoError, "") })
					if err := r.tryOpen(); err != ErrClosed {
						t.Errorf("Open says %v", err)
					}
					want(t, "what the owner is told after the end", o.log())
				})
			})
		})
	}
}

// The last words reach a peer that goes on sending for a while: a socket that is
// closed with unread input would be reset.
func TestLastWordsReachAPeerThatGoesOnSending(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newServer(t, Config{})
		r.headers(2, true, get...)
		for range 20 {
			r.raw(make([]byte, 10000))
			time.Sleep(lingerTime / 40)
		}
		want(t, "the last words", r.frames(), "GOAWAY 0 PROTOCOL_ERROR*", "end: EOF")
		start := time.Now()
		<-r.served
		if took := time.Since(start); took != lingerTime/2 {
			t.Errorf("Serve returned %v later", took)
		}
		want(t, "what the handler is told", r.w.log(), "closed: PROTOCOL_ERROR*")
	})
}

// Last words that are not taken do not keep the connection.
func TestLastWordsThatAreNotTaken(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newServer(t, Config{})
		r.room(0)
		start := time.Now()
		r.headers(2, true, get...)
		<-r.served
		if took := time.Since(start); took != lingerTime {
			t.Errorf("Serve returned after %v", took)
		}
	})
}

// A drained connection whose last answer is not taken can still be aborted.
func TestAbortWhileTheLastAnswerIsWritten(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newServer(t, Config{})
		r.headers(1, true, get...)
		r.frames()
		r.room(0)
		r.w.stream(0).send(true, ok...)
		r.must(r.WriteGoAway(0, http2.ErrCodeNo, nil))
		synctest.Wait()
		want(t, "what the handler is told", r.w.log(), "draining", "closed*")
		start := time.Now()
		do(func(b *Batch) { r.c.Abort(b, NoError, "time is over") })
		<-r.served
		if took := time.Since(start); took != lingerTime {
			t.Errorf("Serve returned after %v", took)
		}
	})
}

// A stream that is made while the connection ends is told so as well.
func TestRequestWhileTheConnectionEnds(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newServer(t, Config{})
		r.w.fresh = func(*recorder) {
			do(func(b *Batch) { r.c.Abort(b, NoError, "just now") })
		}
		r.headers(1, false, post...)
		r.must(r.WriteData(1, true, []byte("x")))
		r.headers(3, false, post...)
		want(t, "the answer", r.frames(), "GOAWAY 1 NO_ERROR just now", "end: EOF")
		want(t, "what the owner is told", r.w.stream(0).log(), "request POST*", "reset conn*", "closed")
		if n := len(r.w.streams); n != 1 {
			t.Errorf("%d streams were opened", n)
		}
	})
}

// A stream's owner may hold its lock while it calls into a connection.
func TestOwnersMayCallWithTheirLockHeld(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r, o := openStream(t, Server)
		do(func(b *Batch) {
			o.mu.Lock()
			defer o.mu.Unlock()
			o.s.SendData(b, make([]byte, 100000), false)
			o.s.Reset(b, Cancel)
			r.c.Shutdown(b)
			r.c.Abort(b, NoError, "")
		})
		want(t, "what the owner is told", o.log(), "closed")
	})
}

// A connection that is opened and never gets to be served ends as one that is.
func TestAbortBeforeServe(t *testing.T) {
	simulated(t, func(t *testing.T) {
		engine, other := newSim()
		w := &watcher{t: t}
		c := New(engine, Client, &Config{}, w)
		do(func(b *Batch) { c.Abort(b, NoError, "not wanted") })
		c.Serve()
		want(t, "what was sent", newPeer(t, other, true).frames(), "SETTINGS*", "WINDOW_UPDATE*", "GOAWAY 0 NO_ERROR not wanted", "end: EOF")
		if log := strings.Join(w.log(), ","); log != "closed: NO_ERROR: not wanted" {
			t.Errorf("the handler is told %q", log)
		}
		other.Close()
	})
}

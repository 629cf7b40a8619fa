package h2

import (
	"bytes"
	"errors"
	"fmt"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
)

func (r *rig) shutdown() { do(r.c.Shutdown) }

// A server that shuts down first asks for no more streams, and only a round trip
// later says which was the last.
func TestServerShutdownInTwoSteps(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r, first := openStream(t, Server)
		r.shutdown()
		r.shutdown()
		want(t, "the first step", r.frames(), "GOAWAY 2147483647 NO_ERROR graceful shutdown", "PING goingawy")
		want(t, "what the handler is told", r.w.log())

		r.headers(3, true, get...) // it was on its way
		r.must(r.WritePing(true, shutdownPing))
		r.headers(5, false, post...) // it comes too late
		r.must(r.WriteData(5, false, make([]byte, 10)))
		r.must(r.WriteWindowUpdate(5, 10))
		r.headers(7, true, get...)
		r.headers(5, true, "x", "y")
		r.must(r.WriteRSTStream(7, http2.ErrCodeCancel))
		want(t, "the second step", r.frames(), "GOAWAY 3 NO_ERROR graceful shutdown")
		want(t, "what the handler is told", r.w.log(), "draining")
		if n := len(r.w.streams); n != 2 {
			t.Fatalf("%d streams were opened", n)
		}

		second := r.w.stream(1)
		second.send(true, ok...)
		want(t, "the second answer", r.frames(), "HEADERS 3 end*")
		r.must(r.WriteData(1, true, nil))
		r.frames()
		first.send(true, "grpc-status", "0")
		want(t, "the first answer", r.frames(), "HEADERS 1 end grpc-status=0", "end: EOF")
		want(t, "what the handler is told", r.w.log(), "closed: "+ErrShutdown.Error())
	})
}

func TestServerShutdownOfAClientThatAnswersNoPing(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r, o := openStream(t, Server)
		r.shutdown()
		want(t, "the first step", r.frames(), "GOAWAY 2147483647 NO_ERROR graceful shutdown", "PING goingawy")
		time.Sleep(shutdownPatience)
		want(t, "the second step", r.frames(), "GOAWAY 1 NO_ERROR graceful shutdown")
		o.rst(InternalError)
		want(t, "the end", r.frames(), "RST_STREAM 1 INTERNAL_ERROR", "end: EOF")
	})
}

func TestShutdownOfAnIdleConnection(t *testing.T) {
	t.Run("server", func(t *testing.T) {
		simulated(t, func(t *testing.T) {
			r := newServer(t, Config{})
			r.shutdown()
			r.must(r.WritePing(true, shutdownPing))
			want(t, "the end", r.frames(), "GOAWAY 2147483647*", "PING*", "GOAWAY 0 NO_ERROR*", "end: EOF")
			want(t, "what the handler is told", r.w.log(), "draining", "closed*")
		})
	})
	t.Run("client", func(t *testing.T) {
		simulated(t, func(t *testing.T) {
			r := newClient(t, Config{})
			r.shutdown()
			want(t, "the end", r.frames(), "GOAWAY 0 NO_ERROR", "end: EOF")
			want(t, "what the handler is told", r.w.log(), "draining", "closed*")
			var b Batch
			if _, err := r.c.Open(&b, &newRecorder(t).s, fields(get...), true); err != ErrClosed {
				t.Errorf("Open says %v", err)
			}
			b.Done()
		})
	})
}

func TestClientShutdown(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newClient(t, Config{})
		o := r.open(true, get...)
		r.shutdown()
		want(t, "the frames", r.frames(), "HEADERS 1 end*", "GOAWAY 0 NO_ERROR")
		var b Batch
		if _, err := r.c.Open(&b, &newRecorder(t).s, fields(get...), true); err != ErrDraining {
			t.Errorf("Open says %v", err)
		}
		b.Done()
		r.headers(1, true, ok...)
		want(t, "the end", r.frames(), "end: EOF")
		want(t, "what the owner is told", o.log(), "response 200 end", "closed")
	})
}

// What the server has not processed is told so at once; the rest goes on.
func TestServerGoesAwayInTwoSteps(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newClient(t, Config{})
		first, second, third := r.open(true, get...), r.open(true, get...), r.open(false, post...)
		r.frames()
		r.must(r.WriteGoAway(maxStreamID, http2.ErrCodeNo, nil))
		r.frames()
		want(t, "what the handler is told", r.w.log(), "draining")
		r.must(r.WriteGoAway(1, http2.ErrCodeNo, nil))
		want(t, "frames", r.frames())
		want(t, "the second stream", second.log(), "reset goaway REFUSED_STREAM unprocessed", "closed")
		want(t, "the third stream", third.log(), "reset goaway REFUSED_STREAM unprocessed", "closed")
		if n := third.write(5, true); n != 5 {
			t.Errorf("%d of 5 bytes count as gone on", n)
		}
		r.headers(1, true, ok...)
		want(t, "the end", r.frames(), "end: EOF")
		want(t, "the first stream", first.log(), "response 200 end", "closed")
		want(t, "what the handler is told", r.w.log(), "closed*")
	})
}

// A second GOAWAY may leave no stream at all.
func TestServerGoesAwayAndRefusesAll(t *testing.T) {
	for _, step := range []string{"one step", "two steps"} {
		t.Run(step, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r := newClient(t, Config{})
				o := r.open(true, get...)
				r.frames()
				if step == "two steps" {
					r.must(r.WriteGoAway(maxStreamID, http2.ErrCodeNo, nil))
				}
				r.must(r.WriteGoAway(0, http2.ErrCodeNo, nil))
				want(t, "the end", r.frames(), "end: EOF")
				want(t, "the stream", o.log(), "reset goaway REFUSED_STREAM unprocessed", "closed")
				want(t, "what the handler is told", r.w.log(), "draining", "closed*")
			})
		})
	}
}

// Streams that wait for an id were never sent.
func TestGoAwayRefusesStreamsThatWait(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newClient(t, Config{})
		waiting := r.fillOutput(func() *recorder { return r.open(true, get...) })
		r.must(r.WriteGoAway(maxStreamID, http2.ErrCodeNo, nil))
		synctest.Wait()
		want(t, "the stream", waiting.log(), "reset goaway REFUSED_STREAM unprocessed", "closed")
	})
}

// A GOAWAY with an error code does not end the streams up to its last id: the
// peer may still answer them until it closes.
func TestGoAwayWithAnError(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newClient(t, Config{})
		first, second, third := r.open(true, get...), r.open(true, get...), r.open(true, get...)
		r.frames()
		r.must(r.WriteGoAway(3, http2.ErrCodeEnhanceYourCalm, []byte("too_many_pings\xff")))
		r.headers(1, true, ok...)
		r.frames()
		want(t, "the first stream", first.log(), "response 200 end", "closed")
		want(t, "the third stream", third.log(), "reset goaway REFUSED_STREAM unprocessed", "closed")
		want(t, "what the handler is told", r.w.log(), "draining")
		r.end.Close()
		synctest.Wait()
		want(t, "the second stream", second.log(), "reset conn ENHANCE_YOUR_CALM", "closed")
		want(t, "what the handler is told", r.w.log(), "closed: peer ended the connection with ENHANCE_YOUR_CALM: too_many_pings?")
	})
}

// A client whose last stream has ended is told that there will be no other.
func TestStreamAfterTheClientWentAway(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newServer(t, Config{})
		// In one write: it ends the connection at once where nothing else has come.
		var both bytes.Buffer
		f := http2.NewFramer(&both, nil)
		r.must(f.WriteGoAway(0, http2.ErrCodeNo, nil))
		r.must(f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndStream: true, EndHeaders: true, BlockFragment: r.encode(get...)}))
		_, err := r.end.Write(both.Bytes(), 0)
		r.must(err)
		want(t, "the end", r.frames(), "RST_STREAM 1 REFUSED_STREAM", "end: EOF")
	})
}

// A client that goes away gets the answers that it waits for. What had waited for
// its turn there may still come.
func TestClientGoesAway(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r, o := openStream(t, Server)
		r.must(r.WriteGoAway(0, http2.ErrCodeNo, nil))
		r.headers(3, true, get...)
		r.frames()
		want(t, "what the handler is told", r.w.log(), "draining")
		r.w.stream(1).send(true, ok...)
		want(t, "a stream after the client's GOAWAY", r.frames(), "HEADERS 3 end*")
		r.must(r.WriteData(1, true, nil))
		r.frames()
		o.send(true, "grpc-status", "0")
		want(t, "the end", r.frames(), "HEADERS 1 end*", "end: EOF")
	})
}

func TestGoAwayThatIsWrong(t *testing.T) {
	for name, test := range map[string]struct {
		id      uint32
		payload string
		code    ErrCode
	}{
		"on a stream": {1, "\x00\x00\x00\x00\x00\x00\x00\x00", ProtocolError},
		"7 octets":    {0, "\x00\x00\x00\x00\x00\x00\x00", FrameSizeError},
	} {
		t.Run(name, func(t *testing.T) {
			bothRoles(t, func(t *testing.T, role Role) {
				simulated(t, func(t *testing.T) {
					r, _ := openStream(t, role)
					r.must(r.WriteRawFrame(http2.FrameGoAway, 0, test.id, []byte(test.payload)))
					want(t, "the answer", r.frames(), fmt.Sprintf("GOAWAY %d %s*", role.lastOf1(), test.code), "end: EOF")
				})
			})
		})
	}
}

// A connection that is done is not closed before a slow client has taken the last
// answer.
func TestShutdownWaitsForASlowClient(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r, o := openStream(t, Server)
		r.shutdown()
		r.must(r.WritePing(true, shutdownPing))
		r.must(r.WriteData(1, true, nil))
		r.frames()
		r.room(0)
		o.write(30000, true)
		time.Sleep(10 * lingerTime)
		synctest.Wait()
		want(t, "the last answer", r.drain(), "DATA 1 16384", "DATA 1 13616 end", "end: EOF")
		start := time.Now()
		<-r.served
		if took := time.Since(start); took != lingerTime {
			t.Errorf("Serve returned %v after the last answer was taken", took)
		}
	})
}

// What the server had said before writing to it failed still counts: which
// streams it processed, and its answers.
func TestWriteFailureDoesNotLoseWhatCame(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newClient(t, Config{})
		first, second := r.open(true, get...), r.open(true, get...)
		r.frames()
		r.holdReading(func() {
			r.headers(1, true, ok...)
			r.must(r.WriteGoAway(1, http2.ErrCodeNo, nil))
			r.end.Close()
			third := r.open(true, get...) // fails to be written
			t.Cleanup(func() { want(t, "the third stream", third.log(), "reset goaway REFUSED_STREAM unprocessed", "closed") })
		})
		want(t, "the first stream", first.log(), "response 200 end", "closed")
		want(t, "the second stream", second.log(), "reset goaway REFUSED_STREAM unprocessed", "closed")
	})
}

// A stream of which the writer may have written something is not said to be
// unprocessed.
func TestUnprocessedWhileWriting(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newClient(t, Config{})
		r.room(5)
		r.must(r.WritePing(false, [8]byte{})) // its answer is the first to be stuck
		synctest.Wait()
		first := r.open(false, post...)
		first.write(1000, false)
		r.room(100)
		synctest.Wait()
		second := r.open(true, get...)
		synctest.Wait()
		// The writer is in the middle of the first stream's DATA.
		r.engine.in.mu.Lock()
		r.engine.in.rerr = syscall.ECONNRESET
		r.engine.in.cond.Broadcast()
		r.engine.in.mu.Unlock()
		<-r.served
		synctest.Wait()
		want(t, "the first stream", first.log(), "reset conn INTERNAL_ERROR", "closed")
		want(t, "the second stream", second.log(), "reset conn INTERNAL_ERROR unprocessed", "closed")
		if !errors.Is(r.w.err, syscall.ECONNRESET) {
			t.Errorf("the connection ended with %v", r.w.err)
		}
	})
}

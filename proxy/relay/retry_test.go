package relay

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"github.com/pillion-proxy/pillion/proxy/internal/scriptpeer"
	"github.com/pillion-proxy/pillion/proxy/upstream"
	"github.com/pillion-proxy/pillion/proxy/wire"
)

func upstreamOptions(maxConns int) upstream.Options { return upstream.Options{MaxConns: maxConns} }

// fields and data of a request, to compare what two instances got.
func whole(frames []*scriptpeer.Frame) (fields []string, body []byte, end bool) {
	for _, f := range frames {
		for _, h := range f.Fields {
			fields = append(fields, h.Name+"="+h.Value)
		}
		body = append(body, f.Data...)
		end = end || f.End
	}
	return fields, body, end
}

// What an instance provably has not processed goes to another one, the same to
// the last byte.
func TestRefusedStreamGoesElsewhere(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{instances: 2})
		a, b := r.net.Listen("a:1"), r.net.Listen("b:1")
		r.Request(1, "/a.B/C", false, "x", "1")
		body := make([]byte, 30000)
		for i := range body {
			body[i] = byte(i)
		}
		r.Data(1, scriptpeer.Message(body), true)
		first := a.Conn()
		fields, sent, end := whole(first.Frames())
		first.Reset(1, http2.ErrCodeRefusedStream)
		second := b.Conn()
		fields2, sent2, end2 := whole(second.Frames())
		if !slices.Equal(fields, fields2) || !bytes.Equal(sent, sent2) || !bytes.Equal(sent, scriptpeer.Message(body)) || !end || !end2 {
			t.Errorf("first:\n%q %d bytes, end: %v\nsecond:\n%q %d bytes, end: %v", fields, len(sent), end, fields2, len(sent2), end2)
		}
		second.Response(1)
		second.Trailers(1, "0")
		r.Want("HEADERS 1 :status=200", "HEADERS 1 grpc-status=0 end")
		r.logged(map[string]any{"attempts": 2, "instance": "b:1", "status": "OK", "flag": "", "request_messages": 1, "request_bytes": 30005})
		if n := r.counts.TransparentRetries.Load(); n != 1 {
			t.Errorf("%d retries are counted, want 1", n)
		}
		if n := r.counts.Attempts.Load(); n != 2 {
			t.Errorf("%d attempts are counted, want 2", n)
		}
	})
}

func TestBeyondGoAwayGoesElsewhere(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{instances: 1})
		a := r.net.Listen("a:1")
		first := r.ask(a, 1, true)
		r.ask(a, 3, true)
		first.GoAway(1, http2.ErrCodeNo, "")
		second := a.Conn() // the instance need not be gone
		second.Want("HEADERS 1 :path=/a.B/C end")
		second.TrailersOnly(1, "0")
		first.TrailersOnly(1, "0")
		r.Want("HEADERS 3 :status=200 grpc-status=0 end", "HEADERS 1 :status=200 grpc-status=0 end")
	})
}

// Instances that cannot be reached cost no attempt, however many there are: each
// is left alone from then on.
func TestUnreachableInstancesAreSkipped(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{instances: 6})
		b := r.net.Listen("b:1")
		b.Silent = true
		f := r.net.Listen("f:1")
		r.Request(1, "/a.B/C", true)
		b.Conn().Close()
		f.Conn().Want("HEADERS 1*")
		f.Conn().TrailersOnly(1, "0")
		r.Want("HEADERS 1 :status=200 grpc-status=0 end")
		r.logged(map[string]any{"status": "OK", "instance": "f:1"})
	})
}

// An instance that hangs does not hold its share of the RPCs: those that wait go
// elsewhere after a moment, and later ones go there at once.
func TestInstancesThatHangAreSkipped(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{instances: 2})
		r.net.Listen("a:1").Silent = true
		b := r.net.Listen("b:1")
		start := time.Now()
		r.Request(1, "/a.B/C", true)
		time.Sleep(time.Second)
		b.Conn().Want("HEADERS 1*")
		b.Conn().TrailersOnly(1, "0")
		r.Want("HEADERS 1 :status=200 grpc-status=0 end")
		r.Request(3, "/a.B/C", true)
		b.Conn().Want("HEADERS 3*")
		b.Conn().TrailersOnly(3, "0")
		r.Want("HEADERS 3 :status=200 grpc-status=0 end")
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

// Where there is no other instance, RPCs wait for one that takes long to connect
// to.
func TestTheOnlyInstanceConnectsSlowly(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{instances: 2})
		a := r.net.Listen("a:1") // and b refuses
		a.Delay = time.Second
		r.Request(1, "/a.B/C", true)
		time.Sleep(500 * time.Millisecond)
		r.Request(3, "/a.B/C", true)
		time.Sleep(600 * time.Millisecond)
		a.Conn().Want("HEADERS 1*", "HEADERS 3*")
		a.Conn().TrailersOnly(1, "0")
		a.Conn().TrailersOnly(3, "0")
		r.Want("HEADERS 1 :status=200 grpc-status=0 end", "HEADERS 3 :status=200 grpc-status=0 end")
	})
}

func TestNoInstanceCanBeReached(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{instances: 5})
		r.Request(1, "/a.B/C", true)
		r.Want(`HEADERS 1 :status=200 grpc-status=14 grpc-message=service "greeter": no instance could be reached (5 tried): connecting to e:1: connection refused pillion-flags=UF end`)
		r.Request(3, "/a.B/C", true)
		r.Want(`HEADERS 3 :status=200 grpc-status=14 grpc-message=service "greeter": none of the 5 instances can be used: connecting to a:1: connection refused pillion-flags=UH end`)
		r.cluster.Update(nil, false)
		r.Request(5, "/a.B/C", true)
		r.Want(`HEADERS 5 :status=200 grpc-status=14 grpc-message=service "greeter" has no healthy instance in the registry pillion-flags=UH end`)
		r.records()
	})
}

// There is a bound to how many an RPC tries.
func TestHundredsOfUnreachableInstances(t *testing.T) {
	for most, want := range map[int]uint64{0: 20, 3: 3, 50: 50} {
		t.Run(fmt.Sprint(most), func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r := newRig(t, options{instances: 100, Config: Config{Retry: Retry{MaxInstances: most}}})
				r.Request(1, "/a.B/C", true)
				r.Want("HEADERS 1 :status=200 grpc-status=14 * pillion-flags=UF end")
				if n := r.counts.Attempts.Load(); n != want {
					t.Errorf("%d attempts, want %d", n, want)
				}
			})
		})
	}
}

// How long a first connection may take while another instance is there.
func TestAnInstanceThatConnectsSlowly(t *testing.T) {
	for patience, want := range map[time.Duration]string{0: "b:1", 2 * time.Second: "a:1"} {
		t.Run(patience.String(), func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r := newRig(t, options{instances: 2, upstream: upstream.Options{SlowConnect: patience}})
				a, b := r.net.Listen("a:1"), r.net.Listen("b:1")
				a.Delay = time.Second
				r.Request(1, "/a.B/C", true)
				time.Sleep(time.Second + time.Millisecond)
				taken := map[string]*scriptpeer.Host{"a:1": a, "b:1": b}[want].Conn()
				taken.Want("HEADERS 1*")
				taken.TrailersOnly(1, "0")
				r.Want("HEADERS 1 :status=200 grpc-status=0 end")
			})
		})
	}
}

func TestTooManyWaiting(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{upstream: upstream.Options{MaxWaiting: 1}})
		r.net.Listen("a:1").Delay = time.Second
		r.Request(1, "/a.B/C", true)
		r.Request(3, "/a.B/C", true)
		r.Want(`HEADERS 3 :status=200 grpc-status=14 grpc-message=service "greeter": too many RPCs wait* pillion-flags=OM end`)
	})
}

// The socket took the first RPC's HEADERS, which may have been processed, is
// about to take the second's, and was not given the third's: that one goes to
// another instance.
func TestConnectionLostBeforeTheHeadersWereWritten(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{instances: 2})
		a, b := r.net.Listen("a:1"), r.net.Listen("b:1")
		in := r.ask(a, 1, true)
		in.TrailersOnly(1, "0")
		r.Want("HEADERS 1*")
		release := in.Hold() // after one more frame
		for id := uint32(3); id <= 7; id += 2 {
			r.Request(id, "/a.B/C", true)
			synctest.Wait()
		}
		r.net.Remove("a:1")
		in.Close()
		release()
		other := b.Conn()
		for _, f := range other.Frames() {
			other.TrailersOnly(f.Stream, "0")
		}
		got := map[uint32]string{}
		for _, f := range r.Frames() {
			got[f.Stream] = f.Get("grpc-status")
		}
		if len(got) != 3 || got[3] != "14" || got[7] != "0" {
			t.Errorf("the caller got these statuses: %v", got)
		}
	})
}

// A sidecar that could not hand the RPC to its app says so; the RPC goes to
// another one. Nothing else that an answer says makes it go there.
func TestAnswersOfSidecars(t *testing.T) {
	for _, c := range []struct {
		status, flag string
		retried      bool
	}{
		{"14", "UF", true},
		{"14", "UH", true},
		{"14", "UC", false},
		{"14", "UR", false},
		{"14", "OM", true},
		{"8", "OM", false},
		{"14", "", false},
		{"14", "UF,UH", false},
		{"4", "UF", false},
		{"13", "UH", false},
		{"0", "UH", false},
	} {
		t.Run(c.status+" "+c.flag, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r := newRig(t, options{instances: 2})
				b := r.net.Listen("b:1")
				in := r.ask(r.net.Listen("a:1"), 1, false)
				in.TrailersOnly(1, c.status, wire.HeaderFlags, c.flag)
				if !c.retried {
					r.Want("HEADERS 1 :status=200 grpc-status="+c.status+" pillion-flags="+c.flag+" end", "RST_STREAM 1 NO_ERROR")
					return
				}
				r.Want()
				b.Conn().Want("HEADERS 1*")
				b.Conn().TrailersOnly(1, "0")
				r.Want("HEADERS 1 :status=200 grpc-status=0 end", "RST_STREAM 1 NO_ERROR")
			})
		})
	}
}

// In trailers after headers it is too late: the caller has the headers.
func TestASidecarsFlagAfterHeadersIsNoReasonToRetry(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{instances: 2})
		r.net.Listen("b:1")
		in := r.ask(r.net.Listen("a:1"), 1, true)
		in.Response(1)
		in.Trailers(1, "14", wire.HeaderFlags, "UF")
		r.Want("HEADERS 1 :status=200", "HEADERS 1 grpc-status=14 pillion-flags=UF end")
	})
}

func TestNoRetryAfterResponseHeaders(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{instances: 2})
		in := r.ask(r.net.Listen("a:1"), 1, true)
		in.Response(1)
		in.Reset(1, http2.ErrCodeRefusedStream)
		r.Want("HEADERS 1 :status=200", "HEADERS 1 grpc-status=14* pillion-flags=UR end")
	})
}

func TestNoRetryOfARequestThatIsNotKept(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{instances: 2, Config: Config{Retry: Retry{ReplayBytes: 1000}}})
		a := r.net.Listen("a:1")
		in := r.ask(a, 1, false)
		r.Message(1, 995, false)
		r.Message(1, 0, false)
		in.Reset(1, http2.ErrCodeRefusedStream)
		r.Want("HEADERS 1 :status=200 grpc-status=14* pillion-flags=UR end", "RST_STREAM 1 NO_ERROR")

		in = r.ask(a, 3, false)
		b := r.net.Listen("b:1")
		r.Message(3, 995, false) // just fits
		in.Reset(3, http2.ErrCodeRefusedStream)
		b.Conn().Want("HEADERS 1*", "DATA 1 1000")
	})
}

func TestEachAttemptIsAtAnotherInstance(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{instances: 4})
		var hosts []*scriptpeer.Host
		for i := range 4 {
			hosts = append(hosts, r.net.Listen(address(i)))
		}
		r.Request(1, "/a.B/C", true)
		for i := range 3 {
			hosts[i].Conn().Want("HEADERS 1*")
			hosts[i].Conn().Reset(1, http2.ErrCodeRefusedStream)
		}
		r.Want(`HEADERS 1 :status=200 grpc-status=14 grpc-message=service "greeter", instance c:1: it reset the stream with REFUSED_STREAM pillion-flags=UR end`)
		if n := len(hosts[3].Conns()); n != 0 {
			t.Error("a fourth attempt was made")
		}
		r.logged(map[string]any{"attempts": 3, "instance": "c:1"})
	})
}

// Where there is no other instance, the same one is tried again.
func TestTheOnlyInstanceIsTriedAgain(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{})
		a := r.net.Listen("a:1")
		in := r.ask(a, 1, true)
		in.Reset(1, http2.ErrCodeRefusedStream)
		in.Want("HEADERS 3*")
		in.TrailersOnly(3, "0")
		r.Want("HEADERS 1 :status=200 grpc-status=0 end")
	})
}

// A retry is within the same deadline, and tells what remains of it.
func TestRetryWithinTheDeadline(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{instances: 2})
		a, b := r.net.Listen("a:1"), r.net.Listen("b:1")
		in := r.ask(a, 1, true, "grpc-timeout", "1S")
		time.Sleep(400 * time.Millisecond)
		in.Reset(1, http2.ErrCodeRefusedStream)
		if d := told(t, b.Conn()); d != 605*time.Millisecond {
			t.Errorf("the second instance is told %v, want what remains and the slack", d)
		}
		time.Sleep(600 * time.Millisecond)
		r.Want("HEADERS 1 :status=200 grpc-status=4 grpc-message=deadline of 1s exceeded while waiting for b:1* end")
		b.Conn().Want("RST_STREAM 1 CANCEL")
	})
}

// A long client stream whose first attempt is refused: the windows are right to
// the byte, and so is what the second instance gets.
func TestWindowsAfterAReplay(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{instances: 2})
		a := r.net.Listen("a:1", http2.Setting{ID: http2.SettingInitialWindowSize, Val: 20000})
		b := r.net.Listen("b:1", http2.Setting{ID: http2.SettingInitialWindowSize, Val: 30000})
		r.Request(1, "/a.B/C", false)
		first := a.Conn()
		var sent, got []byte
		window, most := 65535, 65535
		var second *scriptpeer.Peer
		for i := 0; len(sent) < 2<<20; i++ {
			window += credit(r.Peer, 1)
			if window > most {
				t.Fatalf("the caller's window is %d, it was never given more than %d", window, most)
			}
			if chunk := min(window, 10000); chunk > 0 {
				p := make([]byte, chunk)
				for j := range p {
					p[j] = byte(len(sent) + j*3)
				}
				r.Data(1, p, false)
				sent = append(sent, p...)
				window -= chunk
			}
			switch {
			case i == 3:
				first.Reset(1, http2.ErrCodeRefusedStream)
				second = b.Conn()
			case i > 3:
				p := data(second.Frames())
				got = append(got, p...)
				if len(p) > 0 {
					second.Window(1, uint32(len(p)))
					second.Window(0, uint32(len(p)))
				} else if window == 0 {
					t.Fatalf("nothing moves after %d bytes, of which %d arrived", len(sent), len(got))
				}
			}
		}
		r.Data(1, nil, true)
		for range 10 {
			p := data(second.Frames())
			got = append(got, p...)
			second.Window(1, 30000)
		}
		if !bytes.Equal(got, sent) {
			t.Errorf("the second instance got %d bytes of %d, or others", len(got), len(sent))
		}
		second.Response(1)
		second.Trailers(1, "0")
		r.Want("HEADERS 1 :status=200", "HEADERS 1 grpc-status=0 end")
	})
}

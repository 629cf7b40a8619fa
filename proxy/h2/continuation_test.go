package h2

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/net/http2"
)

func TestContinuation(t *testing.T) {
	value := strings.Repeat("v", 3000)
	bothRoles(t, func(t *testing.T, role Role) {
		for _, size := range []int{0, 1, 100, 2000} {
			t.Run(fmt.Sprint(size), func(t *testing.T) {
				simulated(t, func(t *testing.T) {
					var r *rig
					var block []byte
					if role == Client {
						r = newClient(t, Config{})
						r.open(false, post...)
						block = r.encode(":status", "200", "x", value, "y", "z")
					} else {
						r = newServer(t, Config{})
						block = r.encode(with(post, "x", value, "y", "z")...)
					}
					first := min(len(block), max(size, len(block)-50*max(size, 1))) // no more than 50 frames follow
					r.must(r.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndStream: true, BlockFragment: block[:first]}))
					for block = block[first:]; len(block) > size; block = block[max(size, 1):] {
						r.must(r.WriteContinuation(1, false, block[:max(size, 1)]))
					}
					r.must(r.WriteContinuation(1, true, block))
					r.frames()
					o := r.opened
					if role == Server {
						o = r.w.streams
					}
					log := o[0].log()
					if len(log) != 1 || !strings.HasSuffix(log[0], " x="+value+" y=z end") {
						t.Errorf("the owner is told %q", log)
					}
				})
			})
		}
	})
}

func TestContinuationThatIsWrong(t *testing.T) {
	tests := map[string]func(r *rig){
		"without HEADERS":    func(r *rig) { r.must(r.WriteContinuation(3, true, r.encode("x", "y"))) },
		"after END_HEADERS":  func(r *rig) { r.headers(3, true, get...); r.must(r.WriteContinuation(3, true, nil)) },
		"of another stream":  func(r *rig) { r.begin3(); r.must(r.WriteContinuation(5, true, nil)) },
		"of stream 0":        func(r *rig) { r.begin3(); r.must(r.WriteContinuation(0, true, nil)) },
		"DATA between":       func(r *rig) { r.begin3(); r.must(r.WriteData(1, false, nil)) },
		"PING between":       func(r *rig) { r.begin3(); r.must(r.WritePing(false, [8]byte{})) },
		"HEADERS between":    func(r *rig) { r.begin3(); r.begin3() },
		"an unknown between": func(r *rig) { r.begin3(); r.must(r.WriteRawFrame(0x99, 0, 3, nil)) },
	}
	for name, send := range tests {
		t.Run(name, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r, _ := openStream(t, Server)
				send(r)
				want(t, "the answer", r.frames(), "GOAWAY*", "end: EOF")
				if !strings.Contains(r.w.err.Error(), "PROTOCOL_ERROR") {
					t.Errorf("the connection ended with %v", r.w.err)
				}
			})
		})
	}
}

// begin3 begins the header section of stream 3.
func (r *rig) begin3() {
	r.must(r.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: r.encode(get...)}))
}

// A header block cannot be made to take memory or time without end.
func TestContinuationWithoutEnd(t *testing.T) {
	for _, size := range []int{0, 1, 16384} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r := newServer(t, Config{})
				r.must(r.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: r.encode(get...)}))
				for range 100 {
					r.must(r.WriteContinuation(1, false, make([]byte, size)))
				}
				want(t, "the answer", r.frames(), "GOAWAY 0 ENHANCE_YOUR_CALM*", "end: EOF")
			})
		})
	}
}

// What we send does not fit one frame of the peer's size.
func TestHeadersAreSplit(t *testing.T) {
	value := strings.Repeat("v", 40000)
	bothRoles(t, func(t *testing.T, role Role) {
		for _, end := range []bool{false, true} {
			t.Run(fmt.Sprint("end ", end), func(t *testing.T) {
				simulated(t, func(t *testing.T) {
					r, o := openStream(t, role)
					tag := " "
					if end {
						tag = " end "
					}
					if role == Server {
						o.send(end, "x", value)
						want(t, "the trailers", r.frames()[:1], "HEADERS 1"+tag+"+16384 +7239 x=vvv*")
						return
					}
					r.open(end, with(get, "x", value)...)
					want(t, "the request", r.frames()[:1], "HEADERS 3"+tag+"+16384 +7245 :method=GET*")
				})
			})
		}
	})
}

func TestHeadersAreNotSplitWhereThePeerTakesMore(t *testing.T) {
	value := strings.Repeat("v", 40000)
	simulated(t, func(t *testing.T) {
		r := newClient(t, Config{}, http2.Setting{ID: http2.SettingMaxFrameSize, Val: 50000})
		o := r.open(false, with(post, "x", value)...)
		o.write(45000, false)
		want(t, "the request", r.frames(), "HEADERS 1 :method*", "DATA 1 32768", "DATA 1 12232")
	})
}

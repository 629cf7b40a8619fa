package relay

import (
	"bytes"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/pillion-proxy/pillion/proxy/h2"
	"github.com/pillion-proxy/pillion/proxy/internal/scriptpeer"
)

var bigWindows = h2.Config{InitialStreamWindow: 4 << 20, ConnWindow: 8 << 20}

// step is how many bytes of a window may not be given back yet.
const step = 65535 / 4

// credit is how much of a stream's window was given back.
func credit(p *scriptpeer.Peer, id uint32) (n int) {
	for _, f := range p.Frames() {
		if f.Type == http2.FrameWindowUpdate && f.Stream == id {
			n += int(f.Last)
		}
	}
	return n
}

// The caller's window is given back only as the instance takes the bytes.
func TestCallersWindowFollowsTheInstance(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{})
		in := r.ask(r.net.Listen("a:1", http2.Setting{ID: http2.SettingInitialWindowSize, Val: 20000}), 1, false)
		r.Message(1, 60000-5, false)
		given := credit(r.Peer, 1)
		if given > 20000 || given <= 20000-step {
			t.Fatalf("%d bytes were given back, want 20000", given)
		}
		if n := len(data(in.Frames())); n != 20000 {
			t.Fatalf("the instance got %d bytes, want 20000", n)
		}
		in.Window(1, 40000)
		if given += credit(r.Peer, 1); given > 60000 || given <= 60000-step {
			t.Errorf("%d bytes were given back in all, want 60000", given)
		}
	})
}

// The instance's window is given back only as the caller takes the bytes.
func TestInstancesWindowFollowsTheCaller(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{http2: bigWindows})
		in := r.ask(r.net.Listen("a:1"), 1, true)
		in.Response(1)
		in.Data(1, make([]byte, 3<<20), false)
		if n := len(data(r.Frames())); n != 65535 {
			t.Fatalf("the caller got %d bytes, want its window", n)
		}
		if n := credit(in, 1); n != 0 {
			t.Fatalf("%d bytes were given back, want none yet", n)
		}
		r.Window(0, 10<<20)
		r.Window(1, 10<<20)
		if n := len(data(r.Frames())); n != 3<<20-65535 {
			t.Fatalf("the caller got %d bytes, want the rest", n)
		}
		if n := credit(in, 1); n < 2<<20 || n > 3<<20 {
			t.Errorf("%d bytes were given back, want nearly all", n)
		}
	})
}

// What cannot go on is bounded for the whole process; the RPC that goes beyond
// that ends.
func TestBudgetOfAnswers(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{http2: bigWindows, budget: 1 << 20})
		in := r.ask(r.net.Listen("a:1"), 1, true)
		in.Response(1)
		in.Data(1, make([]byte, 2<<20), false)
		r.Frames()
		in.Want("RST_STREAM 1 CANCEL")
		r.logged(map[string]any{"status": "RESOURCE_EXHAUSTED", "flag": "OM"})
	})
}

// Trailers that cannot be kept until the caller takes the messages before them are
// lost, so the RPC has not ended well.
func TestBudgetOfTrailers(t *testing.T) {
	for _, c := range []struct {
		name              string
		message, trailers int
	}{
		{"the trailers are too many", 69000, 2000},
		{"the trailers come with a message that is too long", 75000, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r := newRig(t, options{http2: bigWindows, budget: 139_000})
				in := r.ask(r.net.Listen("a:1"), 1, true)
				in.Response(1)
				in.Message(1, 65535-5, false) // all that the caller takes
				r.Frames()
				in.Message(1, c.message-10000, false)
				r.Want()
				// In one write, so that they come in one batch of events.
				var p bytes.Buffer
				fr := http2.NewFramer(&p, nil)
				_ = fr.WriteData(1, false, make([]byte, 10000))
				var block bytes.Buffer
				enc := hpack.NewEncoder(&block)
				_ = enc.WriteField(hpack.HeaderField{Name: "grpc-status", Value: "0"})
				_ = enc.WriteField(hpack.HeaderField{Name: "x", Value: strings.Repeat("v", c.trailers)})
				_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true})
				in.Raw(p.Bytes())
				r.Want("RST_STREAM 1 ENHANCE_YOUR_CALM")
				r.logged(map[string]any{"status": "RESOURCE_EXHAUSTED", "flag": "OM"})
			})
		})
	}
}

func TestBudgetOfRequests(t *testing.T) {
	for _, c := range []string{"while routing", "while the instance is slow"} {
		t.Run(c, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r := newRig(t, options{http2: bigWindows, budget: 1 << 20})
				a := r.net.Listen("a:1")
				r.router.pending = c == "while routing"
				var in *scriptpeer.Peer
				if r.router.pending {
					r.Request(1, "/a.B/C", false)
				} else {
					in = r.ask(a, 1, false)
				}
				r.Data(1, make([]byte, 2<<20), false)
				r.Want("HEADERS 1 :status=200 grpc-status=8 grpc-message=*", "RST_STREAM 1 NO_ERROR")
				r.logged(map[string]any{"status": "RESOURCE_EXHAUSTED", "flag": "OM"})
				if in != nil {
					if lines := in.Lines(); len(lines) == 0 || lines[len(lines)-1] != "RST_STREAM 1 ENHANCE_YOUR_CALM" {
						t.Errorf("the instance got %q", lines)
					}
				}
			})
		})
	}
}

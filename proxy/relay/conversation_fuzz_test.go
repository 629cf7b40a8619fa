package relay

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"github.com/pillion-proxy/pillion/proxy/internal/scriptpeer"
	"github.com/pillion-proxy/pillion/proxy/retry"
)

// FuzzConversation has a caller that keeps to HTTP/2 and an instance that may do
// anything send what the input says, octet by octet, in virtual time. Whatever they
// do, what arrives is the beginning of what was sent, each RPC ends and is logged
// once, and nothing of it is left (which the rig checks). Some RPCs are under policies
// that have them sent again, or several times at once.
func FuzzConversation(f *testing.F) {
	for _, s := range []string{
		"", "\x00\x00\x05\x00\x06\x00\x08\x00", "\x00\x00\x02\x00\x09\x01\x05\x00\x07\x00\x07\x00\x08\x00",
		"\x00\x00\x00\x01\x00\x02\x03\x00\x04\x01\x0a\x07\x05\x02\x0c\x80", "\x00\x01\x00\x02\x00\x03\x0b\x01\x00\x00\x09\x00\x05\x00\x08\x00",
		"\x00\x04\x0c\x30\x05\x00\x0e\x00", "\x00\x00\x0d\x11\x0d\x22\x0d\x33",
	} {
		for policies := range byte(len(conversed)) {
			f.Add(policies, []byte(s))
		}
	}
	f.Add(byte(1), []byte("\x00\x00\x02\x00\x09\x70\x0c\x01\x05\x00\x08\x70\x09\x01"))
	f.Add(byte(2), []byte("\x00\x00\x02\x04\x05\x00\x08\x70\x0c\x01\x05\x01\x07\x01\x08\x01"))
	f.Add(byte(3), []byte("\x00\x00\x02\x04\x0c\x01\x02\x84\x05\x01\x0c\x01\x09\x70\x07\x01\x08\x01"))
	f.Add(byte(3), []byte("\x00\x00\x02\x24\x0c\x01\x02\x34\x02\x34\x0c\x09\x0a\x70\x05\x01\x08\x01"))
	f.Add(byte(4), []byte("\x00\x00\x02\x04\x05\x00\x06\x4d\x0c\xff\x0c\xff\x06\x10"))
	f.Fuzz(func(t *testing.T, policies byte, input []byte) {
		synctest.Test(t, func(t *testing.T) {
			converse(t, conversed[int(policies)%len(conversed)], input[:min(len(input), 120)])
		})
	})
}

// conversed are the policies of conversations.
var conversed = []func(*policed){
	nil,
	func(p *policed) {
		p.retry = retryPolicy(func(p *retry.Policy) { p.ResetBeforeHeaders, p.ConnectFailure = true, true })
	},
	func(p *policed) {
		p.retry = retryPolicy(func(p *retry.Policy) { p.HoldHeaders = true })
		gives(3*time.Second, 0, 0)(p)
	},
	func(p *policed) {
		p.hedging = hedgingPolicy()
		gives(2*time.Second, 0, 0)(p)
	},
	gives(0, 5*time.Second, 20*time.Second),
}

// talk is a conversation under way.
type talk struct {
	*rig
	hosts   []*scriptpeer.Host
	sent    map[uint32][]byte // by the caller, by its streams
	over    map[uint32]bool   // the caller has said its last on the stream
	next    uint32
	streams []*answering
	got     map[uint32][]byte // by the caller
}

// answering is a stream at an instance.
type answering struct {
	conn   *scriptpeer.Peer
	id     uint32
	caller uint32
	got    []byte
	sent   []byte
}

func converse(t *testing.T, give func(*policed), input []byte) {
	r := newRig(t, options{instances: 2, Config: Config{Random: even}})
	hosts := r.listen(2)
	if give != nil {
		r = r.under(give)
	}
	c := &talk{
		rig: r, hosts: hosts, next: 1,
		sent: map[uint32][]byte{}, over: map[uint32]bool{}, got: map[uint32][]byte{},
	}
	for len(input) > 1 {
		c.step(input[0]%15, input[1])
		input = input[2:]
		c.take()
	}
	c.Close()
	c.cluster.Close()
	c.take()
	if n, want := len(c.records()), int(c.next/2); n != want {
		t.Fatalf("%d RPCs are logged, %d were begun", n, want)
	}
}

func (c *talk) step(op, arg byte) {
	caller := 1 + 2*uint32(arg%8)
	mayTalk := caller < c.next && !c.over[caller]
	switch {
	case op < 2:
		c.begin(arg)
	case op < 4 && mayTalk:
		c.sent[caller] = append(c.sent[caller], c.message(caller, arg)...)
		c.over[caller] = arg&0x80 != 0
		c.Data(caller, c.message(caller, arg), c.over[caller])
	case op == 4 && mayTalk:
		c.over[caller] = true
		c.Reset(caller, http2.ErrCode(arg>>3))
	case op == 12:
		time.Sleep(time.Duration(arg) * 100 * time.Millisecond)
	default:
		c.answer(op, arg)
	}
}

func (c *talk) begin(arg byte) {
	fields := []string{"x-caller", strconv.Itoa(int(c.next))}
	switch arg & 7 {
	case 3:
		fields = append(fields, "grpc-timeout", "x")
	case 4:
		fields = append(fields, "grpc-timeout", strconv.Itoa(int(arg))+"m")
	case 5:
		fields = append(fields, "grpc-timeout", "0n")
	}
	id := c.next
	c.next += 2
	c.over[id] = arg&0x80 != 0
	c.Request(id, "/a.B/C", c.over[id], fields...)
}

// message is what the caller or the instance sends: messages, mostly.
func (c *talk) message(stream uint32, arg byte) []byte {
	m := scriptpeer.Message(bytes.Repeat([]byte{byte(stream)}, 8*int(arg)))
	if arg == 77 {
		return m[:3]
	}
	return m
}

// answer has the instance send something on one of its streams.
func (c *talk) answer(op, arg byte) {
	if len(c.streams) == 0 {
		return
	}
	s := c.streams[int(arg)%len(c.streams)]
	if s.conn.Closed() {
		return
	}
	switch op {
	case 5:
		s.conn.Response(s.id, "x-n", strconv.Itoa(int(arg)))
	case 6, 7:
		m := c.message(s.caller, arg)
		s.sent = append(s.sent, m...)
		s.conn.Data(s.id, m, arg&0xc0 == 0xc0)
	case 8:
		s.conn.Trailers(s.id, strconv.Itoa(int(arg>>3)), "grpc-message", fmt.Sprintf("%%%x", arg))
	case 9:
		s.conn.TrailersOnly(s.id, strconv.Itoa(int(arg>>3)), "pillion-flags", "UF")
	case 10:
		s.conn.Reset(s.id, http2.ErrCode(arg>>3))
	case 11:
		s.conn.GoAway(s.id&^uint32(arg&2), http2.ErrCode(arg>>3), "bye")
	case 13:
		s.conn.Headers(s.id, arg&1 == 1, ":status", strconv.Itoa(100+int(arg)*2), "content-type", "text/plain")
	case 14:
		s.conn.Close()
	}
}

// take looks at what arrived, on both sides.
func (c *talk) take() {
	var conns []*scriptpeer.Peer
	for _, h := range c.hosts {
		conns = append(conns, h.Conns()...)
	}
	for _, conn := range conns {
		for _, f := range conn.Frames() {
			switch f.Type {
			case http2.FrameHeaders:
				if caller, err := strconv.Atoi(f.Get("x-caller")); err == nil {
					c.streams = append(c.streams, &answering{conn: conn, id: f.Stream, caller: uint32(caller)})
				}
			case http2.FrameData:
				for _, s := range c.streams {
					if s.conn == conn && s.id == f.Stream {
						s.got = append(s.got, f.Data...)
						if !bytes.HasPrefix(c.sent[s.caller], s.got) {
							c.t.Fatalf("stream %d: the instance got %x, the caller sent %x", s.caller, s.got, c.sent[s.caller])
						}
					}
				}
			}
		}
	}
	for _, f := range c.Frames() {
		if f.Type == http2.FrameGoAway {
			c.t.Fatalf("the caller, which did nothing wrong, got %v", f)
		}
		if f.Type != http2.FrameData {
			continue
		}
		c.got[f.Stream] = append(c.got[f.Stream], f.Data...)
		// Of all attempts one is answered with.
		if !slices.ContainsFunc(c.streams, func(s *answering) bool {
			return s.caller == f.Stream && bytes.HasPrefix(s.sent, c.got[f.Stream])
		}) {
			c.t.Fatalf("stream %d: the caller got %x, which no instance sent", f.Stream, c.got[f.Stream])
		}
	}
}

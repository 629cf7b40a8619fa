package h2

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/net/http2"

	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
)

func TestMalformedRequests(t *testing.T) {
	long := strings.Repeat("x", 100)
	tests := map[string][]string{
		"no :method":               {":scheme", "http", ":path", "/"},
		"no :scheme":               {":method", "GET", ":path", "/"},
		"no :path":                 {":method", "GET", ":scheme", "http"},
		"empty :path":              {":method", "GET", ":scheme", "http", ":path", ""},
		"empty :method":            {":method", "", ":scheme", "http", ":path", "/"},
		":method twice":            with(get, ":method", "GET"),
		":path twice":              with(get, ":path", "/"),
		"unknown pseudo-header":    with(get, ":unknown", "x"),
		":status":                  with(get, ":status", "200"),
		"pseudo-header after one":  with(get, "x", "y", ":authority", "a"),
		"upper case":               with(get, "X-Upper", "x"),
		"empty name":               with(get, "", "x"),
		"space in a name":          with(get, "x y", "x"),
		"colon in a name":          with(get, "x:y", "x"),
		"NUL in a name":            with(get, "x\x00", "x"),
		"octet 0x80 in a name":     with(get, "x\x80", "x"),
		"NUL in a value":           with(get, "x", "a\x00b"),
		"CR in a value":            with(get, "x", "a\rb"),
		"LF in a value":            with(get, "x", long+"\n"),
		"DEL in a value":           with(get, "x", "\x7f"),
		"LF in :path":              {":method", "GET", ":scheme", "http", ":path", "/\n"},
		"two hosts":                with(get, "host", "a", "host", "b"),
		"connection":               with(get, "connection", "close"),
		"keep-alive":               with(get, "keep-alive", "1"),
		"proxy-connection":         with(get, "proxy-connection", "close"),
		"transfer-encoding":        with(get, "transfer-encoding", "chunked"),
		"upgrade":                  with(get, "upgrade", "h2c"),
		"te gzip":                  with(get, "te", "gzip"),
		"content-length -1":        with(get, "content-length", "-1"),
		"content-length +1":        with(get, "content-length", "+1"),
		"content-length empty":     with(get, "content-length", ""),
		"content-length too large": with(get, "content-length", "9223372036854775808"),
		"two content-lengths":      with(get, "content-length", "1", "content-length", "2"),
		"CONNECT with a path":      {":method", "CONNECT", ":authority", "a", ":path", "/"},
		"CONNECT to nobody":        {":method", "CONNECT"},
	}
	for name, request := range tests {
		t.Run(name, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r := newServer(t, Config{})
				r.headers(1, true, request...)
				want(t, "the answer", r.frames(), "RST_STREAM 1 PROTOCOL_ERROR")
				if n := len(r.w.streams); n != 0 {
					t.Errorf("%d streams were opened", n)
				}
				r.headers(3, true, get...)
				r.frames()
				want(t, "the next request", r.w.stream(0).log(), "request GET http://a/ end")
			})
		})
	}
}

func TestRequestsThatAreNotMalformed(t *testing.T) {
	tests := []struct {
		name    string
		request []string
		told    string
	}{
		{"host for :authority", []string{":method", "GET", ":scheme", "http", ":path", "/", "host", "b"}, "request GET http://b/ host=b end"},
		{":authority before host", with(get, "host", "b"), "request GET http://a/ host=b end"},
		{"neither", []string{":method", "GET", ":scheme", "http", ":path", "/"}, "request GET http:/// end"},
		{"CONNECT", []string{":method", "CONNECT", ":authority", "a:1"}, "request CONNECT ://a:1 end"},
		{"OPTIONS *", []string{":method", "OPTIONS", ":scheme", "http", ":path", "*", ":authority", "a"}, "request OPTIONS http://a* end"},
		{"repeated in order", with(get, "k", "1", "l", "2", "k", "3", "k", ""), "request GET http://a/ k=1 l=2 k=3 k= end"},
		{"bytes above 0x7f", with(get, "k", "\xff\x80é"), "request GET http://a/ k=\xff\x80é end"},
		{"tab", with(get, "k", "a\tb"), "request GET http://a/ k=a\tb end"},
		{"te trailers", with(get, "te", "trailers"), "request GET http://a/ te=trailers end"},
		{"the same content-length twice", with(get, "content-length", "0", "content-length", "0"), "request GET http://a/ content-length=0 content-length=0 end"},
		{"all name characters", with(get, "!#$%&'*+-.^_`|~09az", "x"), "request GET http://a/ !#$%&'*+-.^_`|~09az=x end"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r := newServer(t, Config{})
				r.headers(1, true, test.request...)
				want(t, "the answer", r.frames())
				want(t, "what the owner is told", r.w.stream(0).log(), test.told)
			})
		})
	}
}

func TestMalformedResponses(t *testing.T) {
	tests := map[string][]string{
		"no :status":             {"x", "y"},
		"nothing":                {},
		":status 20":             {":status", "20"},
		":status 2000":           {":status", "2000"},
		":status 0x1":            {":status", "0x1"},
		":status 099":            {":status", "099"},
		":status twice":          {":status", "200", ":status", "200"},
		":status 101":            {":status", "101"},
		"a request":              get,
		"connection":             with(ok, "connection", "close"),
		"LF in a value":          with(ok, "x", "\n"),
		"content-length of text": with(ok, "content-length", "many"),
	}
	for name, response := range tests {
		t.Run(name, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r, o := openStream(t, Client)
				r.headers(1, false, response...)
				want(t, "the answer", r.frames(), "RST_STREAM 1 PROTOCOL_ERROR")
				want(t, "what the owner is told", o.log(), "reset malformed PROTOCOL_ERROR", "closed")
			})
		})
	}
}

func TestInformationalResponseMayNotEndTheStream(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r, o := openStream(t, Client)
		r.headers(1, true, ":status", "103")
		want(t, "the answer", r.frames(), "RST_STREAM 1 PROTOCOL_ERROR")
		want(t, "what the owner is told", o.log(), "reset malformed PROTOCOL_ERROR", "closed")
	})
}

func TestInformationalResponsesWithoutEnd(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r, _ := openStreamWith(t, Config{Nuisance: 100}, Client)
		for range 500 {
			r.headers(1, false, ":status", "102")
		}
		want(t, "the answer", r.frames(), "GOAWAY 0 ENHANCE_YOUR_CALM*", "end: EOF")
	})
}

func TestMalformedTrailers(t *testing.T) {
	tests := []struct {
		name   string
		end    bool
		fields []string
	}{
		{"without END_STREAM", false, []string{"x", "y"}},
		{"with a pseudo-header", true, []string{":path", "/"}},
		{"with a status", true, []string{":status", "200"}},
		{"upper case", true, []string{"X", "y"}},
		{"too large", true, []string{"x", strings.Repeat("y", 2000)}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			bothRoles(t, func(t *testing.T, role Role) {
				simulated(t, func(t *testing.T) {
					r, o := openStreamWith(t, Config{MaxHeaderListSize: 1000}, role)
					if role == Client {
						r.headers(1, false, ok...)
						r.frames()
						o.log()
					}
					r.headers(1, test.end, test.fields...)
					want(t, "the answer", r.frames(), "RST_STREAM 1 PROTOCOL_ERROR")
					want(t, "what the owner is told", o.log(), "reset malformed PROTOCOL_ERROR", "closed")
					if !strings.Contains(o.reset.Err.Error(), ": ") || strings.HasSuffix(o.reset.Err.Error(), ": ") {
						t.Errorf("the error says no reason: %q", o.reset.Err)
					}
				})
			})
		})
	}
}

func TestHeadersOnStreamsThatAreClosed(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r, o := openStream(t, Server)
		r.must(r.WriteData(1, true, nil))
		r.frames()
		o.send(true, "grpc-status", "0")
		r.frames()
		r.headers(1, true, "x", "y")
		want(t, "the answer", r.frames(), "GOAWAY 1 STREAM_CLOSED*", "end: EOF")
	})
}

func TestHeadersAfterTheEnd(t *testing.T) {
	bothRoles(t, func(t *testing.T, role Role) {
		simulated(t, func(t *testing.T) {
			r, o := openStream(t, role)
			if role == Client {
				r.headers(1, true, ok...)
			} else {
				r.must(r.WriteData(1, true, nil))
			}
			r.headers(1, true, "x", "y")
			want(t, "the answer", r.frames(), "RST_STREAM 1 STREAM_CLOSED")
			log := o.log()
			want(t, "what the owner is told", log[1:], "reset malformed STREAM_CLOSED", "closed")
		})
	})
}

func TestStreamIDsThatGoBack(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newServer(t, Config{})
		r.headers(5, true, get...)
		r.headers(3, true, get...)
		want(t, "the answer", r.frames(), "GOAWAY 5 PROTOCOL_ERROR*", "end: EOF")
	})
}

func TestStreamIDsThatAreEven(t *testing.T) {
	bothRoles(t, func(t *testing.T, role Role) {
		simulated(t, func(t *testing.T) {
			r, _ := openStream(t, role)
			r.headers(2, true, get...)
			want(t, "the answer", r.frames(), fmt.Sprintf("GOAWAY %d PROTOCOL_ERROR*", role.lastOf1()), "end: EOF")
		})
	})
}

func TestResponseOnAnIdleStream(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r, _ := openStream(t, Client)
		r.headers(3, true, ok...)
		want(t, "the answer", r.frames(), "GOAWAY 0 PROTOCOL_ERROR*", "end: EOF")
	})
}

func TestRequestWithTooManyHeaders(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newServer(t, Config{MaxHeaderListSize: 500})
		r.headers(1, false, with(post, "a", "1", "x", strings.Repeat("v", 500), "b", "2")...)
		want(t, "the answer", r.frames())
		want(t, "what the owner is told", r.w.stream(0).log(), "request POST http://a/ a=1 too large")
		r.headers(3, true, with(post, "b", "2")...) // the table is as the peer thinks
		r.frames()
		want(t, "the next request", r.w.stream(1).log(), "request POST http://a/ b=2 end")
	})
}

func TestResponseWithTooManyHeaders(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r, o := openStreamWith(t, Config{MaxHeaderListSize: 500}, Client)
		r.headers(1, false, with(ok, "x", strings.Repeat("v", 500))...)
		want(t, "the answer", r.frames(), "RST_STREAM 1 PROTOCOL_ERROR")
		want(t, "what the owner is told", o.log(), "reset malformed PROTOCOL_ERROR", "closed")
	})
}

func TestHeaderBlockThatCannotBeDecoded(t *testing.T) {
	bothRoles(t, func(t *testing.T, role Role) {
		simulated(t, func(t *testing.T) {
			r, o := openStream(t, role)
			r.must(r.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndHeaders: true, EndStream: true, BlockFragment: []byte{0xff, 0xff, 0xff, 0xff, 0xff}}))
			want(t, "the answer", r.frames(), fmt.Sprintf("GOAWAY %d COMPRESSION_ERROR*", role.lastOf1()), "end: EOF")
			want(t, "what the owner is told", o.log(), "reset conn*", "closed")
		})
	})
}

func TestHeadersWithPaddingAndPriority(t *testing.T) {
	for _, pad := range []uint8{0, 1, 255} {
		for _, weight := range []uint8{0, 7} {
			t.Run(fmt.Sprint(pad, " ", weight), func(t *testing.T) {
				simulated(t, func(t *testing.T) {
					r := newServer(t, Config{})
					r.must(r.WriteHeaders(http2.HeadersFrameParam{
						StreamID: 1, EndHeaders: true, EndStream: true, BlockFragment: r.encode(get...),
						PadLength: pad, Priority: http2.PriorityParam{StreamDep: 3, Weight: weight},
					}))
					want(t, "the answer", r.frames())
					want(t, "what the owner is told", r.w.stream(0).log(), "request GET http://a/ end")
				})
			})
		}
	}
}

func TestHeadersFramesThatAreWrong(t *testing.T) {
	tests := []struct {
		name    string
		flags   http2.Flags
		id      uint32
		payload string
		code    ErrCode
	}{
		{"on stream 0", http2.FlagHeadersEndHeaders, 0, "\x82", ProtocolError},
		{"padding as long as the payload", http2.FlagHeadersEndHeaders | http2.FlagHeadersPadded, 3, "\x01", ProtocolError},
		{"padding longer than the payload", http2.FlagHeadersEndHeaders | http2.FlagHeadersPadded, 3, "\x05\x82\x82", ProtocolError},
		{"padded and empty", http2.FlagHeadersEndHeaders | http2.FlagHeadersPadded, 3, "", ProtocolError},
		{"too short for its priority", http2.FlagHeadersEndHeaders | http2.FlagHeadersPriority, 3, "\x00\x00\x00\x00", FrameSizeError},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r, _ := openStream(t, Server)
				r.must(r.WriteRawFrame(http2.FrameHeaders, test.flags, test.id, []byte(test.payload)))
				want(t, "the answer", r.frames(), "GOAWAY 1 "+test.code.String()+"*", "end: EOF")
			})
		})
	}
}

func TestStreamThatDependsOnItself(t *testing.T) {
	for _, continued := range []bool{false, true} {
		t.Run(fmt.Sprint("continued ", continued), func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r := newServer(t, Config{})
				r.must(r.WriteHeaders(http2.HeadersFrameParam{
					StreamID: 1, EndHeaders: !continued, EndStream: true, BlockFragment: r.encode(get...),
					Priority: http2.PriorityParam{StreamDep: 1},
				}))
				if continued {
					r.must(r.WriteContinuation(1, true, nil))
				}
				want(t, "the answer", r.frames(), "RST_STREAM 1 PROTOCOL_ERROR")
			})
		})
	}
}

// A field that must never be indexed stays so on its way through.
func TestSensitiveFields(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newServer(t, Config{})
		r.headers(1, true, with(get, "cookie", "public")...)
		r.must(r.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, EndHeaders: true, EndStream: true,
			BlockFragment: append(r.encode(get...), "\x10\x06secret\x01x"...)}))
		r.frames()
		want(t, "what the owner is told", r.w.stream(1).log(), "request GET http://a/ secret=x(sensitive) end")
		do(func(b *Batch) {
			f := fields(":status", "200", "secret", "x")
			f[1].Sensitive = true
			r.w.stream(1).s.SendHeaders(b, f, true)
		})
		want(t, "the answer", r.frames(), "HEADERS 3 end :status=200 secret=x(sensitive)")
	})
}

func TestResponseOnAStreamThatIsClosed(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newClient(t, Config{})
		o := r.open(true, get...)
		r.headers(1, true, ok...)
		r.headers(1, true, ok...)
		want(t, "the answer", r.frames(), "HEADERS 1*", "RST_STREAM 1 STREAM_CLOSED")
		want(t, "what the owner is told", o.log(), "response 200 end", "closed")
	})
}

func TestRemoveFields(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newServer(t, Config{})
		remover := &removing{}
		remover.s.Init(remover)
		r.w.fresh = func(o *recorder) { o.s.Init(remover); o.closed = true }
		r.headers(1, true, with(get, "a", "1", "x", "2", "b", "3", "x", "4")...)
		r.frames()
		if got, want := fmt.Sprint(remover.all), "[:method=GET :scheme=http :path=/ :authority=a a=1 b=3]"; got != want {
			t.Errorf("%s is left, not %s", got, want)
		}
		if got, want := fmt.Sprint(remover.regular), "[a=1 b=3]"; got != want {
			t.Errorf("%s of the regular fields are left, not %s", got, want)
		}
	})
}

// removing is an owner that takes fields named x out.
type removing struct {
	answerer
	all, regular []string
}

func (o *removing) OnHeaders(_ *Batch, _ *Stream, _ uint32, h *Head, _ bool) {
	h.Remove(func(f *hpack.Field) bool { return f.Name == "x" })
	for _, f := range h.Fields() {
		o.all = append(o.all, f.Name+"="+f.Value)
	}
	for _, f := range h.Regular {
		o.regular = append(o.regular, f.Name+"="+f.Value)
	}
}

// A head's memory is the owner's to keep.
func TestTakeHead(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newServer(t, Config{})
		k := &keeper{}
		k.s.Init(k)
		r.w.fresh = func(o *recorder) { o.s.Init(k); o.closed = true }
		r.headers(1, true, with(get, "x-first", "1")...)
		r.headers(3, true, with(get, "x-second", "2")...)
		r.frames()
		for i, field := range []string{"x-first", "x-second"} {
			if v, ok := k.blocks[i].Get(field); !ok || v != fmt.Sprint(i+1) {
				t.Errorf("block %d has become %v", i, k.blocks[i].Fields)
			}
			FreeBlock(k.blocks[i])
		}
		FreeBlock(nil)
	})
}

type keeper struct {
	answerer
	blocks []*hpack.Block
}

func (k *keeper) OnHeaders(_ *Batch, _ *Stream, _ uint32, h *Head, _ bool) {
	k.blocks = append(k.blocks, h.Take())
}

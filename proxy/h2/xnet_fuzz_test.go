package h2

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	xhpack "golang.org/x/net/http2/hpack"

	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
)

// FuzzServerAgainstXNet gives our server and the one of golang.org/x/net the same
// bytes: both must hand on the same requests, with the same content, and both must
// end the connection in error, or neither.
//
// Where both are right and differ, the input ends before the frame: see
// serverDiffers.
func FuzzServerAgainstXNet(f *testing.F) {
	addScripts(f)
	f.Fuzz(func(t *testing.T, input []byte, _ uint8) {
		cfg := referenceConfig
		cfg.MaxConcurrentStreams = 1000
		ref := newReference(Server, cfg, false)
		serverDiffers(ref)
		sent := play(Server, input)
		use, refErr := ref.run(sent)
		sent = sent[:use]
		if refErr != nil && refErr.code == EnhanceYourCalm { // section 10.5: each has its own limits
			return
		}
		synctest.Test(t, func(t *testing.T) {
			ours, ourFault := engineRequests(t, cfg, sent)
			theirs, theirFault := xnetRequests(t, sent)
			agree(t, sent, ours, theirs, ourFault, theirFault)
		})
	})
}

// FuzzClientAgainstXNet does the same to our client and to x/net's Transport; see
// clientDiffers.
func FuzzClientAgainstXNet(f *testing.F) {
	addScripts(f)
	f.Fuzz(func(t *testing.T, input []byte, _ uint8) {
		ref := newReference(Client, referenceConfig, false)
		for i := range 3 {
			ref.opened(uint32(1+2*i), i != 1)
		}
		clientDiffers(ref)
		sent := play(Client, input)
		use, refErr := ref.run(sent)
		sent = sent[:use]
		if refErr != nil && refErr.code == EnhanceYourCalm {
			return
		}
		synctest.Test(t, func(t *testing.T) {
			ours, ourFault := engineResponses(t, sent)
			theirs, theirFault := xnetResponses(t, sent)
			agree(t, sent, ours, theirs, ourFault, theirFault)
		})
	})
}

// bothDiffer lists what sets x/net apart in either role.
func bothDiffer(r *reference) (frame func(h frameHeader, p []byte) bool, section func(fields []hpack.Field, err error) bool) {
	acks := 0
	theirs := xhpack.NewDecoder(4096, nil)
	frame = func(h frameHeader, p []byte) bool {
		switch h.typ {
		case frameHeaders:
			// Section 6.2 has a connection error for too much padding, x/net a
			// stream error.
			_, ok := stripPadding(h, p)
			// Section 3.4: SETTINGS come first; x/net looks at what is in the block
			// before it looks at that.
			return !ok || !r.settled
		case framePriority:
			// Section 6.3 has a stream error for a wrong length, x/net a connection
			// error. That a stream cannot depend on itself is RFC 7540's (section
			// 5.3.1); RFC 9113 leaves it open, and x/net forgets it on idle streams.
			return h.length != 5 || binary.BigEndian.Uint32(p)&maxStreamID == h.id
		case frameSettings:
			if h.has(flagAck) {
				// RFC 9113 does not say what an acknowledgement of nothing is; x/net
				// ends the connection. Section 3.4: the first frame is no
				// acknowledgement; x/net does not look.
				acks++
				return acks > 1 || !r.settled
			}
			// Section 6.5.3: values are processed in the order they appear, so a
			// parameter may come twice; x/net refuses that. Section 6.5.2: unknown
			// parameters are ignored; x/net knows later RFCs' and refuses some values.
			seen := map[uint16]bool{}
			for ; len(p) >= settingLen; p = p[settingLen:] {
				id := binary.BigEndian.Uint16(p)
				if seen[id] || id > uint16(settingMaxHeaderListSize) {
					return true
				}
				seen[id] = true
			}
		case frameWindowUpdate:
			// Section 5.1: any frame but HEADERS and PRIORITY on an idle stream ends
			// the connection; x/net resets the stream where the increment is 0.
			return h.length == 4 && (r.idle(h.id) || !r.settled) && h.id != 0 && binary.BigEndian.Uint32(p)&maxWindow == 0
		case frameGoAway:
			// Section 6.8: each decides by itself how it goes on after GOAWAY.
			return true
		case frameContinuation, frameData, frameRSTStream, framePushPromise, framePing:
		default:
			// x/net knows PRIORITY_UPDATE (RFC 9218); to us it is a frame of an
			// unknown type (section 5.5).
			return h.typ == 0x10
		}
		return false
	}
	section = func(fields []hpack.Field, err error) bool {
		// RFC 7541 section 4.2, see FuzzDecode: x/net takes table size updates in
		// places where they must not be, and refuses a second one at the start.
		_, theirErr := theirs.DecodeFull(r.block)
		large := errors.Is(err, hpack.ErrListTooLarge)
		if (err == nil || large) != (theirErr == nil) {
			return true
		}
		// Section 10.5.1: each has its own way with lists that are too large.
		if large || len(r.block) > 2000 {
			return true
		}
		if err != nil {
			return false
		}
		// x/net ends the connection for a malformed section with CONTINUATION;
		// section 8.1.1 asks for no more than a stream error.
		pseudo, regular := splitPseudo(fields)
		_, ok := checkRefFields(regular)
		if r.conts > 0 && (pseudo == nil || !ok) {
			return true
		}
		// Sections 8.2.2 and 8.1.1: x/net hands sections with fields of the
		// connection's, or with a content-length that is none, to its own handler,
		// or just drops the field.
		for _, f := range regular {
			switch f.Name {
			case "connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade", "te", "content-length":
				return !ok
			}
		}
		return false
	}
	return frame, section
}

// serverDiffers has the reading end where x/net's server differs from ours.
func serverDiffers(r *reference) {
	frame, section := bothDiffer(r)
	r.beforeFrame = func(h frameHeader, p []byte) bool {
		// Section 5.1: HEADERS open a stream, malformed or not; to x/net it stays
		// idle where they are malformed.
		opened := uint32(0)
		if len(r.order) > 0 {
			opened = r.order[len(r.order)-1].id
		}
		if h.id > opened && h.id <= r.last {
			return true
		}
		if s := r.byID[h.id]; s != nil && !s.head {
			return true
		}
		// Section 10.5: x/net queues handlers, and has had enough at some point.
		return len(r.order) > 200 || frame(h, p)
	}
	r.beforeSection = func(id uint32, fields []hpack.Field, err error, end bool) bool {
		if section(fields, err) {
			return true
		}
		if err != nil || id <= r.last || id%2 == 0 {
			return false
		}
		pseudo, regular := splitPseudo(fields)
		length, ok := checkRefFields(regular)
		if !ok || pseudo == nil {
			return false
		}
		// Section 8.3.1: other schemes than http and https are allowed; x/net
		// refuses them, and paths that are no URL's.
		_, badPath := url.ParseRequestURI(pseudo[":path"])
		scheme, method := pseudo[":scheme"], pseudo[":method"]
		if method == "CONNECT" || scheme != "http" && scheme != "https" || badPath != nil {
			return true
		}
		// Section 8.3.1: a host that differs from :authority should be refused. Where
		// it names the same in another way, it need not; we go by :authority alone.
		for _, f := range regular {
			if host, ok := pseudo[":authority"]; f.Name == "host" && ok && host != "" && f.Value != host {
				return true
			}
		}
		// Section 8.1.1: END_STREAM with a content-length above 0 is malformed; x/net
		// does not look.
		return end && length > 0
	}
}

// clientDiffers has the reading end where x/net's client differs from ours.
func clientDiffers(r *reference) {
	frame, section := bothDiffer(r)
	r.beforeFrame = func(h frameHeader, p []byte) bool {
		switch h.typ {
		case frameHeaders, frameRSTStream, frameWindowUpdate:
			// Section 5.1: a frame on an idle stream is a connection error; x/net's
			// client takes it for a frame on a stream that it has forgotten.
			if h.id != 0 && r.idle(h.id) {
				return true
			}
			// Section 5.1: what comes after a stream was reset is ignored; x/net's
			// client may still hand it on.
			if s := r.byID[h.id]; s != nil && s.closed && !s.peerEnd {
				return true
			}
		case frameData:
			// Streams of a server (section 5.1.1) x/net takes for forgotten, too.
			if h.id != 0 && h.id%2 == 0 {
				return true
			}
		case frameSettings:
			// Section 6.5.2: a server must not enable push; x/net does not look. It
			// finds windows that overflow only when it uses them (section 6.9.2).
			for q := p; len(q) >= settingLen && h.length%settingLen == 0; q = q[settingLen:] {
				id, v := settingID(binary.BigEndian.Uint16(q)), binary.BigEndian.Uint32(q[2:])
				if id == settingEnablePush || id == settingInitialWindowSize && v > 1<<20 {
					return true
				}
			}
		}
		if h.typ == frameWindowUpdate && h.length == 4 && binary.BigEndian.Uint32(p)&maxWindow > 1<<20 {
			return true
		}
		return frame(h, p)
	}
	r.beforeSection = func(id uint32, fields []hpack.Field, err error, end bool) bool {
		s := r.byID[id]
		if section(fields, err) {
			return true
		}
		if err != nil || s == nil {
			return false
		}
		pseudo, regular := splitPseudo(fields)
		if _, ok := checkRefFields(regular); !ok || pseudo == nil {
			return false // x/net's Framer makes a stream error of it, as we do
		}
		if s.head {
			// Section 8.1: trailers end the stream and have no pseudo-header fields;
			// otherwise they are malformed, for which x/net's client ends the
			// connection.
			return len(pseudo) > 0 || !end || s.peerEnd
		}
		// Sections 8.3.2 and 8.6: exactly :status, of three digits, not 101; x/net
		// takes any number.
		// Section 8.1.1: an answer may have a content-length and no content; x/net's
		// client believes that of HEAD only.
		if length, _ := checkRefFields(regular); end && length > 0 {
			return true
		}
		status := pseudo[":status"]
		return len(pseudo) != 1 || len(status) != 3 || strings.Trim(status, "0123456789") != "" || status < "102"
	}
}

// exchange is what became of one half of a stream.
type exchange struct {
	head     string
	trailers string
	body     []byte
	end      string // open, ended or broken
}

func (e *exchange) String() string {
	return fmt.Sprintf("%s; %d bytes, %s; trailers %s", e.head, len(e.body), e.end, e.trailers)
}

// agree compares what both sides saw. x/net tells of a connection's end by
// breaking its streams, we tell so apart: there only what came counts.
func agree(t *testing.T, sent []byte, ours, theirs []*exchange, ourFault, theirFault bool) {
	t.Helper()
	lines := func(all []*exchange) (list []string) {
		for _, e := range all {
			if e.end == "broken" {
				e.body = nil // how much of malformed content is handed on is up to each
			}
			if ourFault && theirFault && e.end != "ended" {
				e.end, e.body = "open or broken", nil
			}
			list = append(list, fmt.Sprintf("%v %x", e, e.body))
		}
		slices.Sort(list) // x/net's handlers do not know in which order they came
		return list
	}
	a, b := lines(ours), lines(theirs)
	if ourFault != theirFault || !slices.Equal(a, b) {
		t.Fatalf("ours, connection error %v:\n%s\nx/net's, connection error %v:\n%s\nof\n%s",
			ourFault, strings.Join(a, "\n"), theirFault, strings.Join(b, "\n"), dump(sent))
	}
}

// line describes fields as net/http has them: in no order, without those that it
// takes for itself (RFC 9110 sections 10.1.1 and 6.6.2, RFC 9113 sections 8.2.3
// and 8.3.1), and without content-length, which it writes anew.
func fieldLine(add func(yield func(name, value string))) string {
	var list []string
	add(func(name, value string) {
		switch name = strings.ToLower(name); name {
		case "host", "expect", "trailer", "cookie", "content-length":
		default:
			list = append(list, name+"="+value)
		}
	})
	slices.Sort(list)
	return strings.Join(list, " ")
}

func ourFields(list []hpack.Field) string {
	return fieldLine(func(yield func(name, value string)) {
		for _, f := range list {
			yield(f.Name, f.Value)
		}
	})
}

func theirFields(h http.Header) string {
	return fieldLine(func(yield func(name, value string)) {
		for name, values := range h {
			for _, v := range values {
				yield(name, v)
			}
		}
	})
}

// listener is an owner that notes an exchange and says nothing.
type listener struct {
	exchange
	s  Stream
	mu sync.Mutex
}

func newListener() *listener {
	l := &listener{exchange: exchange{end: "open"}}
	l.s.Init(l)
	return l
}

func (l *listener) OnHeaders(_ *Batch, _ *Stream, _ uint32, h *Head, end bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch h.Kind {
	case HeadRequest:
		l.head = fmt.Sprintf("%s %s%s %s", h.Method, h.Authority, h.Path, ourFields(h.Regular))
	case HeadResponse:
		l.head = fmt.Sprintf("%d %s", h.Status, ourFields(h.Regular))
	case HeadTrailers:
		l.trailers = ourFields(h.Regular)
	}
	if end {
		l.end = "ended"
	}
}

func (l *listener) OnData(b *Batch, s *Stream, _ uint32, p []byte, end bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.body = append(l.body, p...)
	s.Consume(b, len(p))
	if end {
		l.end = "ended"
	}
}

func (l *listener) OnReset(_ *Batch, _ *Stream, _ uint32, r Reset) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.end == "open" && r.Cause != CauseConn {
		l.end = "broken"
	}
}

func (l *listener) OnTaken(*Batch, *Stream, uint32, int) {}
func (l *listener) OnClosed(*Batch, *Stream, uint32)     {}

// listeners is the handler of a connection whose streams are listened to.
type listeners struct {
	mu  sync.Mutex
	all []*listener
	err error
}

func (l *listeners) NewStream(*Conn) *Stream {
	o := newListener()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, o)
	return &o.s
}

func (l *listeners) OnConnSlots(*Batch, *Conn)    {}
func (l *listeners) OnConnDraining(*Batch, *Conn) {}
func (l *listeners) OnConnClosed(_ *Batch, _ *Conn, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = err
}

// seen returns what was noted so far, and whether the connection ended for an
// error of the peer's.
func (l *listeners) seen() (all []*exchange, fault bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, o := range l.all {
		o.mu.Lock()
		e := o.exchange
		o.mu.Unlock()
		all = append(all, &e)
	}
	var ce *ConnError
	return all, errors.As(l.err, &ce) && !ce.Remote
}

func engineRequests(t *testing.T, cfg Config, sent []byte) ([]*exchange, bool) {
	engine, other := newSim()
	full := cfg.WithDefaults()
	var l listeners
	var serving sync.WaitGroup
	serving.Go(func() { New(engine, Server, &full, &l).Serve() })
	p := newPeer(t, other, false)
	p.must1(p.raw([]byte(clientPreface)))
	p.must1(p.raw(sent))
	p.frames()
	defer serving.Wait()
	defer other.Close()
	return l.seen()
}

func engineResponses(t *testing.T, sent []byte) ([]*exchange, bool) {
	engine, other := newSim()
	full := referenceConfig.WithDefaults()
	var l listeners
	c := New(engine, Client, &full, &l)
	for i := range 3 {
		o := newListener()
		l.all = append(l.all, o)
		do(func(b *Batch) {
			if _, err := c.Open(b, &o.s, fields(post...), i != 1); err != nil {
				t.Error(err)
			}
		})
	}
	var serving sync.WaitGroup
	serving.Go(c.Serve)
	p := newPeer(t, other, true)
	p.must1(p.raw(sent))
	p.frames()
	defer serving.Wait()
	defer other.Close()
	return l.seen()
}

func (p *peer) must1(_ int, err error) { p.must(err) }

// simConn makes an end of a simulated connection a net.Conn.
type simConn struct{ *simEnd }

type lentSlice []byte

func (l lentSlice) Lend() []byte { return l }
func (lentSlice) Return()        {}

func (c simConn) Read(p []byte) (int, error)       { return c.simEnd.Read(lentSlice(p)) }
func (c simConn) Write(p []byte) (int, error)      { return c.simEnd.Write(p, 0) }
func (c simConn) SetDeadline(d time.Time) error    { return c.SetReadDeadline(d) }
func (c simConn) SetWriteDeadline(time.Time) error { return nil }

var _ net.Conn = simConn{}

// noted is a list of exchanges that grows.
type noted struct {
	mu  sync.Mutex
	all []*exchange
}

// add notes an exchange, and reads its body as it comes.
func (n *noted) add(e *exchange, body io.Reader, atEnd func()) {
	n.mu.Lock()
	n.all = append(n.all, e)
	n.mu.Unlock()
	buf := make([]byte, 4096)
	for {
		k, err := body.Read(buf)
		n.mu.Lock()
		e.body = append(e.body, buf[:k]...)
		switch {
		case err == io.EOF:
			e.end = "ended"
			atEnd()
		case err != nil:
			e.end = "broken"
		}
		n.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (n *noted) seen() (all []*exchange) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, e := range n.all {
		c := *e
		all = append(all, &c)
	}
	return all
}

// failed says whether the other end's frames tell of a connection error.
func failed(frames []string) bool {
	return slices.ContainsFunc(frames, func(f string) bool {
		return strings.HasPrefix(f, "end:") || strings.HasPrefix(f, "GOAWAY") && !strings.Contains(f, "NO_ERROR")
	})
}

var quietLog = log.New(io.Discard, "", 0)

func xnetRequests(t *testing.T, sent []byte) ([]*exchange, bool) {
	here, other := newSim()
	var n noted
	over := make(chan struct{})
	handler := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		n.add(&exchange{
			head: fmt.Sprintf("%s %s%s %s", r.Method, r.Host, r.RequestURI, theirFields(r.Header)), end: "open",
		}, r.Body, func() {})
		<-over
	})
	var serving sync.WaitGroup
	serving.Go(func() {
		s := &http2.Server{MaxConcurrentStreams: 1000, MaxUploadBufferPerConnection: 1 << 30, MaxUploadBufferPerStream: 1 << 20, MaxReadFrameSize: minMaxFrameSize}
		s.ServeConn(simConn{here}, &http2.ServeConnOpts{
			Handler: handler, BaseConfig: &http.Server{MaxHeaderBytes: 2000 - 320, ErrorLog: quietLog},
		})
	})
	p := newPeer(t, other, false)
	p.must1(p.raw([]byte(clientPreface)))
	p.must1(p.raw(sent))
	fault := failed(p.frames())
	all := n.seen()
	other.Close()
	close(over)
	serving.Wait()
	return all, fault
}

func xnetResponses(t *testing.T, sent []byte) ([]*exchange, bool) {
	here, other := newSim()
	tr := &http2.Transport{DisableCompression: true, MaxHeaderListSize: 2000, MaxReadFrameSize: minMaxFrameSize, AllowHTTP: true}
	cc, err := tr.NewClientConn(simConn{here})
	if err != nil {
		t.Fatal(err)
	}
	p := newPeer(t, other, true)
	var n [3]noted
	var asking sync.WaitGroup
	body, bodyEnd := io.Pipe()
	for i := range 3 {
		var content io.Reader
		if i == 1 {
			content = body
		}
		req := must(http.NewRequestWithContext(t.Context(), http.MethodPost, "http://a/", content))
		asking.Go(func() {
			res, err := cc.RoundTrip(req)
			if err != nil {
				n[i].mu.Lock()
				defer n[i].mu.Unlock()
				n[i].all = append(n[i].all, &exchange{end: "broken"})
				return
			}
			e := &exchange{head: fmt.Sprintf("%d %s", res.StatusCode, theirFields(res.Header)), end: "open"}
			n[i].add(e, res.Body, func() { e.trailers = theirFields(res.Trailer) })
		})
		synctest.Wait() // so that ids are in this order
	}
	p.must1(p.raw(sent))
	fault := failed(p.frames())
	var all []*exchange
	for i := range n {
		one := n[i].seen()
		if len(one) == 0 {
			one = []*exchange{{end: "open"}}
		}
		all = append(all, one...)
	}
	other.Close()
	bodyEnd.Close()
	asking.Wait()
	cc.Close()
	tr.CloseIdleConnections()
	return all, fault
}

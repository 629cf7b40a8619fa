package h2

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"

	"golang.org/x/net/http2"
	xhpack "golang.org/x/net/http2/hpack"
)

// peer is the other end of a connection under test, played by the test frame by
// frame. What it reads and writes goes through golang.org/x/net/http2, which also
// checks the frames of the engine.
type peer struct {
	t   testing.TB
	end *simEnd
	*http2.Framer

	got      bytes.Buffer // bytes that came and are no whole frame yet
	preface  bool         // the engine's preface has to come first
	block    []byte       // a header block whose CONTINUATION is awaited
	blockTag string
	content  map[uint32][]byte // DATA that came, if somebody made the map
	enc      *xhpack.Encoder
	encoded  bytes.Buffer
	dec      *xhpack.Decoder
}

func newPeer(t testing.TB, end *simEnd, preface bool) *peer {
	p := &peer{t: t, end: end, preface: preface}
	p.Framer = http2.NewFramer(writerFunc(p.raw), &p.got)
	p.Framer.AllowIllegalWrites = true
	p.Framer.SetMaxReadFrameSize(maxMaxFrameSize)
	p.enc = xhpack.NewEncoder(&p.encoded)
	p.dec = xhpack.NewDecoder(4096, nil)
	return p
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// raw sends bytes, whatever they are.
func (p *peer) raw(b []byte) (int, error) {
	l := p.end.out
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf = append(l.buf, b...)
	l.cond.Broadcast()
	return len(b), nil
}

// headers sends a header section in one HEADERS frame.
func (p *peer) headers(id uint32, end bool, fields ...string) {
	p.must(p.WriteHeaders(http2.HeadersFrameParam{
		StreamID: id, EndStream: end, EndHeaders: true, BlockFragment: p.encode(fields...),
	}))
}

// encode encodes names and values, which alternate.
func (p *peer) encode(fields ...string) []byte {
	p.encoded.Reset()
	for i := 0; i < len(fields); i += 2 {
		p.must(p.enc.WriteField(xhpack.HeaderField{Name: fields[i], Value: fields[i+1]}))
	}
	return bytes.Clone(p.encoded.Bytes())
}

func (p *peer) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

// get and post are the fields of requests.
var (
	get  = []string{":method", "GET", ":scheme", "http", ":path", "/", ":authority", "a"}
	post = []string{":method", "POST", ":scheme", "http", ":path", "/", ":authority", "a"}
	ok   = []string{":status", "200"}
)

// with returns fields and more.
func with(fields []string, more ...string) []string {
	return append(append([]string(nil), fields...), more...)
}

// take takes up to n bytes that the engine has sent out of the network, so that
// it has room for more; n < 0 takes all. It returns what came before the end of
// the connection, and whether it has ended.
func (p *peer) take(n int) (end error) {
	l := p.end.in
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.rerr != nil {
		return l.rerr
	}
	if n < 0 || n > len(l.buf) {
		n = len(l.buf)
	}
	p.got.Write(l.buf[:n])
	l.buf = l.buf[n:]
	l.cond.Broadcast()
	if l.fin && len(l.buf) == 0 {
		return io.EOF
	}
	return nil
}

// frames waits until nothing moves, and returns what the engine has sent, one
// line for each frame and one for the end of the connection.
func (p *peer) frames() []string {
	p.t.Helper()
	var all []string
	for {
		synctest.Wait()
		end := p.take(-1)
		lines := p.parse()
		all = append(all, lines...)
		if end != nil {
			return append(all, "end: "+end.Error())
		}
		if len(lines) == 0 { // else there may be room for more now
			return all
		}
	}
}

// drain returns what the engine sends while the network takes all it has.
func (p *peer) drain() []string {
	p.t.Helper()
	p.room(1 << 30)
	return p.frames()
}

// room sets how many bytes of the engine's the network takes.
func (p *peer) room(n int) {
	l := p.end.in
	l.mu.Lock()
	defer l.mu.Unlock()
	l.room = n
	l.cond.Broadcast()
}

// parse returns the complete frames in p.got.
func (p *peer) parse() (lines []string) {
	p.t.Helper()
	if p.preface && p.got.Len() >= len(clientPreface) {
		if got := string(p.got.Next(len(clientPreface))); got != clientPreface {
			p.t.Fatalf("the client begins with %q", got)
		}
		p.preface = false
	}
	for p.got.Len() >= frameHeaderLen {
		if h := parseFrameHeader(p.got.Bytes()); p.got.Len() < frameHeaderLen+h.length {
			break
		}
		f, err := p.ReadFrame()
		if err != nil {
			p.t.Fatalf("the engine sent a frame that x/net refuses: %v (%v)", err, p.ErrorDetail())
		}
		if line := p.line(f); line != "" {
			lines = append(lines, line)
		}
	}
	return lines
}

// line describes a frame.
func (p *peer) line(f http2.Frame) string {
	p.t.Helper()
	end := func(ended bool) string {
		if ended {
			return " end"
		}
		return ""
	}
	switch f := f.(type) {
	case *http2.HeadersFrame:
		p.block = append(p.block[:0], f.HeaderBlockFragment()...)
		p.blockTag = fmt.Sprintf("HEADERS %d%s", f.StreamID, end(f.StreamEnded()))
		if f.HeadersEnded() {
			return p.section()
		}
		return ""
	case *http2.ContinuationFrame:
		p.block = append(p.block, f.HeaderBlockFragment()...)
		p.blockTag += fmt.Sprintf(" +%d", f.Length)
		if f.HeadersEnded() {
			return p.section()
		}
		return ""
	case *http2.DataFrame:
		if p.content != nil {
			p.content[f.StreamID] = append(p.content[f.StreamID], f.Data()...)
		}
		return fmt.Sprintf("DATA %d %d%s", f.StreamID, len(f.Data()), end(f.StreamEnded()))
	case *http2.SettingsFrame:
		if f.IsAck() {
			return "SETTINGS ack"
		}
		s := "SETTINGS"
		p.must(f.ForeachSetting(func(v http2.Setting) error {
			s += fmt.Sprintf(" %d=%d", v.ID, v.Val)
			return nil
		}))
		return s
	case *http2.PingFrame:
		if f.IsAck() {
			return "PING ack " + string(f.Data[:])
		}
		return "PING " + string(f.Data[:])
	case *http2.GoAwayFrame:
		return strings.TrimSpace(fmt.Sprintf("GOAWAY %d %s %s", f.LastStreamID, ErrCode(f.ErrCode), f.DebugData()))
	case *http2.RSTStreamFrame:
		return fmt.Sprintf("RST_STREAM %d %s", f.StreamID, ErrCode(f.ErrCode))
	case *http2.WindowUpdateFrame:
		return fmt.Sprintf("WINDOW_UPDATE %d %d", f.StreamID, f.Increment)
	}
	return f.Header().String()
}

// section decodes the header block that is complete.
func (p *peer) section() string {
	p.t.Helper()
	fields, err := p.dec.DecodeFull(p.block)
	if err != nil {
		p.t.Fatalf("the engine sent a header block that x/net refuses: %v", err)
	}
	line := p.blockTag
	for _, f := range fields {
		line += fmt.Sprintf(" %s=%s", f.Name, f.Value)
		if f.Sensitive {
			line += "(sensitive)"
		}
	}
	return line
}

// Package scriptpeer is the other end of an HTTP/2 connection, for tests: the
// test says frame by frame what it sends, and reads what it got. It is made with
// golang.org/x/net/http2, so that it does not share the engine's mistakes, and it
// runs in a synctest bubble. It obeys no flow control.
package scriptpeer

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// Frame is a frame that the peer got, as far as tests look at it.
type Frame struct {
	Type   http2.FrameType
	Stream uint32
	// End is END_STREAM.
	End    bool
	Fields []hpack.HeaderField
	Data   []byte
	// Code is the error code of RST_STREAM and GOAWAY.
	Code http2.ErrCode
	// Last is the last stream's id of GOAWAY, and the increment of
	// WINDOW_UPDATE.
	Last uint32
}

// Get returns the value of a header field, "" where there is none.
func (f *Frame) Get(name string) string {
	for _, h := range f.Fields {
		if h.Name == name {
			return h.Value
		}
	}
	return ""
}

// String describes the frame in a line. Header fields other than :status and
// those that begin with "grpc-" or "pillion-" are left out.
func (f *Frame) String() string {
	line := fmt.Sprintf("%v %d", f.Type, f.Stream)
	switch f.Type {
	case http2.FrameHeaders:
		shown := []string{line}
		for _, h := range f.Fields {
			if h.Name == ":status" || h.Name == ":path" || strings.HasPrefix(h.Name, "grpc-") || strings.HasPrefix(h.Name, "pillion-") {
				shown = append(shown, h.Name+"="+h.Value)
			}
		}
		line = strings.Join(shown, " ")
	case http2.FrameData:
		line += fmt.Sprintf(" %d", len(f.Data))
	case http2.FrameRSTStream:
		line += " " + f.Code.String()
	case http2.FrameGoAway:
		line = strings.TrimSpace(fmt.Sprintf("GOAWAY %d %v %s", f.Last, f.Code, f.Data))
	case http2.FrameWindowUpdate:
		line += fmt.Sprintf(" %d", f.Last)
	}
	if f.End {
		line += " end"
	}
	return line
}

// Peer is one end of a connection. Its methods are called by the test's
// goroutine.
type Peer struct {
	t    testing.TB
	conn net.Conn

	writing sync.Mutex
	framer  *http2.Framer
	enc     *hpack.Encoder
	block   bytes.Buffer

	mu     sync.Mutex
	frames []*Frame
	closed error
	spoke  bool          // SETTINGS were sent, so that others may be acknowledged
	held   chan struct{} // reading waits for it to be closed
}

// Client begins a connection as a client with these settings.
func Client(t testing.TB, conn net.Conn, settings ...http2.Setting) *Peer {
	t.Helper()
	p := newPeer(t, conn)
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	go p.read()
	p.Settings(settings...)
	return p
}

// silentServer reads as a server does and says nothing.
func silentServer(t testing.TB, conn net.Conn) *Peer {
	p := newPeer(t, conn)
	go func() {
		if _, err := io.ReadFull(conn, make([]byte, len(http2.ClientPreface))); err != nil {
			p.end(err)
			return
		}
		p.read()
	}()
	return p
}

func newPeer(t testing.TB, conn net.Conn) *Peer {
	p := &Peer{t: t, conn: conn, framer: http2.NewFramer(conn, conn)}
	p.framer.AllowIllegalWrites = true
	p.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	p.enc = hpack.NewEncoder(&p.block)
	t.Cleanup(func() { _ = conn.Close() })
	return p
}

func (p *Peer) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatalf("the peer cannot write: %v", err)
	}
}

// Hold stops reading after the frame that is being read, and returns what lets
// it go on.
func (p *Peer) Hold() (release func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	held := make(chan struct{})
	p.held = held
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.held == held {
			p.held = nil
			close(held)
		}
	}
}

func (p *Peer) read() {
	for {
		got, err := p.framer.ReadFrame()
		if err != nil {
			p.end(err)
			return
		}
		f := convert(got)
		p.mu.Lock()
		if f != nil {
			p.frames = append(p.frames, f)
		}
		held, spoke := p.held, p.spoke
		p.mu.Unlock()
		switch got := got.(type) {
		case *http2.SettingsFrame:
			if !got.IsAck() && spoke {
				p.write(func() error { return p.framer.WriteSettingsAck() })
			}
		case *http2.PingFrame:
			if !got.IsAck() {
				p.write(func() error { return p.framer.WritePing(true, got.Data) })
			}
		}
		if held != nil {
			<-held
		}
	}
}

// write writes an answer that the test does not ask for; a connection that has
// ended meanwhile is none of its business.
func (p *Peer) write(f func() error) {
	p.writing.Lock()
	defer p.writing.Unlock()
	_ = f()
}

func (p *Peer) end(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = err
}

// convert keeps of a frame what tests look at; nil: nothing.
func convert(got http2.Frame) *Frame {
	f := &Frame{Type: got.Header().Type, Stream: got.Header().StreamID}
	switch got := got.(type) {
	case *http2.MetaHeadersFrame:
		f.Fields = append(f.Fields, got.Fields...)
		f.End = got.StreamEnded()
	case *http2.DataFrame:
		f.Data = bytes.Clone(got.Data())
		f.End = got.StreamEnded()
	case *http2.RSTStreamFrame:
		f.Code = got.ErrCode
	case *http2.GoAwayFrame:
		f.Code, f.Last, f.Data = got.ErrCode, got.LastStreamID, bytes.Clone(got.DebugData())
	case *http2.WindowUpdateFrame:
		f.Last = got.Increment
	default:
		return nil
	}
	return f
}

// Frames waits until nothing moves any more, and returns what came since it was
// last asked, without WINDOW_UPDATE of the connection.
func (p *Peer) Frames() []*Frame {
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	var frames []*Frame
	for _, f := range p.frames {
		if f.Type != http2.FrameWindowUpdate || f.Stream != 0 {
			frames = append(frames, f)
		}
	}
	p.frames = nil
	return frames
}

// Lines are Frames in a line each, and without any WINDOW_UPDATE.
func (p *Peer) Lines() (lines []string) {
	for _, f := range p.Frames() {
		if f.Type != http2.FrameWindowUpdate {
			lines = append(lines, f.String())
		}
	}
	return lines
}

// Want checks the next Lines. A "*" stands for anything.
func (p *Peer) Want(want ...string) {
	p.t.Helper()
	got := p.Lines()
	same := len(got) == len(want)
	for i := 0; same && i < len(got); i++ {
		start, rest, open := strings.Cut(want[i], "*")
		same = got[i] == want[i] || open && strings.HasPrefix(got[i], start) && strings.HasSuffix(got[i], rest)
	}
	if !same {
		p.t.Fatalf("the peer got\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

// Closed says whether the connection has ended, once nothing moves any more.
func (p *Peer) Closed() bool {
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed != nil
}

// Close closes the connection without a word.
func (p *Peer) Close() { _ = p.conn.Close() }

// Settings sends SETTINGS.
func (p *Peer) Settings(settings ...http2.Setting) {
	p.t.Helper()
	p.must(p.settings(settings))
}

func (p *Peer) settings(settings []http2.Setting) error {
	p.mu.Lock()
	p.spoke = true
	p.mu.Unlock()
	p.writing.Lock()
	defer p.writing.Unlock()
	return p.framer.WriteSettings(settings...)
}

// Headers sends a header section of names and values, which alternate.
func (p *Peer) Headers(id uint32, end bool, pairs ...string) {
	p.t.Helper()
	p.writing.Lock()
	defer p.writing.Unlock()
	p.block.Reset()
	for i := 0; i < len(pairs); i += 2 {
		p.must(p.enc.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]}))
	}
	block := bytes.Clone(p.block.Bytes())
	const most = 16 << 10
	first := block[:min(len(block), most)]
	block = block[len(first):]
	p.must(p.framer.WriteHeaders(http2.HeadersFrameParam{
		StreamID: id, EndStream: end, EndHeaders: len(block) == 0, BlockFragment: first,
	}))
	for len(block) > 0 {
		part := block[:min(len(block), most)]
		block = block[len(part):]
		p.must(p.framer.WriteContinuation(id, len(block) == 0, part))
	}
}

// Request sends the headers of an RPC.
func (p *Peer) Request(id uint32, path string, end bool, pairs ...string) {
	p.t.Helper()
	p.Headers(id, end, append([]string{
		":method", "POST", ":scheme", "http", ":path", path, ":authority", "greeter",
		"content-type", "application/grpc", "te", "trailers",
	}, pairs...)...)
}

// Response sends the headers of an answer.
func (p *Peer) Response(id uint32, pairs ...string) {
	p.t.Helper()
	p.Headers(id, false, append([]string{":status", "200", "content-type", "application/grpc"}, pairs...)...)
}

// TrailersOnly sends an answer that is nothing but a status.
func (p *Peer) TrailersOnly(id uint32, status string, pairs ...string) {
	p.t.Helper()
	p.Headers(id, true, append([]string{
		":status", "200", "content-type", "application/grpc", "grpc-status", status,
	}, pairs...)...)
}

// Trailers ends an answer with a status.
func (p *Peer) Trailers(id uint32, status string, pairs ...string) {
	p.t.Helper()
	p.Headers(id, true, append([]string{"grpc-status", status}, pairs...)...)
}

// Data sends DATA in frames of at most 16 KiB.
func (p *Peer) Data(id uint32, data []byte, end bool) {
	p.t.Helper()
	p.writing.Lock()
	defer p.writing.Unlock()
	const most = 16 << 10
	for len(data) > most {
		p.must(p.framer.WriteData(id, false, data[:most]))
		data = data[most:]
	}
	p.must(p.framer.WriteData(id, end, data))
}

// Message sends a gRPC message of n zero bytes.
func (p *Peer) Message(id uint32, n int, end bool) {
	p.t.Helper()
	p.Data(id, Message(make([]byte, n)), end)
}

// Message returns a gRPC message with its prefix.
func Message(body []byte) []byte {
	n := len(body)
	return append([]byte{0, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}, body...)
}

// Raw sends frames that the test has made, in one write.
func (p *Peer) Raw(frames []byte) {
	p.t.Helper()
	p.writing.Lock()
	defer p.writing.Unlock()
	_, err := p.conn.Write(frames)
	p.must(err)
}

// Reset sends RST_STREAM.
func (p *Peer) Reset(id uint32, code http2.ErrCode) {
	p.t.Helper()
	p.writing.Lock()
	defer p.writing.Unlock()
	p.must(p.framer.WriteRSTStream(id, code))
}

// GoAway sends GOAWAY.
func (p *Peer) GoAway(last uint32, code http2.ErrCode, reason string) {
	p.t.Helper()
	p.writing.Lock()
	defer p.writing.Unlock()
	p.must(p.framer.WriteGoAway(last, code, []byte(reason)))
}

// Window sends WINDOW_UPDATE.
func (p *Peer) Window(id, n uint32) {
	p.t.Helper()
	p.writing.Lock()
	defer p.writing.Unlock()
	p.must(p.framer.WriteWindowUpdate(id, n))
}

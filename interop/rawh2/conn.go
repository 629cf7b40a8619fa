// Package rawh2 speaks HTTP/2 frame by frame, so that tests can send and see what
// a well-behaved gRPC library would never send and never shows.
//
// It answers SETTINGS, PING and the need for windows by itself. Its own sending
// obeys no flow control: a test sends less than a window of 65,535 bytes.
package rawh2

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// patience bounds a client's connection as a whole: a test that takes this long
// has failed.
const patience = 2 * time.Minute

// Conn is one HTTP/2 connection, of either role. One goroutine may read and
// others write.
type Conn struct {
	net.Conn

	// taken is what was read of each stream and not yet given back.
	taken map[uint32]uint32

	mu      sync.Mutex // guards writing: framer's write side, encoder, block
	framer  *http2.Framer
	encoder *hpack.Encoder
	block   bytes.Buffer
}

// Dial connects as a client and sends the preface and its settings.
func Dial(t testing.TB, address string, settings ...http2.Setting) *Conn {
	t.Helper()

	network := "tcp"
	if path, found := strings.CutPrefix(address, "unix://"); found {
		network, address = "unix", path
	}

	connection, err := net.Dial(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = connection.Close() })
	if err := connection.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}

	if _, err := io.WriteString(connection, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}

	c := wrap(connection)
	if err := c.framer.WriteSettings(settings...); err != nil {
		t.Fatal(err)
	}

	return c
}

// Serve listens on a loopback port and hands each connection to handle, in a
// goroutine of its own, after the preface and with these settings sent. The
// connection is closed when handle returns, and all are at the test's end.
func Serve(t testing.TB, handle func(*Conn), settings ...http2.Setting) (address string) {
	t.Helper()

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}

	var (
		running sync.WaitGroup
		mu      sync.Mutex
		open    = map[net.Conn]bool{}
		ended   bool
	)
	serve := func(connection net.Conn) {
		defer func() { _ = connection.Close() }()

		mu.Lock()
		open[connection] = true
		late := ended
		mu.Unlock()
		if late {
			return
		}

		preface := make([]byte, len(http2.ClientPreface))
		if _, err := io.ReadFull(connection, preface); err != nil || string(preface) != http2.ClientPreface {
			return
		}

		c := wrap(connection)
		if err := c.framer.WriteSettings(settings...); err != nil {
			return
		}
		handle(c)
	}

	running.Go(func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			running.Go(func() { serve(connection) })
		}
	})

	t.Cleanup(func() {
		_ = listener.Close()
		mu.Lock()
		ended = true
		for connection := range open {
			_ = connection.Close()
		}
		mu.Unlock()
		running.Wait()
	})

	return listener.Addr().String()
}

func wrap(connection net.Conn) *Conn {
	c := &Conn{Conn: connection, taken: map[uint32]uint32{}, framer: http2.NewFramer(connection, connection)}
	c.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	c.framer.MaxHeaderListSize = 1 << 20
	c.framer.AllowIllegalWrites = true
	c.encoder = hpack.NewEncoder(&c.block)

	return c
}

// Read returns the next frame that is not SETTINGS, PING or WINDOW_UPDATE. It is
// valid until the next call.
func (c *Conn) Read() (http2.Frame, error) {
	for {
		frame, err := c.framer.ReadFrame()
		if err != nil {
			return nil, err
		}

		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				err = c.write(c.framer.WriteSettingsAck)
			}
		case *http2.PingFrame:
			if !frame.IsAck() {
				err = c.write(func() error { return c.framer.WritePing(true, frame.Data) })
			}
		case *http2.WindowUpdateFrame:
		case *http2.DataFrame:
			c.giveBack(0, frame.Header().Length)
			c.giveBack(frame.StreamID, frame.Header().Length)

			return frame, nil
		default:
			return frame, nil
		}

		if err != nil {
			return nil, err
		}
	}
}

// giveBack enlarges a window (that of the connection for stream 0) once enough
// was taken: an update for each small frame is what abusive peers send.
func (c *Conn) giveBack(stream, size uint32) {
	const enough = 8192

	c.taken[stream] += size
	if c.taken[stream] < enough {
		return
	}

	size = c.taken[stream]
	delete(c.taken, stream)
	// To a peer that is gone already, an update is no loss.
	_ = c.write(func() error { return c.framer.WriteWindowUpdate(stream, size) })
}

// Field is a header field.
func Field(name, value string) hpack.HeaderField {
	return hpack.HeaderField{Name: name, Value: value}
}

// Headers sends a header block, in as many frames as it takes.
func (c *Conn) Headers(stream uint32, end bool, fields ...hpack.HeaderField) error {
	return c.write(func() error {
		c.block.Reset()
		for _, field := range fields {
			if err := c.encoder.WriteField(field); err != nil {
				return err
			}
		}

		const most = 16384
		block := c.block.Bytes()
		first, rest := block[:min(most, len(block))], block[min(most, len(block)):]
		if err := c.framer.WriteHeaders(http2.HeadersFrameParam{
			StreamID: stream, BlockFragment: first, EndStream: end, EndHeaders: len(rest) == 0,
		}); err != nil {
			return err
		}
		for len(rest) > 0 {
			first, rest = rest[:min(most, len(rest))], rest[min(most, len(rest)):]
			if err := c.framer.WriteContinuation(stream, len(rest) == 0, first); err != nil {
				return err
			}
		}

		return nil
	})
}

// Data sends one DATA frame.
func (c *Conn) Data(stream uint32, end bool, data []byte) error {
	return c.write(func() error { return c.framer.WriteData(stream, end, data) })
}

// Reset sends RST_STREAM.
func (c *Conn) Reset(stream uint32, code http2.ErrCode) error {
	return c.write(func() error { return c.framer.WriteRSTStream(stream, code) })
}

// GoAway sends GOAWAY.
func (c *Conn) GoAway(last uint32, code http2.ErrCode) error {
	return c.write(func() error { return c.framer.WriteGoAway(last, code, nil) })
}

func (c *Conn) write(write func() error) error {
	c.mu.Lock()
	defer c.mu.Unlock()

	return write()
}

// Get returns the value of the first field of that name.
func Get(fields []hpack.HeaderField, name string) string {
	for _, field := range fields {
		if field.Name == name {
			return field.Value
		}
	}

	return ""
}

// Message is the gRPC framing of a message: its flag, its length and itself.
func Message(compressed bool, payload []byte) []byte {
	framed := make([]byte, 5, 5+len(payload))
	if compressed {
		framed[0] = 1
	}
	size := uint32(len(payload))
	framed[1], framed[2], framed[3], framed[4] = byte(size>>24), byte(size>>16), byte(size>>8), byte(size)

	return append(framed, payload...)
}

// Request is the header fields of an RPC, in the order that gRPC clients send them.
func Request(authority, method string, metadata ...hpack.HeaderField) []hpack.HeaderField {
	return append([]hpack.HeaderField{
		Field(":method", "POST"),
		Field(":scheme", "http"),
		Field(":path", method),
		Field(":authority", authority),
		Field("content-type", "application/grpc"),
		Field("user-agent", "rawh2"),
		Field("te", "trailers"),
	}, metadata...)
}

// Answer is what came back on one stream.
type Answer struct {
	Headers  []hpack.HeaderField
	Body     []byte
	Trailers []hpack.HeaderField // those of Headers where there was one block only
	// Reset is how the stream ended where RST_STREAM ended it, and WasReset says so.
	Reset    http2.ErrCode
	WasReset bool
}

// Status is the answer's grpc-status, empty where there is none.
func (a *Answer) Status() string { return Get(a.Trailers, "grpc-status") }

// Await reads until a stream of a client's connection is over.
func (c *Conn) Await(stream uint32) (*Answer, error) {
	answer := &Answer{}
	for {
		frame, err := c.Read()
		if err != nil {
			return answer, err
		}
		if away, is := frame.(*http2.GoAwayFrame); is && away.LastStreamID < stream {
			return answer, fmt.Errorf("GOAWAY %v: %s", away.ErrCode, away.DebugData())
		}
		if frame.Header().StreamID != stream {
			continue
		}

		var end bool
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			if answer.Headers == nil {
				answer.Headers = frame.Fields
			}
			answer.Trailers = frame.Fields
			end = frame.StreamEnded()
		case *http2.DataFrame:
			answer.Body = append(answer.Body, frame.Data()...)
			end = frame.StreamEnded()
		case *http2.RSTStreamFrame:
			answer.Reset, answer.WasReset = frame.ErrCode, true
			end = true
		}
		if end {
			return answer, nil
		}
	}
}

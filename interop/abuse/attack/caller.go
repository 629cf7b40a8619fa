package attack

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/net/http2"
)

// caller is one connection of a hostile client. It writes whatever it is given,
// and notes what comes back.
type caller struct {
	net.Conn

	sent int64

	mu      sync.Mutex
	seen    chan struct{} // closed and renewed with each thing noted
	goAway  bool
	closed  bool
	code    http2.ErrCode
	reason  string
	resets  map[http2.ErrCode]int
	answers int
	data    int64 // bytes of DATA
	acks    int   // of SETTINGS
	done    chan struct{}
}

// connect makes a connection and says nothing. Where it is not deaf, what comes
// is read.
func connect(ctx context.Context, address string, deaf bool) (*caller, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	c := &caller{
		Conn: conn, seen: make(chan struct{}), done: make(chan struct{}),
		resets: map[http2.ErrCode]int{},
	}
	if deaf {
		close(c.done)
	} else {
		go c.read()
	}

	return c, nil
}

// greet connects and sends preface and SETTINGS.
func greet(ctx context.Context, address string, settings ...http2.Setting) (*caller, error) {
	c, err := connect(ctx, address, false)
	if err != nil {
		return nil, err
	}

	return c, c.write(greeting(settings...))
}

// greetDeaf is greet by somebody who never reads.
func greetDeaf(ctx context.Context, address string, settings ...http2.Setting) (*caller, error) {
	c, err := connect(ctx, address, true)
	if err != nil {
		return nil, err
	}
	// As little as possible shall go into buffers of the kernel's.
	if tcp, is := c.Conn.(*net.TCPConn); is {
		_ = tcp.SetReadBuffer(4096)
	}

	return c, c.write(greeting(settings...))
}

// end closes the connection and says what became of it.
func (c *caller) end() End {
	c.mu.Lock()
	e := End{Reason: c.reason, Answered: c.answers, Sent: c.sent}
	most := 0
	for code, n := range c.resets {
		e.Reset += n
		if n > most {
			most, e.Code = n, code
		}
	}
	switch {
	case c.goAway:
		e.How, e.Code = GoneAway, c.code
	case c.closed:
		e.How = Closed
	case e.Reset > 0 && e.Code != http2.ErrCodeNo:
		e.How = StreamsReset
	case c.answers > 0 || c.data > 0:
		e.How = Answered
	}
	c.mu.Unlock()
	_ = c.Close()
	<-c.done

	return e
}

// over says whether the sidecar has ended the connection.
func (c *caller) over() bool {
	c.mu.Lock()
	defer c.mu.Unlock()

	return c.goAway || c.closed
}

// write sends bytes, and fails only where the connection is not of this world:
// being ended is what attacks are for.
func (c *caller) write(p []byte) error {
	n, err := c.Write(p)
	c.sent += int64(n)
	if err != nil && !c.over() && !errors.Is(err, os.ErrDeadlineExceeded) {
		c.note(func() { c.closed = true })
	}

	return nil
}

// flood sends what next appends, over and over, until the sidecar ends the
// connection or ctx ends. Where nothing is taken any more, it waits.
func (c *caller) flood(ctx context.Context, next func([]byte) []byte) {
	const batch = 16 << 10

	stop := context.AfterFunc(ctx, func() { _ = c.SetWriteDeadline(time.Now()) })
	defer stop()
	var p []byte
	for ctx.Err() == nil && !c.over() {
		p = p[:0]
		for len(p) < batch {
			p = next(p)
		}
		// In the end the deadline of ctx cuts it short.
		_ = c.SetWriteDeadline(time.Now().Add(time.Second))
		if ctx.Err() != nil {
			return
		}
		for len(p) > 0 && ctx.Err() == nil && !c.over() {
			n, err := c.Write(p)
			c.sent += int64(n)
			p = p[n:]
			if errors.Is(err, os.ErrDeadlineExceeded) {
				_ = c.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))

				continue
			}
			if err != nil {
				c.awaitOver(ctx)
				c.note(func() { c.closed = true })

				return
			}
		}
	}
}

// awaitOver waits for the connection's end, as long as the reader may need to see
// what was said last.
func (c *caller) awaitOver(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	c.await(ctx, func() bool { return false })
}

// await waits until something was noted that is enough, until the connection is
// over, or ctx.
func (c *caller) await(ctx context.Context, enough func() bool) {
	for {
		c.mu.Lock()
		seen, stop := c.seen, c.goAway || c.closed || enough()
		c.mu.Unlock()
		if stop {
			return
		}
		select {
		case <-seen:
		case <-ctx.Done():
			return
		}
	}
}

// awaitEnds waits until as many streams have ended.
func (c *caller) awaitEnds(ctx context.Context, streams int) {
	c.await(ctx, func() bool { return c.ends() >= streams })
}

// ends is how many streams were answered or reset. c.mu is held.
func (c *caller) ends() int {
	n := c.answers
	for _, resets := range c.resets {
		n += resets
	}

	return n
}

func (c *caller) note(what func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	what()
	close(c.seen)
	c.seen = make(chan struct{})
}

// read notes what comes until the connection ends.
func (c *caller) read() {
	defer close(c.done)

	in := bufio.NewReaderSize(c.Conn, 32<<10)
	if first, err := in.Peek(5); err == nil && string(first) == "HTTP/" {
		text, _ := io.ReadAll(io.LimitReader(in, 4096))
		c.note(func() { c.reason, c.closed = string(text), true })

		return
	}
	framer := http2.NewFramer(io.Discard, in)
	framer.SetMaxReadFrameSize(1<<24 - 1)
	framer.SetReuseFrames()
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			c.note(func() { c.closed = true })

			return
		}
		c.note(func() { c.take(frame) })
	}
}

// take notes one frame. c.mu is held.
func (c *caller) take(frame http2.Frame) {
	switch frame := frame.(type) {
	case *http2.GoAwayFrame:
		if frame.ErrCode != http2.ErrCodeNo {
			c.goAway, c.code, c.reason = true, frame.ErrCode, string(frame.DebugData())
		}
	case *http2.RSTStreamFrame:
		if frame.ErrCode != http2.ErrCodeNo { // which follows an early answer
			c.resets[frame.ErrCode]++
		}
	case *http2.SettingsFrame:
		if frame.IsAck() {
			c.acks++
		}
	case *http2.HeadersFrame:
		if frame.StreamEnded() {
			c.answers++
		}
	case *http2.DataFrame:
		c.data += int64(frame.Length)
		if frame.StreamEnded() {
			c.answers++
		}
	}
}

// greeting is what a client says first.
func greeting(settings ...http2.Setting) []byte {
	p := []byte(http2.ClientPreface)

	return appendSettings(p, settings...)
}

func appendSettings(p []byte, settings ...http2.Setting) []byte {
	p = appendHeader(p, 6*len(settings), http2.FrameSettings, 0, 0)
	for _, s := range settings {
		p = binary.BigEndian.AppendUint16(p, uint16(s.ID))
		p = binary.BigEndian.AppendUint32(p, s.Val)
	}

	return p
}

// appendHeader appends the nine octets before a frame.
func appendHeader(p []byte, length int, typ http2.FrameType, flags http2.Flags, stream uint32) []byte {
	p = append(p, byte(length>>16), byte(length>>8), byte(length), byte(typ), byte(flags))

	return binary.BigEndian.AppendUint32(p, stream)
}

func appendFrame(p []byte, typ http2.FrameType, flags http2.Flags, stream uint32, payload []byte) []byte {
	return append(appendHeader(p, len(payload), typ, flags, stream), payload...)
}

func appendReset(p []byte, stream uint32) []byte {
	return append(appendHeader(p, 4, http2.FrameRSTStream, 0, stream), 0, 0, 0, byte(http2.ErrCodeCancel))
}

func appendWindow(p []byte, stream, increment uint32) []byte {
	p = appendHeader(p, 4, http2.FrameWindowUpdate, 0, stream)

	return binary.BigEndian.AppendUint32(p, increment)
}

// The flags of HEADERS.
const (
	whole     = http2.FlagHeadersEndHeaders
	wholeLast = http2.FlagHeadersEndHeaders | http2.FlagHeadersEndStream
)

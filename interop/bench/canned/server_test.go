package canned

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
)

// rawCodec hands messages over as bytes.
type rawCodec struct{}

func (rawCodec) Name() string { return "raw" }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*v.(*[]byte))}, nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

// dial starts a server and connects a grpc-go client to it.
func dial(t *testing.T, s *Server, options ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	options = append(options, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{})))
	cc, err := grpc.NewClient("passthrough:///"+ln.Addr().String(), options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cc.Close()
		ln.Close()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return cc
}

func TestUnaryAnswers(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, 100, 16384, 70_000, MaxSize} {
		cc := dial(t, &Server{ResponseSize: size})
		for range 3 {
			request, response := UnaryRequest(100)[PrefixLen:], []byte(nil)
			if err := cc.Invoke(t.Context(), "/bench.Bench/Unary", &request, &response); err != nil {
				t.Fatalf("size %d: %v", size, err)
			}
			if len(response) != size {
				t.Errorf("an answer of %d bytes, want %d", len(response), size)
			}
		}
	}
}

func TestSaysThatItIsWell(t *testing.T) {
	t.Parallel()
	cc := dial(t, &Server{ResponseSize: 100})
	var request, response []byte
	if err := cc.Invoke(t.Context(), "/grpc.health.v1.Health/Check", &request, &response); err != nil {
		t.Fatal(err)
	}
	if want := []byte{0x08, 0x01}; !bytes.Equal(response, want) { // status: SERVING
		t.Errorf("the answer is %x, want %x", response, want)
	}
}

func TestUploadBeyondTheWindowThatIsGivenBack(t *testing.T) {
	t.Parallel()
	cc := dial(t, &Server{ResponseSize: 1})
	request, response := make([]byte, 3*returnWindow), []byte(nil)
	if err := cc.Invoke(t.Context(), "/bench.Bench/Unary", &request, &response); err != nil {
		t.Fatal(err)
	}
}

func TestStreamsMessages(t *testing.T) {
	t.Parallel()
	cc := dial(t, &Server{ResponseSize: 100}, grpc.WithInitialWindowSize(65535))
	order := Order{Messages: 500, Size: 16384}
	stream, err := cc.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true}, "/bench.Bench/Stream")
	if err != nil {
		t.Fatal(err)
	}
	request := order.Request()[PrefixLen:]
	if err := errors.Join(stream.SendMsg(&request), stream.CloseSend()); err != nil {
		t.Fatal(err)
	}
	messages := uint32(0)
	for {
		var m []byte
		err := stream.RecvMsg(&m)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("after %d messages: %v", messages, err)
		}
		if len(m) != int(order.Size) {
			t.Fatalf("a message of %d bytes, want %d", len(m), order.Size)
		}
		messages++
	}
	if messages != order.Messages {
		t.Errorf("%d messages, want %d", messages, order.Messages)
	}
}

// client is a bare HTTP/2 connection to a server that runs in the same bubble.
type client struct {
	*http2.Framer
	t *testing.T
}

func newClient(t *testing.T, settings ...http2.Setting) *client {
	t.Helper()
	near, far := net.Pipe()
	served := make(chan struct{})
	c := newConn(far, 100, cannedUnary(UnaryRequest(100)))
	go func() {
		defer close(served)
		_ = c.serve()
	}()
	t.Cleanup(func() {
		near.Close()
		<-served
	})
	// A pipe has no buffer: the two sides would wait for each other's reads.
	frames := &client{http2.NewFramer(near, buffered(t, near)), t}
	if _, err := io.WriteString(near, preface); err != nil {
		t.Fatal(err)
	}
	frames.must(frames.WriteSettings(settings...))
	for range 3 { // its settings, its window, the acknowledgement of ours
		frames.read()
	}
	return frames
}

// buffered reads r ahead without bound.
func buffered(t *testing.T, r io.Reader) io.Reader {
	t.Helper()
	near, far := io.Pipe()
	chunks := make(chan []byte, 1<<12)
	go func() {
		defer close(chunks)
		for {
			b := make([]byte, 64<<10)
			n, err := r.Read(b)
			chunks <- b[:n]
			if err != nil {
				return
			}
		}
	}()
	go func() {
		for b := range chunks {
			_, _ = far.Write(b)
		}
		far.Close()
	}()
	t.Cleanup(func() { near.Close() })
	return near
}

func (c *client) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) read() http2.Frame {
	c.t.Helper()
	f, err := c.ReadFrame()
	c.must(err)
	return f
}

// request sends a request whose header block is never looked at.
func (c *client) request(id uint32, body []byte) {
	c.t.Helper()
	c.must(c.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: []byte{0x82}, EndHeaders: true}))
	c.must(c.WriteData(id, true, body))
}

// data reads n bytes of DATA and fails on anything else but HEADERS.
func (c *client) data(n int) {
	c.t.Helper()
	for n > 0 {
		switch f := c.read().(type) {
		case *http2.DataFrame:
			n -= len(f.Data())
		case *http2.HeadersFrame:
		default:
			c.t.Fatalf("a frame %v in the middle of an answer", f)
		}
	}
	if n < 0 {
		c.t.Fatalf("%d bytes over the windows", -n)
	}
}

// quiet fails where the server has sent more than was read: PING's answer
// would come after it.
func (c *client) quiet() {
	synctest.Wait()
	c.t.Helper()
	c.must(c.WritePing(false, [8]byte{1}))
	if f, ok := c.read().(*http2.PingFrame); !ok || !f.IsAck() {
		c.t.Fatal("the server sent more than the windows allow")
	}
}

func TestObeysWindows(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newClient(t, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 40})
		c.request(1, UnaryRequest(100))
		c.data(40)
		c.quiet()
		c.must(c.WriteWindowUpdate(1, 20))
		c.data(20)
		c.quiet()
		// A new initial size moves the windows of open streams.
		c.must(c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 100}))
		if f, ok := c.read().(*http2.SettingsFrame); !ok || !f.IsAck() {
			t.Fatal("no acknowledgement of settings")
		}
		c.data(45)
		if f, ok := c.read().(*http2.HeadersFrame); !ok || !f.StreamEnded() {
			t.Error("no trailers after the message")
		}
	})
}

func TestObeysTheConnectionsWindow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newClient(t, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
		c.request(1, Order{Size: 16384}.Request())
		c.data(initialWindow)
		c.quiet()
		c.request(3, UnaryRequest(100))
		if f, ok := c.read().(*http2.HeadersFrame); !ok || f.StreamID != 3 {
			t.Fatal("headers need no window")
		}
		c.must(c.WriteRSTStream(1, http2.ErrCodeCancel))
		c.must(c.WriteWindowUpdate(0, 105))
		c.data(105)
	})
}

func TestUnaryAnswersPassBulk(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newClient(t, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 4 * quantum})
		c.must(c.WriteWindowUpdate(0, 1<<30))
		c.request(1, Order{Messages: 1000, Size: 16384}.Request())
		c.data(4 * quantum)
		c.request(3, UnaryRequest(100))
		if f := c.read(); f.Header().StreamID != 3 {
			t.Errorf("a frame on stream %d, want the unary answer on 3", f.Header().StreamID)
		}
	})
}

func TestStreamsAtARate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newClient(t, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 24})
		c.must(c.WriteWindowUpdate(0, 1<<24))
		start := time.Now()
		c.request(1, Order{Messages: 101, Size: 995, Rate: 10_000}.Request())
		c.data(101 * 1000)
		if d := time.Since(start); d < 9900*time.Millisecond || d > 10100*time.Millisecond {
			t.Errorf("101,000 bytes at 10,000 a second took %v, want 10s for all but the first thousand", d)
		}
	})
}

func TestPaddedAndContinuedRequest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newClient(t)
		c.must(c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x82}}))
		c.must(c.WriteContinuation(1, true, []byte{0x82}))
		order := Order{Messages: 2, Size: 10}
		c.must(c.WriteDataPadded(1, true, order.Request(), make([]byte, 9)))
		c.data(int(order.Bytes()))

		c.must(c.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: []byte{0x82}, EndStream: true}))
		c.must(c.WriteContinuation(3, true, []byte{0x82}))
		for {
			if f := c.read(); f.Header().StreamID == 3 {
				break
			}
		}
	})
}

func TestRefusesForeignMessagesBeforeTheRequestEnds(t *testing.T) {
	t.Parallel()
	cc := dial(t, &Server{ResponseSize: 100})
	stream, err := cc.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
	if err != nil {
		t.Fatal(err)
	}
	question := []byte("\x3a\x00")
	if err := stream.SendMsg(&question); err != nil {
		t.Fatal(err)
	}
	if err := stream.RecvMsg(new([]byte)); status.Code(err) != codes.Unimplemented {
		t.Errorf("the answer is %v, want UNIMPLEMENTED", err)
	}
}

func FuzzConnection(f *testing.F) {
	f.Add([]byte{0, 0, 0, frameHeaders, flagEndStream | flagEndHeaders, 0, 0, 0, 1})
	f.Add(appendFrame(nil, frameData, flagEndStream|flagPadded, 1, Order{Messages: 1}.Request()))
	f.Add(appendFrame(nil, frameSettings, 0, 0, []byte{0, 4, 0, 0, 0, 0}))
	f.Fuzz(func(_ *testing.T, b []byte) {
		near, far := net.Pipe()
		served := make(chan struct{})
		go func() {
			defer close(served)
			_ = newConn(far, 100, cannedUnary(UnaryRequest(100))).serve()
		}()
		drained := make(chan struct{})
		go func() {
			defer close(drained)
			_, _ = io.CopyN(io.Discard, near, 1<<20)
			near.Close()
		}()
		_, _ = io.WriteString(near, preface)
		_, _ = near.Write(b)
		near.Close()
		<-served
		<-drained
	})
}

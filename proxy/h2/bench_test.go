package h2

import (
	"encoding/binary"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
)

// sink is a transport that takes everything and brings nothing: a benchmark hands
// the bytes to the reader itself.
type sink struct{ n int }

func (s *sink) TryWrite(p []byte) (int, bool, error)         { s.n += len(p); return len(p), false, nil }
func (s *sink) Write(p []byte, _ time.Duration) (int, error) { s.n += len(p); return len(p), nil }
func (s *sink) Read(Lender) (int, error)                     { panic("nothing is read") }
func (s *sink) CloseWrite() error                            { return nil }
func (s *sink) SetReadDeadline(time.Time) error              { return nil }
func (s *sink) Close() error                                 { return nil }
func (s *sink) RemoteAddr() net.Addr                         { return simAddr("remote") }
func (s *sink) LocalAddr() net.Addr                          { return simAddr("local") }

// driven is a connection whose reader the benchmark drives.
type driven struct {
	reader
	out sink
}

func newDriven(role Role, h Handler) *driven {
	d := &driven{}
	cfg := Config{}
	d.reader = reader{c: New(&d.out, role, &cfg, h), dec: hpack.NewDecoder(4096)}
	d.reader.dec.Vet = harmless
	d.c.handshake = time.AfterFunc(time.Hour, func() {})
	var hello []byte
	if role == Server {
		hello = append(hello, clientPreface...)
	}
	d.feed(appendFrameHeader(hello, 0, frameSettings, 0, 0))
	return d
}

// feed has the reader handle what one read brought.
func (d *driven) feed(p []byte) {
	rest, err := d.consume(p)
	if err != nil || len(rest) > 0 {
		panic(fmt.Sprint("the engine refuses the benchmark's frames: ", err))
	}
	d.batch.Done()
}

// exchangeFrames are the frames of one side of n unary exchanges, whose ids can
// be changed.
type exchangeFrames struct {
	p   []byte
	ids []int // where ids stand
}

// newExchangeFrames encodes messages of 105 bytes.
func newExchangeFrames(enc *hpack.Encoder, n int, head, trailers []hpack.Field) *exchangeFrames {
	x := &exchangeFrames{}
	frame := func(typ frameType, flags uint8, payload []byte) {
		x.ids = append(x.ids, len(x.p)+5)
		x.p = append(appendFrameHeader(x.p, len(payload), typ, flags, 1), payload...)
	}
	block := func(fields []hpack.Field) []byte {
		p := enc.BeginBlock(nil)
		for _, f := range fields {
			p = enc.AppendField(p, f.Name, f.Value, false)
		}
		return p
	}
	for range n {
		frame(frameHeaders, flagEndHeaders, block(head))
		if trailers == nil {
			frame(frameData, flagEndStream, make([]byte, 105))
			continue
		}
		frame(frameData, 0, make([]byte, 105))
		frame(frameHeaders, flagEndHeaders|flagEndStream, block(trailers))
	}
	return x
}

// at numbers the exchanges from first on.
func (x *exchangeFrames) at(first uint32) []byte {
	perStream := 2
	if x.p[x.ids[1]-1]&flagEndStream == 0 {
		perStream = 3
	}
	for i, off := range x.ids {
		binary.BigEndian.PutUint32(x.p[off:], first+2*uint32(i/perStream))
	}
	return x.p
}

// relayed is a server connection and a client connection with a proxy between
// them, for exchanges in batches.
type relayed struct {
	batch          int
	server, client *driven
	req, ans       *exchangeFrames
	id             uint32
}

func newRelayed(tb testing.TB, batch int) *relayed {
	p := &proxy{t: tb}
	x := &relayed{batch: batch, server: newDriven(Server, p), client: newDriven(Client, answerAll{}), id: 1}
	p.up = x.client.c
	request := fields(":method", "POST", ":scheme", "http", ":path", "/helloworld.Greeter/SayHello", ":authority", "greeter",
		"content-type", "application/grpc", "te", "trailers", "user-agent", "grpc-go/1.85.0", "grpc-timeout", "5S", "x-user-id", "12345")
	answer, trailers := fields(":status", "200", "content-type", "application/grpc"), fields("grpc-status", "0", "grpc-message", "")
	reqEnc, ansEnc := hpack.NewEncoder(), hpack.NewEncoder()
	for range 10 { // the tables and pools are warm then, as on a connection in use
		x.req, x.ans = newExchangeFrames(reqEnc, batch, request, nil), newExchangeFrames(ansEnc, batch, answer, trailers)
		x.round()
	}
	return x
}

// round makes a batch of exchanges.
func (x *relayed) round() {
	x.server.feed(x.req.at(x.id))
	x.client.feed(x.ans.at(x.id))
	x.id += 2 * uint32(x.batch)
	for _, d := range []*driven{x.server, x.client} {
		d.c.mu.Lock()
		d.c.sendWindow = 1 << 30
		d.c.mu.Unlock()
	}
}

// BenchmarkRelay carries unary exchanges from a server connection to a client
// connection and back, with no sockets: what the engine itself costs.
func BenchmarkRelay(b *testing.B) {
	for _, batch := range []int{1, 32} {
		b.Run(fmt.Sprintf("batch=%d", batch), func(b *testing.B) {
			x := newRelayed(b, batch)
			b.ReportAllocs()
			for b.Loop() {
				x.round()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*batch), "ns/rpc")
		})
	}
}

// It is not parallel: AllocsPerRun counts what every goroutine allocates.
func TestExchangesAllocateNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector has pools forget what they hold: run without it")
	}
	for _, batch := range []int{1, 32} {
		x := newRelayed(t, batch)
		if n := testing.AllocsPerRun(200, x.round); n != 0 {
			t.Errorf("%d exchanges allocate %v times", batch, n)
		}
		if st := x.server.c.Stats(); st.Streams != 0 {
			t.Errorf("%d streams are left", st.Streams)
		}
	}
}

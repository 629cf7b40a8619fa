// Package crowd is the load of the benchmarks that look at how many clients and
// streams a proxy can hold: it opens connections, and RPCs that hang, and keeps
// them. It does as little as it can itself: one goroutine reads all answers of a
// connection, and nothing of them is kept.
package crowd

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// Crowd is what holds on to a proxy.
type Crowd struct {
	// Address is the proxy's, Authority and Path what is asked for, Body the
	// request's only message with its prefix.
	Address, Authority, Path string
	Body                     []byte
	// TLS is how the proxy is spoken to; nil: in plaintext.
	TLS *tls.Config

	conns []*conn
	block []byte
}

// conn is one connection of a crowd.
type conn struct {
	net.Conn

	framer *http2.Framer
	write  sync.Mutex
	// allowed is the proxy's SETTINGS_MAX_CONCURRENT_STREAMS, once settled.
	allowed  uint32
	settled  chan struct{}
	answered atomic.Int64
	ended    atomic.Int64
	changed  chan struct{}
	done     chan struct{}
	err      error // once done
}

var (
	// ErrRefused says that the proxy does not hold what it should.
	ErrRefused = errors.New("crowd: the proxy ended a connection or a stream")

	errAllowed = fmt.Errorf("%w: it allows fewer streams on a connection", ErrRefused)
)

// Connect opens so many connections more, and waits until each is settled: the
// proxy's SETTINGS are here, and it acknowledged ours.
func (c *Crowd) Connect(ctx context.Context, count int) error {
	var dialer net.Dialer
	for range count {
		nc, err := dialer.DialContext(ctx, "tcp", c.Address)
		if err != nil {
			return fmt.Errorf("crowd: connection %d: %w", len(c.conns), err)
		}
		if c.TLS != nil {
			nc = tls.Client(nc, c.TLS)
		}
		m := &conn{
			Conn: nc, settled: make(chan struct{}), changed: make(chan struct{}, 1), done: make(chan struct{}),
			allowed: 1 << 31,
		}
		c.conns = append(c.conns, m)
		if err := m.begin(ctx); err != nil {
			return fmt.Errorf("crowd: connection %d: %w", len(c.conns)-1, err)
		}
	}
	return nil
}

// atATime is how many RPCs are opened before their answers are waited for.
const atATime = 100

// Open opens so many RPCs on each connection, some at a time, and waits until the
// headers of all answers are there. With whole, it waits until all have ended.
func (c *Crowd) Open(ctx context.Context, each int, whole bool) error {
	c.encode()
	for i, m := range c.conns {
		count := &m.answered
		if whole {
			count = &m.ended
		}
		for begun := 0; begun < each; {
			more := min(each-begun, atATime)
			err := m.open(c.block, c.Body, begun, more)
			begun += more
			if err == nil {
				err = m.await(ctx, count, int64(begun))
			}
			if err != nil {
				return fmt.Errorf("crowd: connection %d: %w", i, err)
			}
		}
	}
	return nil
}

// Held says whether nothing was ended by the proxy.
func (c *Crowd) Held() error {
	for i, m := range c.conns {
		select {
		case <-m.done:
			return fmt.Errorf("%w: connection %d: %w", ErrRefused, i, m.err)
		default:
		}
	}
	return nil
}

// Close ends all connections.
func (c *Crowd) Close() {
	for _, m := range c.conns {
		_ = m.Conn.Close()
	}
	for _, m := range c.conns {
		<-m.done
	}
	c.conns = nil
}

func (c *Crowd) encode() {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	// Nothing enters the proxy's table, so the block is the same for every RPC.
	for _, f := range [][2]string{
		{":method", "POST"}, {":scheme", "http"}, {":path", c.Path}, {":authority", c.Authority},
		{"content-type", "application/grpc"}, {"user-agent", "crowd"}, {"te", "trailers"},
	} {
		_ = e.WriteField(hpack.HeaderField{Name: f[0], Value: f[1], Sensitive: true})
	}
	c.block = b.Bytes()
}

// window is large enough that no WINDOW_UPDATE has to be sent for what hangs.
const window = 1 << 30

func (m *conn) begin(ctx context.Context) error {
	m.framer = http2.NewFramer(m.Conn, m.Conn)
	m.framer.SetReuseFrames()
	b := bytes.NewBufferString(http2.ClientPreface)
	f := http2.NewFramer(b, nil)
	if err := errors.Join(f.WriteSettings(), f.WriteWindowUpdate(0, window)); err != nil {
		return err
	}
	_, err := m.Conn.Write(b.Bytes())
	go m.read() // it answers, which must not come before the preface
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	select {
	case <-m.settled:
		return nil
	case <-m.done:
		return m.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (m *conn) open(block, body []byte, begun, count int) error {
	if uint32(begun+count) > m.allowed {
		return fmt.Errorf("%w: %d", errAllowed, m.allowed)
	}
	m.write.Lock()
	defer m.write.Unlock()
	var b bytes.Buffer
	f := http2.NewFramer(&b, nil)
	for i := range count {
		id := uint32(2*(begun+i) + 1)
		if err := errors.Join(
			f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block, EndHeaders: true}),
			f.WriteData(id, true, body)); err != nil {
			return err
		}
	}
	if _, err := m.Conn.Write(b.Bytes()); err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return nil
}

func (m *conn) await(ctx context.Context, count *atomic.Int64, want int64) error {
	for count.Load() < want {
		select {
		case <-m.changed:
		case <-m.done:
			return m.err
		case <-ctx.Done():
			return fmt.Errorf("%w: %d of %d answers: %w", ErrRefused, count.Load(), want, ctx.Err())
		}
	}
	return nil
}

// read counts answers until the connection ends.
func (m *conn) read() {
	defer close(m.done)
	acked := false
	for {
		frame, err := m.framer.ReadFrame()
		if err != nil {
			m.err = fmt.Errorf("%w: %w", ErrRefused, err)
			return
		}
		switch f := frame.(type) {
		case *http2.SettingsFrame:
			if f.IsAck() {
				if !acked {
					acked = true
					close(m.settled)
				}
				continue
			}
			if v, ok := f.Value(http2.SettingMaxConcurrentStreams); ok {
				m.allowed = v
			}
			m.write.Lock()
			err = m.framer.WriteSettingsAck()
			m.write.Unlock()
		case *http2.PingFrame:
			if !f.IsAck() {
				m.write.Lock()
				err = m.framer.WritePing(true, f.Data)
				m.write.Unlock()
			}
		case *http2.HeadersFrame:
			if !f.StreamEnded() {
				m.answered.Add(1)
			} else {
				m.ended.Add(1)
			}
			m.tell()
		case *http2.RSTStreamFrame:
			err = fmt.Errorf("%w: RST_STREAM %v", ErrRefused, f.ErrCode)
		case *http2.GoAwayFrame:
			err = fmt.Errorf("%w: GOAWAY %v %s", ErrRefused, f.ErrCode, f.DebugData())
		}
		if err != nil {
			m.err = err
			_ = m.Conn.Close()
			return
		}
	}
}

func (m *conn) tell() {
	select {
	case m.changed <- struct{}{}:
	default:
	}
}

// Settle waits until a figure no longer falls by more than a hundredth in a
// second, for a process that gives memory back in the background; 30s at most.
func Settle(ctx context.Context, figure func() (int64, error)) (int64, error) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	last, err := figure()
	for range 30 {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return last, ctx.Err()
		}
		now, e := figure()
		if e != nil || err != nil {
			return last, errors.Join(err, e)
		}
		if now > last-last/100 {
			return now, nil
		}
		last = now
	}
	return last, err
}

package mtls

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/net/http2"

	"github.com/pillion-proxy/pillion/identity/identitytest"
	"github.com/pillion-proxy/pillion/proxy/downstream"
	"github.com/pillion-proxy/pillion/proxy/h2"
	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
)

// echo sends back what comes.
type echo struct {
	mu sync.Mutex
	s  h2.Stream
}

func (e *echo) OnHeaders(b *h2.Batch, s *h2.Stream, _ uint32, _ *h2.Head, end bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	s.SendHeaders(b, []hpack.Field{{Name: ":status", Value: "200"}}, end)
}

func (e *echo) OnData(b *h2.Batch, s *h2.Stream, _ uint32, p []byte, end bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	s.Consume(b, s.SendData(b, p, end))
}

func (e *echo) OnTaken(b *h2.Batch, s *h2.Stream, _ uint32, n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	s.Consume(b, n)
}

func (e *echo) OnReset(*h2.Batch, *h2.Stream, uint32, h2.Reset) {}
func (e *echo) OnClosed(*h2.Batch, *h2.Stream, uint32)          {}

// The engine serves somebody else's client through TLS: many streams at once, more than
// a socket takes, and a shutdown that ends nobody's request.
func TestTheEngineServesThroughTLS(t *testing.T) {
	t.Parallel()
	ca := identitytest.CA(t, domain)
	web, db := newSidecar(t, ca, "web"), newSidecar(t, ca, "db")
	cfg := h2.Config{}.WithDefaults()
	peers := make(chan spiffeid.ID, 10)
	server := downstream.New(downstream.Options{
		HTTP2: &cfg, Logger: slog.New(slog.DiscardHandler),
		NewStream: func(*h2.Conn) *h2.Stream {
			e := new(echo)
			e.s.Init(e)
			return &e.s
		},
		Secure: func(nc net.Conn) (net.Conn, error) { return db.Accept(nc, Strict) },
		Silent: func(err error) bool { return errors.Is(err, ErrNothingSaid) },
		Opened: func(c *h2.Conn, nc net.Conn) func() {
			secure := nc.(*Conn)
			peers <- secure.Peer().ID
			return db.Attend(secure, Watched{End: func(error) {}, Drain: func() {
				var b h2.Batch
				c.Shutdown(&b)
				b.Done()
			}})
		},
	})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error)
	go func() { served <- server.Serve(ln) }()
	client := &http2.Transport{DialTLSContext: func(ctx context.Context, network, _ string, _ *tls.Config) (net.Conn, error) {
		nc, err := net.Dial(network, ln.Addr().String())
		if err != nil {
			return nil, err
		}
		return web.Dial(ctx, nc, Expected{IDs: ids(db)}, &web.sessions)
	}}
	var group sync.WaitGroup
	for i := range 20 {
		group.Go(func() {
			sent := make([]byte, 1<<(2+i))
			fill(sent, uint64(i))
			answer, err := client.RoundTrip(newRequest(t, sent))
			if err != nil {
				t.Error(err)
				return
			}
			got, err := io.ReadAll(answer.Body)
			_ = answer.Body.Close()
			if err != nil || !bytes.Equal(got, sent) {
				t.Errorf("%d of %d bytes came back: %v", len(got), len(sent), err)
			}
		})
	}
	group.Wait()
	if id := <-peers; id != web.id {
		t.Errorf("the caller is %v", id)
	}
	client.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

func newRequest(t *testing.T, body []byte) *http.Request {
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://db.test/", bytes.NewReader(body))
	if err != nil {
		t.Error(err)
	}
	return r
}

package server

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"

	adminv1 "github.com/pillion-proxy/pillion/proto/pillion/admin/v1"
)

// connect opens a connection and sends what is given.
func (r *running) connect(t *testing.T, sent string) net.Conn {
	t.Helper()
	c, err := new(net.Dialer).DialContext(t.Context(), r.network, r.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, sent); err != nil {
		t.Fatal(err)
	}
	return c
}

const request = "GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n"

// A connection beyond the bound is served when another one ends.
func TestConnectionsAreBounded(t *testing.T) {
	t.Parallel()
	r := start(t, Options{Limits: Limits{Connections: 1}})
	first := r.connect(t, request)
	if _, err := http.ReadResponse(bufio.NewReader(first), nil); err != nil {
		t.Fatal(err)
	}
	second := r.connect(t, request)
	if err := second.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, err := second.Read(make([]byte, 1)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a second connection of one is served: %d, %v", n, err)
	}
	_ = first.Close()
	if err := second.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := http.ReadResponse(bufio.NewReader(second), nil); err != nil {
		t.Errorf("the second is not served in its turn: %v", err)
	}
}

// Who takes longer than it may is disconnected.
func TestTimeoutsAreSet(t *testing.T) {
	t.Parallel()
	limit := 50 * time.Millisecond
	for name, test := range map[string]struct {
		limits Limits
		sent   string
	}{
		"headers": {Limits{ReadHeaderTimeout: limit}, "GET /live HTTP/1.1\r\n"},
		"idle":    {Limits{IdleTimeout: limit}, request},
		// No page takes its time, but reading a body does.
		"request": {Limits{RequestTimeout: limit}, "GET /debug/pprof/symbol HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nx"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := start(t, Options{Limits: test.limits}).connect(t, test.sent)
			// Less than any default.
			if err := c.SetReadDeadline(time.Now().Add(8 * time.Second)); err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("the connection is kept")
			}
		})
	}
}

func TestSizesAreSet(t *testing.T) {
	t.Parallel()
	r := start(t, Options{Limits: Limits{HeaderBytes: 2000, RequestBytes: 2000, Streams: 7}})
	c := r.connect(t, "GET /live HTTP/1.1\r\nHost: localhost\r\nX: "+strings.Repeat("x", 10_000)+"\r\n\r\n")
	if answer, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || answer.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("large headers: %v, %v", answer, err)
	}
	_, err := adminv1.NewAdminClient(r.dial(t)).SetLogLevel(t.Context(), &adminv1.SetLogLevelRequest{Level: strings.Repeat("x", 3000)})
	wantCode(t, err, codes.ResourceExhausted)

	framer := http2.NewFramer(io.Discard, r.connect(t, http2.ClientPreface+"\x00\x00\x00\x04\x00\x00\x00\x00\x00"))
	frame, err := framer.ReadFrame()
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := frame.(*http2.SettingsFrame).Value(http2.SettingMaxConcurrentStreams); got != 7 {
		t.Errorf("the client may have %d streams, want 7", got)
	}
}

// Who does not take what it asked for is disconnected, so that it holds nothing.
func TestStallTimeoutIsSet(t *testing.T) {
	t.Parallel()
	r := start(t, Options{Limits: Limits{StallTimeout: 100 * time.Millisecond}})
	if got := r.http.HTTP2.WriteByteTimeout; got != 100*time.Millisecond {
		t.Errorf("it is %v", got)
	}
}

// slow is a collector that takes its time.
type slow struct {
	entered chan struct{}
	release chan struct{}
}

func (slow) Describe(chan<- *prometheus.Desc) {}

func (s slow) Collect(chan<- prometheus.Metric) {
	s.entered <- struct{}{}
	<-s.release
}

func TestScrapesAreBounded(t *testing.T) {
	t.Parallel()
	metrics, s := prometheus.NewRegistry(), slow{make(chan struct{}, 10), make(chan struct{})}
	metrics.MustRegister(s)
	r := start(t, Options{Metrics: metrics, Limits: Limits{Scrapes: 2}})
	done := make(chan int, 2)
	for range 2 {
		go func() { done <- r.do(t, "GET", "/metrics").code }()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for range 2 {
		select {
		case <-s.entered:
		case <-ctx.Done():
			t.Fatal("two scrapes do not run at once")
		}
	}
	if got := r.do(t, "GET", "/metrics"); got.code != http.StatusServiceUnavailable {
		t.Errorf("a third scrape of two gets %d", got.code)
	}
	close(s.release)
	for range 2 {
		if code := <-done; code != http.StatusOK {
			t.Errorf("a scrape within the bound gets %d", code)
		}
	}
}

package h2

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"

	"golang.org/x/net/http2"
)

// Both roles talk to an implementation that is not ours, over TCP, with more bytes
// than any window holds.

func TestClientOfGolangOrgXNet(t *testing.T) {
	t.Parallel()
	ln := listenTCP(t)
	address := serveEach(t, ln, echoAll{}).String()
	tr := &http2.Transport{
		AllowHTTP: true,
		DialTLSContext: func(ctx context.Context, network, address string, _ *tls.Config) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, address)
		},
	}
	defer tr.CloseIdleConnections()
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			sent := pattern[i:][:1+i*40000]
			answer, err := tr.RoundTrip(must(http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+address+"/echo", bytes.NewReader(sent))))
			if err != nil {
				t.Error(err)
				return
			}
			defer answer.Body.Close()
			got, err := io.ReadAll(answer.Body)
			if err != nil || !bytes.Equal(got, sent) || answer.StatusCode != 200 || answer.Trailer.Get("grpc-status") != "0" {
				t.Errorf("%s with %v, %d of %d bytes, %v", answer.Status, answer.Trailer, len(got), len(sent), err)
			}
		})
	}
	all.Wait()
}

func TestServerOfGolangOrgXNet(t *testing.T) {
	t.Parallel()
	ln := listenTCP(t)
	defer ln.Close()
	var serving sync.WaitGroup
	defer serving.Wait()
	serving.Go(func() {
		nc, err := ln.Accept()
		if err != nil {
			return
		}
		new(http2.Server).ServeConn(nc, &http2.ServeConnOpts{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Trailer", "grpc-status")
			w.WriteHeader(http.StatusOK)
			if _, err := io.Copy(w, r.Body); err != nil {
				t.Error(err)
			}
			w.Header().Set("grpc-status", "0")
		})})
	})
	cfg := Config{}.WithDefaults()
	c := New(NewTransport(must(net.Dial("tcp", ln.Addr().String()))), Client, &cfg, answerAll{})
	serving.Go(c.Serve)
	var calls []*caller
	for i := range 20 {
		x := newCaller(t, i*40000, -1)
		calls = append(calls, x)
		do(func(b *Batch) {
			if err := x.start(b, c, 10000); err != nil {
				t.Error(err)
				close(x.done)
			}
		})
	}
	for _, x := range calls {
		x.check()
	}
	do(c.Shutdown)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(fmt.Sprint("in a test: ", err))
	}
	return v
}

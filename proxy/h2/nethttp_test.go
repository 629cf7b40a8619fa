package h2

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
)

// Both roles talk to the HTTP/2 of net/http over TCP, with more bytes than any
// window holds.

func TestClientOfNetHTTP(t *testing.T) {
	t.Parallel()
	address := serveEach(t, listenTCP(t), echoAll{}).String()
	tr := &http.Transport{Protocols: onlyH2C()}
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
			if err != nil || !bytes.Equal(got, sent) || answer.StatusCode != http.StatusOK || answer.Trailer.Get("Grpc-Status") != "0" {
				t.Errorf("%s with %v, %d of %d bytes, %v", answer.Status, answer.Trailer, len(got), len(sent), err)
			}
		})
	}
	all.Wait()
}

func TestServerOfNetHTTP(t *testing.T) {
	t.Parallel()
	ln := listenTCP(t)
	server := &http.Server{Protocols: onlyH2C(), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "Grpc-Status")
		w.WriteHeader(http.StatusOK)
		if _, err := io.Copy(w, r.Body); err != nil {
			t.Error(err)
		}
		w.Header().Set("Grpc-Status", "0")
	})}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(ln) })
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
	if err := server.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	serving.Wait()
}

func onlyH2C() *http.Protocols {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	return p
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(fmt.Sprint("in a test: ", err))
	}
	return v
}

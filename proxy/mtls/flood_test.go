package mtls

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/identity/identitytest"
)

// hello returns what a TLS client begins with.
func hello(t testing.TB) []byte {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	go func() { _ = tls.Client(a, bare(nil)).Handshake() }()
	p := make([]byte, 16<<10)
	n, err := b.Read(p)
	if err != nil {
		t.Fatal(err)
	}
	return p[:n]
}

// However many begin handshakes and do not go on, or do not even begin, a caller who
// means it gets in, long before their time is over.
func TestStalledHandshakesMakeRoom(t *testing.T) {
	t.Parallel()
	const most, timeout = 4, 20 * time.Second
	ca := identitytest.CA(t, domain)
	web := newSidecar(t, ca, "web")
	db := newSidecar(t, ca, "db", func(o *Options) { o.MaxHandshakes, o.HandshakeTimeout = most, timeout })
	db.slots.grace = 100 * time.Millisecond
	first := hello(t)
	var group sync.WaitGroup
	defer group.Wait()
	began := time.Now()
	var slow, patient int
	var mu sync.Mutex
	for i := range 6 * most {
		a, b := connectTCP(t)
		if i%2 == 0 {
			if _, err := a.Write(first); err != nil {
				t.Fatal(err)
			}
		}
		defer a.Close()
		group.Go(func() {
			_, err := db.Accept(b, Strict)
			mu.Lock()
			defer mu.Unlock()
			if errors.Is(err, errSlow) {
				slow++
			} else if i%2 == 1 {
				patient++
			}
		})
	}
	for range 3 {
		must(t, connectTCP, web, db)
	}
	if took := time.Since(began); took > timeout/2 {
		t.Errorf("it took %v", took)
	}
	mu.Lock()
	defer mu.Unlock()
	if slow == 0 || patient > 0 {
		t.Errorf("%d stalled handshakes made room, and %d callers were turned away that had not begun", slow, patient)
	}
}

// A renegotiation, as TLS 1.2 has it, is not entered upon, however often it is asked for.
func TestRenegotiationIsRefused(t *testing.T) {
	t.Parallel()
	ca := identitytest.CA(t, domain)
	web := newSidecar(t, ca, "web", lowest(tls.VersionTLS12))
	a, b := connectTCP(t)
	cert := ca.Issue("/svc/db")
	served := make(chan error, 1)
	go func() {
		// A server that asks for it: crypto/tls's cannot, so that its records are made to
		// look like a request, which is not encrypted, and so nothing that is believed.
		c := tls.Server(b, &tls.Config{Certificates: []tls.Certificate{*cert}, ClientAuth: tls.RequestClientCert, NextProtos: []string{"h2"}, MaxVersion: tls.VersionTLS12})
		err := c.Handshake()
		if err == nil {
			_, err = b.Write([]byte{22, 3, 3, 0, 4, 0, 0, 0, 0})
		}
		served <- err
		_, _ = io.Copy(io.Discard, b)
	}()
	expected := Expected{}
	expected.IDs = append(expected.IDs, ca.State(cert).ID)
	c, err := web.Dial(t.Context(), a, expected, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := <-served; err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(make([]byte, 10)); n != 0 || err == nil {
		t.Errorf("read %d, %v", n, err)
	}
	if got := web.config().Renegotiation; got != tls.RenegotiateNever {
		t.Errorf("renegotiation is %v", got)
	}
	_ = a.Close()
}

// Handshakes at the same time all go well, and turns are given back.
func TestManyHandshakesAtOnce(t *testing.T) {
	t.Parallel()
	ca := identitytest.CA(t, domain)
	web, db := newSidecar(t, ca, "web"), newSidecar(t, ca, "db", func(o *Options) { o.MaxHandshakes = 5 })
	var group sync.WaitGroup
	for range 40 {
		group.Go(func() {
			if s := shake(t, connectTCP, web, db); s.callerErr != nil || s.instanceErr != nil {
				t.Errorf("%v, %v", s.callerErr, s.instanceErr)
			}
		})
	}
	group.Wait()
	if n := len(db.turns.taken) + len(web.turns.taken) + db.slots.held.Len(); n != 0 {
		t.Errorf("%d turns or slots are not given back", n)
	}
}

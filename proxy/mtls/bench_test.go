package mtls

import (
	"crypto/tls"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/identity/identitytest"
	"github.com/pillion-proxy/pillion/proxy/h2"
)

// BenchmarkTransport sends batches to and fro, as a connection between two sidecars does
// under load, over a plain socket, over this transport, and over crypto/tls as it is.
func BenchmarkTransport(b *testing.B) {
	for _, size := range []struct {
		name string
		n    int
	}{{"1 RPC", 200}, {"32 RPCs", 6400}, {"bulk", 64 << 10}} {
		for _, kind := range []string{"plain", "mtls", "crypto-tls"} {
			b.Run(size.name+"/"+kind, func(b *testing.B) {
				one, other := benchPair(b, kind)
				b.SetBytes(2 * int64(size.n))
				b.ReportAllocs()
				benchExchange(b, one, other, size.n)
			})
		}
	}
}

// reportCPU reports what the process uses from now on until it is called.
func reportCPU(b *testing.B) func() {
	used := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	before := used()
	return func() { b.ReportMetric(float64((used()-before).Nanoseconds())/1000/float64(b.N), "cpu-us/op") }
}

// benchPair returns the two ends of a connection.
func benchPair(b *testing.B, kind string) (one, other h2.Transport) {
	if kind == "mtls" {
		ca := identitytest.CA(b, domain)
		caller, instance := must(b, connectTCP, newSidecar(b, ca, "web"), newSidecar(b, ca, "db"))
		return caller.Transport(), instance.Transport()
	}
	x, y := connectTCP(b)
	if kind == "plain" {
		return h2.NewTransport(x), h2.NewTransport(y)
	}
	client, server := bareTLS(b)
	cx, cy := tls.Client(x, client), tls.Server(y, server)
	done := make(chan error)
	go func() { done <- cy.Handshake() }()
	if err := cx.Handshake(); err != nil {
		b.Fatal(err)
	}
	if err := <-done; err != nil {
		b.Fatal(err)
	}
	return simple{cx}, simple{cy}
}

// bareTLS is how crypto/tls alone does mutual TLS.
func bareTLS(b *testing.B) (client, server *tls.Config) {
	ca := identitytest.CA(b, domain)
	pool := ca.Bundle().Pool
	cert := ca.Issue("/svc/web", identitytest.DNS("server.test"))
	client = &tls.Config{Certificates: []tls.Certificate{*cert}, RootCAs: pool, ServerName: "server.test", NextProtos: []string{"h2"}, DynamicRecordSizingDisabled: true}
	server = &tls.Config{Certificates: []tls.Certificate{*cert}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, NextProtos: []string{"h2"}, DynamicRecordSizingDisabled: true}
	return client, server
}

// simple is a transport made of blocking calls.
type simple struct{ net.Conn }

func (s simple) Read(l h2.Lender) (int, error) { return s.Conn.Read(l.Lend()) }
func (s simple) TryWrite(p []byte) (int, bool, error) {
	n, err := s.Conn.Write(p)
	return n, false, err
}
func (s simple) Write(p []byte, _ time.Duration) (int, error) { return s.Conn.Write(p) }
func (s simple) CloseWrite() error                            { return nil }

// benchExchange sends n bytes there and back, b.N times.
func benchExchange(b *testing.B, one, other h2.Transport, n int) {
	go func() {
		buffer := make([]byte, 64<<10)
		for left := n; ; {
			m, err := other.Read(whole(buffer))
			if err != nil {
				return
			}
			if left -= m; left == 0 {
				left = n
				benchWrite(other, buffer[:n])
			}
		}
	}()
	buffer := make([]byte, 64<<10)
	b.ResetTimer()
	report := reportCPU(b)
	for range b.N {
		benchWrite(one, buffer[:n])
		for left := n; left > 0; {
			m, err := one.Read(whole(buffer))
			if err != nil {
				b.Fatal(err)
			}
			left -= m
		}
	}
	report()
	_ = one.Close()
}

func benchWrite(tr h2.Transport, p []byte) {
	if n, pending, err := tr.TryWrite(p); err == nil && (pending || n < len(p)) {
		_, _ = tr.Write(p[n:], time.Minute)
	}
}

// BenchmarkHandshakes shakes hands, at both ends, one after the other: full handshakes
// and resumed ones, beside those of crypto/tls as it is, which verifies as much.
func BenchmarkHandshakes(b *testing.B) {
	b.Run("full/mtls", func(b *testing.B) { benchHandshakes(b, false) })
	b.Run("resumed/mtls", func(b *testing.B) { benchHandshakes(b, true) })
	b.Run("full/crypto-tls", func(b *testing.B) { benchBare(b, nil) })
	b.Run("resumed/crypto-tls", func(b *testing.B) { benchBare(b, tls.NewLRUClientSessionCache(1)) })
}

func benchHandshakes(b *testing.B, resume bool) {
	ca := identitytest.CA(b, domain)
	web, db := newSidecar(b, ca, "web"), newSidecar(b, ca, "db")
	defer reportCPU(b)()
	for range b.N {
		caller, instance := must(b, connectTCP, web, db)
		hear(b, caller, instance)
		_, _ = caller.Close(), instance.Close()
		if !resume {
			web.sessions = Sessions{}
		}
	}
}

func benchBare(b *testing.B, sessions tls.ClientSessionCache) {
	client, server := bareTLS(b)
	client.ClientSessionCache = sessions
	defer reportCPU(b)()
	for range b.N {
		x, y := connectTCP(b)
		cx, cy := tls.Client(x, client), tls.Server(y, server)
		go func() { _, _ = cy.Write([]byte("x")) }()
		if _, err := cx.Read(make([]byte, 1)); err != nil {
			b.Fatal(err)
		}
		_, _ = x.Close(), y.Close()
	}
}

package fault

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds what has to happen; moment is how long a test looks for what
// must not.
const (
	patience = 20 * time.Second
	moment   = 150 * time.Millisecond
)

// pair is both ends of connections through a proxy that does not look at frames.
type pair struct {
	*Proxy
	accepted chan net.Conn
	opened   int // connections that went to the proxy
}

func startPair(t *testing.T, raw bool) *pair {
	t.Helper()

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	p := &pair{accepted: make(chan net.Conn, 10)}
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			p.accepted <- c
		}
	}()
	p.Proxy, err = New(Options{Listen: freeAddress(t), Target: listener.Addr().String(), Seed: 7, Raw: raw})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)

	return p
}

func freeAddress(t *testing.T) string {
	t.Helper()

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()

	return listener.Addr().String()
}

// connect makes a connection and returns both ends.
func (p *pair) connect(t *testing.T) (client, server net.Conn) {
	t.Helper()

	client, err := net.Dial("tcp", p.Address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	select {
	case server = <-p.accepted:
	case <-time.After(patience):
		t.Fatal("the server has got no connection")
	}
	t.Cleanup(func() { _ = server.Close() })
	// The server may have it a moment before the proxy knows that.
	p.opened++
	for !slices.ContainsFunc(p.Conns(), func(c *Conn) bool { return c.Index == p.opened }) {
		if t.Context().Err() != nil {
			t.Fatal("the proxy does not show the connection")
		}
		runtime.Gosched()
	}
	for _, c := range []net.Conn{client, server} {
		if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
	}

	return client, server
}

func write(t *testing.T, c net.Conn, data []byte) {
	t.Helper()

	if _, err := c.Write(data); err != nil {
		t.Fatalf("write: %v", err)
	}
}

func expect(t *testing.T, c net.Conn, want []byte) {
	t.Helper()

	got := make([]byte, len(want))
	n, err := io.ReadFull(c, got)
	if err != nil {
		t.Fatalf("read %d bytes of %d: %v", n, len(want), err)
	}
	if !bytes.Equal(got, want) {
		t.Fatal("other bytes came than were sent")
	}
}

// expectSilence fails where something comes, or the end.
func expectSilence(t *testing.T, c net.Conn) {
	t.Helper()

	if err := c.SetReadDeadline(time.Now().Add(moment)); err != nil {
		t.Fatal(err)
	}
	n, err := c.Read(make([]byte, 1))
	var timeout net.Error
	if n > 0 || !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Fatalf("want silence, got %d bytes, %v", n, err)
	}
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
}

func noise(size int) []byte {
	data := make([]byte, size)
	dice := rand.NewChaCha8([32]byte{1})
	_, _ = dice.Read(data)

	return data
}

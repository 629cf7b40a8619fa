package h2

import (
	"net"
	"testing"
	"time"
)

// What a peer does not read stays with us, where it can still be dropped, but for
// what is on its way and a little more.
func TestTheKernelTakesLittleAhead(t *testing.T) {
	t.Parallel()
	for name, role := range map[string]Role{"to an instance": Client, "to a caller": Server} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testTakesLittleAhead(t, role)
		})
	}
}

func testTakesLittleAhead(t *testing.T, role Role) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	peer := make(chan net.Conn, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			close(peer)
			return
		}
		_ = c.(*net.TCPConn).SetReadBuffer(4 << 10)
		peer <- c
	}()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	c, ok := <-peer
	if !ok {
		t.Fatal("nobody accepted")
	}
	defer func() { _ = c.Close() }()

	transport := NewTransport(conn)
	New(transport, role, &Config{}, nil)
	n, err := transport.Write(make([]byte, 16<<20), 100*time.Millisecond)
	if err == nil || n > maxUnsent(role)+512<<10 {
		t.Errorf("the kernel took %d bytes that nobody reads, and %v", n, err)
	}
}

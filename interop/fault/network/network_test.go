package network

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// connect makes a connection from one host to another.
func connect(t *testing.T, from, to *Host) (client, server net.Conn) {
	t.Helper()

	listener := to.Listen(t, 80)
	from.Do(t, func() {
		var err error
		if client, err = net.Dial("tcp", listener.Addr().String()); err != nil {
			t.Fatal(err)
		}
	})
	server, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []net.Conn{client, server} {
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		t.Cleanup(func() { _ = c.Close() })
	}

	return client, server
}

func TestABadWireDeliversAllByTCP(t *testing.T) {
	t.Parallel()

	n := New(t, 1)
	a, b := n.Host(t, "a"), n.Host(t, "b")
	client, server := connect(t, a, b)
	n.Between(a, b, Wire{Loss: 0.02, Duplicate: 0.05, Reorder: 0.1, Delay: time.Millisecond, Jitter: time.Millisecond})

	data := bytes.Repeat([]byte("0123456789"), 50_000)
	go func() {
		_, _ = client.Write(data)
		_ = client.Close()
	}()
	got, err := io.ReadAll(server)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes came of %d, %v", len(got), len(data), err)
	}
	if n.Lost() == 0 {
		t.Errorf("none of %d packets was lost", n.Sent())
	}
}

func TestACutWireDeliversNothingUntilItIsHealed(t *testing.T) {
	t.Parallel()

	n := New(t, 1)
	a, b := n.Host(t, "a"), n.Host(t, "b")
	client, server := connect(t, a, b)
	for name, fault := range map[string]struct{ on, off func() }{
		"cut":     {func() { n.Around(b, Cut) }, func() { n.Around(b, Wire{}) }},
		"one way": {func() { n.Set(a, b, Cut) }, func() { n.Set(a, b, Wire{}) }},
		"link":    {func() { b.SetLink(t, false) }, func() { b.SetLink(t, true) }},
	} {
		fault.on()
		if _, err := client.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		_ = server.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if count, err := server.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: got %d bytes, %v", name, count, err)
		}
		fault.off()
		_ = server.SetReadDeadline(time.Now().Add(20 * time.Second))
		if count, err := server.Read(make([]byte, 1)); count != 1 {
			t.Fatalf("%s: got %d bytes, %v", name, count, err)
		}
	}
}

func TestHostsHavePortsOfTheirOwn(t *testing.T) {
	t.Parallel()

	n := New(t, 1)
	for _, name := range []string{"a", "b"} {
		n.Host(t, name).Listen(t, 80)
	}
}

func TestFates(t *testing.T) {
	t.Parallel()

	dice := rand.New(rand.NewPCG(1, 2))
	w := Wire{Loss: 0.2, Duplicate: 0.5, Delay: time.Second, Jitter: time.Second}
	lost, doubled := 0, 0
	const packets = 10_000
	for range packets {
		after := w.fates(dice)
		switch len(after) {
		case 0:
			lost++
		case 2:
			doubled++
		}
		for _, d := range after {
			if d < time.Second || d >= 2*time.Second {
				t.Fatalf("delivered after %v", d)
			}
		}
	}
	if lost < packets*18/100 || lost > packets*22/100 {
		t.Errorf("%d of %d lost", lost, packets)
	}
	if doubled < packets*38/100 || doubled > packets*42/100 {
		t.Errorf("%d of %d doubled", doubled, packets)
	}
	if after := (Wire{}).fates(dice); len(after) != 1 || after[0] != 0 {
		t.Errorf("a good wire delivers after %v", after)
	}
	if after := Cut.fates(dice); after != nil {
		t.Errorf("a cut wire delivers after %v", after)
	}
}

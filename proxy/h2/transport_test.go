package h2

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

// lent is a lender of one buffer.
type lent struct {
	p        []byte
	out      bool
	returned int
}

func (l *lent) Lend() []byte { l.out = true; return l.p }
func (l *lent) Return()      { l.out = false; l.returned++ }

// socketPairs are the kinds of transports that a proxy has.
func socketPairs(t *testing.T, test func(t *testing.T, a, b net.Conn)) {
	dial := func(network, address string) func(t *testing.T) {
		return func(t *testing.T) {
			t.Parallel()
			if network == "unix" {
				address = filepath.Join(t.TempDir(), "s")
			}
			ln, err := net.Listen(network, address)
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			a, err := net.Dial(network, ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer a.Close()
			b, err := ln.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			test(t, a, b)
		}
	}
	t.Run("TCP", dial("tcp", "127.0.0.1:0"))
	t.Run("Unix", dial("unix", ""))
	t.Run("pipe", func(t *testing.T) {
		t.Parallel()
		a, b := net.Pipe()
		defer a.Close()
		defer b.Close()
		test(t, a, b)
	})
}

func TestTransportReads(t *testing.T) {
	t.Parallel()
	socketPairs(t, func(t *testing.T, a, b net.Conn) {
		tr := NewTransport(a)
		go func() {
			b.Write([]byte("hello"))
			b.Close()
		}()
		l := &lent{p: make([]byte, 100)}
		var got []byte
		for {
			n, err := tr.Read(l)
			if err != nil {
				if err != io.EOF || n != 0 {
					t.Errorf("the end: %d, %v", n, err)
				}
				break
			}
			got = append(got, l.p[:n]...)
		}
		if string(got) != "hello" {
			t.Errorf("read %q", got)
		}
	})
}

func TestTransportReadDeadline(t *testing.T) {
	t.Parallel()
	socketPairs(t, func(t *testing.T, a, b net.Conn) {
		tr := NewTransport(a)
		if err := tr.SetReadDeadline(time.Now().Add(-time.Second)); err != nil {
			t.Fatal(err)
		}
		if n, err := tr.Read(&lent{p: make([]byte, 10)}); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Read: %d, %v", n, err)
		}
	})
}

// Closing ends a Read that waits, and everything after it.
func TestTransportClose(t *testing.T) {
	t.Parallel()
	socketPairs(t, func(t *testing.T, a, b net.Conn) {
		tr := NewTransport(a)
		failed := make(chan error)
		go func() {
			_, err := tr.Read(&lent{p: make([]byte, 10)})
			failed <- err
		}()
		if err := tr.Close(); err != nil {
			t.Fatal(err)
		}
		if err := <-failed; err == nil {
			t.Error("Read after Close says nothing")
		}
		if _, _, err := tr.TryWrite([]byte("x")); err == nil {
			t.Error("TryWrite after Close says nothing")
		}
		if _, err := tr.Write([]byte("x"), time.Second); err == nil {
			t.Error("Write after Close says nothing")
		}
	})
}

// TryWrite writes what there is room for, Write the rest, and all comes in order.
func TestTransportWrites(t *testing.T) {
	t.Parallel()
	socketPairs(t, func(t *testing.T, a, b net.Conn) {
		tr := NewTransport(a)
		sent := bytes.Repeat(pattern[:1000], 10000)
		n, _, err := tr.TryWrite(sent)
		if err != nil || n >= len(sent) {
			t.Fatalf("TryWrite of 10 MB: %d, %v", n, err)
		}
		if again, _, err := tr.TryWrite(sent[n:]); err != nil {
			t.Fatalf("TryWrite without room: %v", err)
		} else {
			n += again
		}
		got := make(chan []byte)
		go func() {
			all, _ := io.ReadAll(b)
			got <- all
		}()
		if m, err := tr.Write(sent[n:], time.Minute); err != nil || n+m != len(sent) {
			t.Fatalf("Write: %d of %d, %v", m, len(sent)-n, err)
		}
		if err := tr.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if _, isPipe := tr.(*stream); isPipe {
			tr.Close()
		}
		if all := <-got; !bytes.Equal(all, sent) {
			t.Errorf("%d of %d bytes came", len(all), len(sent))
		}
	})
}

// deadlines is a connection that notes its write deadlines.
type deadlines struct {
	net.Conn
	last time.Time
}

func (d *deadlines) SetWriteDeadline(t time.Time) error {
	d.last = t
	return d.Conn.SetWriteDeadline(t)
}

// A deadline that is left behind would fail the next write that does not wait, as
// soon as it has passed.
func TestWriteLeavesNoDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		defer a.Close()
		defer b.Close()
		go io.Copy(io.Discard, b)
		d := &deadlines{Conn: a}
		if _, err := (&stream{Conn: d}).Write([]byte("x"), time.Second); err != nil {
			t.Fatal(err)
		}
		if !d.last.IsZero() {
			t.Errorf("the deadline %v is left", d.last)
		}
	})
}

// The time allowed is for each pause of the peer's, not for the whole.
func TestWriteStall(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		defer a.Close()
		defer b.Close()
		go func() {
			p := make([]byte, 10)
			for range 50 {
				time.Sleep(900 * time.Millisecond)
				if _, err := io.ReadFull(b, p); err != nil {
					t.Error(err)
				}
			}
		}()
		start := time.Now()
		n, err := (&stream{Conn: a}).Write(make([]byte, 1000), time.Second)
		if n != 500 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Write: %d, %v", n, err)
		}
		if took := time.Since(start); took < 46*time.Second || took > 47*time.Second {
			t.Errorf("Write gave up after %v", took)
		}
	})
}

// Until there is something to read no buffer is held.
func TestSocketHoldsNoBufferWhileItWaits(t *testing.T) {
	t.Parallel()
	ln := listenTCP(t)
	defer ln.Close()
	a, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	returned := make(chan struct{}, 1)
	l := &signalling{lent: lent{p: make([]byte, 10)}, returned: returned}
	done := make(chan int)
	go func() {
		n, _ := NewTransport(a).Read(l)
		done <- n
	}()
	<-returned
	b.Write([]byte("abc"))
	if n := <-done; n != 3 || !l.out {
		t.Errorf("read %d bytes, a buffer is out: %v", n, l.out)
	}
}

type signalling struct {
	lent
	returned chan struct{}
}

func (s *signalling) Return() {
	s.lent.Return()
	select {
	case s.returned <- struct{}{}:
	default:
	}
}

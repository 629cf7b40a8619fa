package mtls

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/identity/identitytest"
	"github.com/pillion-proxy/pillion/proxy/h2"
)

// spoken is a connection of ours with a peer that speaks TLS as crypto/tls does, over a
// network that the test plays: what the peer writes is kept until the test hands it over.
type spoken struct {
	ours *Conn
	peer *tls.Conn
	net  *wireless
	log  bytes.Buffer // of the peer's keys
}

// wireless is the network between both.
type wireless struct {
	mu   sync.Mutex
	cond sync.Cond
	// in is what comes to us, cut as the reads are to bring it; out what we wrote.
	in   [][]byte
	out  bytes.Buffer
	fin  bool
	hold bool // what the peer writes is not handed over
	held bytes.Buffer
	room int // what of ours is taken; -1: all
}

func newWireless() *wireless {
	n := &wireless{room: -1}
	n.cond.L = &n.mu
	return n
}

// Read implements h2.Transport for our end.
func (n *wireless) Read(l h2.Lender) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for len(n.in) == 0 {
		if n.fin {
			return 0, io.EOF
		}
		n.cond.Wait()
	}
	m := copy(l.Lend(), n.in[0])
	if n.in[0] = n.in[0][m:]; len(n.in[0]) == 0 {
		n.in = n.in[1:]
	}
	return m, nil
}

func (n *wireless) TryRead(l h2.Lender) (int, error) {
	n.mu.Lock()
	nothing := len(n.in) == 0 && !n.fin
	n.mu.Unlock()
	if nothing {
		return 0, nil
	}
	return n.Read(l)
}

func (n *wireless) TryWrite(p []byte) (int, bool, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.room >= 0 {
		p = p[:min(len(p), n.room)]
		n.room -= len(p)
	}
	n.out.Write(p)
	n.cond.Broadcast()
	return len(p), false, nil
}

func (n *wireless) Write(p []byte, _ time.Duration) (total int, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for n.room >= 0 && len(p) > 0 {
		m := min(len(p), n.room)
		n.out.Write(p[:m])
		n.room -= m
		total += m
		p = p[m:]
		n.cond.Broadcast()
		if len(p) > 0 && n.room == 0 {
			n.cond.Wait()
		}
	}
	n.out.Write(p)
	n.cond.Broadcast()
	return total + len(p), nil
}

func (n *wireless) CloseWrite() error               { return nil }
func (n *wireless) SetReadDeadline(time.Time) error { return nil }
func (n *wireless) RemoteAddr() net.Addr            { return &net.UnixAddr{Name: "peer"} }
func (n *wireless) LocalAddr() net.Addr             { return &net.UnixAddr{Name: "we"} }
func (n *wireless) Close() error                    { return nil }

// deliver hands over what was held, in pieces of those sizes; the last is repeated.
func (n *wireless) deliver(sizes ...int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for p := n.held.Bytes(); len(p) > 0; {
		size := min(len(p), max(1, sizes[0]))
		n.in = append(n.in, bytes.Clone(p[:size]))
		p = p[size:]
		if len(sizes) > 1 {
			sizes = sizes[1:]
		}
	}
	n.held.Reset()
	n.cond.Broadcast()
}

// bring hands over what the peer did not write itself, in one piece.
func (n *wireless) bring(records ...[]byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.in = append(n.in, bytes.Join(records, nil))
	n.cond.Broadcast()
}

// end ends what comes.
func (n *wireless) end() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.fin = true
	n.cond.Broadcast()
}

// setRoom says how much more of ours is taken; -1: all.
func (n *wireless) setRoom(room int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.room = room
	n.cond.Broadcast()
}

// ourEnd is a net.Conn whose transport is the network.
type ourEnd struct {
	net.Conn
	n *wireless
}

func (e ourEnd) Transport() h2.Transport { return e.n }
func (e ourEnd) Close() error            { return nil }

// peerEnd is the other end, for crypto/tls.
type peerEnd struct {
	net.Conn
	n *wireless
}

func (e peerEnd) Read(p []byte) (int, error) {
	e.n.mu.Lock()
	defer e.n.mu.Unlock()
	for e.n.out.Len() == 0 {
		e.n.cond.Wait()
	}
	return e.n.out.Read(p)
}

func (e peerEnd) Write(p []byte) (int, error) {
	e.n.mu.Lock()
	defer e.n.mu.Unlock()
	e.n.held.Write(p)
	if !e.n.hold {
		e.n.in = append(e.n.in, bytes.Clone(e.n.held.Bytes()))
		e.n.held.Reset()
		e.n.cond.Broadcast()
	}
	return len(p), nil
}

func (e peerEnd) SetDeadline(time.Time) error      { return nil }
func (e peerEnd) SetWriteDeadline(time.Time) error { return nil }

// speak shakes hands as an instance; the peer's writes are held from then on.
func speak(t testing.TB, db *sidecar, cert *tls.Certificate) *spoken {
	t.Helper()
	n := newWireless()
	s := &spoken{net: n}
	c := bare(cert)
	c.KeyLogWriter = &s.log
	s.peer = tls.Client(peerEnd{n: n}, c)
	shaken := make(chan error)
	go func() { shaken <- s.peer.Handshake() }()
	var err error
	if s.ours, err = db.Accept(ourEnd{n: n}, Strict); err != nil {
		t.Fatal(err)
	}
	if err := <-shaken; err != nil {
		t.Fatal(err)
	}
	n.mu.Lock()
	n.hold = true
	n.mu.Unlock()
	return s
}

// However what comes is cut, it is the same that comes out; and whatever the room is.
func FuzzFragmentation(f *testing.F) {
	f.Add([]byte{1}, []byte{200}, 100)
	f.Add([]byte{5, 255, 3}, []byte{1, 255, 255}, 70000)
	f.Add([]byte{255, 255, 255, 0}, []byte{17, 0, 255}, 200000)
	ca := identitytest.CA(f, domain)
	db := newSidecar(f, ca, "db")
	cert := ca.Issue("/svc/web")
	f.Fuzz(func(t *testing.T, cuts, rooms []byte, size int) {
		if len(cuts) == 0 || len(rooms) == 0 || size < 0 || size > 300_000 || len(cuts)+len(rooms) > 200 {
			t.Skip()
		}
		s := speak(t, db, cert)
		sent := make([]byte, size)
		fill(sent, uint64(size))
		for p := sent; len(p) > 0; {
			n := min(len(p), 1+int(cuts[len(p)%len(cuts)])*97)
			if _, err := s.peer.Write(p[:n]); err != nil {
				t.Fatal(err)
			}
			p = p[n:]
		}
		_ = s.peer.CloseWrite()
		sizes := make([]int, len(cuts))
		for i, cut := range cuts {
			sizes[i] = 1 + int(cut)*int(cut)
		}
		s.net.deliver(sizes...)
		s.net.end()
		var got []byte
		for i := 0; ; i++ {
			l := &lender{p: make([]byte, 1+int(rooms[i%len(rooms)])*257)}
			n, err := s.ours.Transport().Read(l)
			if n > 0 {
				got = append(got, l.p[:n]...)
			}
			if l.lent != min(n, 1) {
				t.Fatalf("%d buffers are lent after %d bytes", l.lent, n)
			}
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatalf("after %d bytes: %v", len(got), err)
			}
		}
		if !bytes.Equal(got, sent) {
			t.Errorf("%d bytes came, %d were sent", len(got), len(sent))
		}
		in := &s.ours.under.(*transport).wire.in
		if in.buffer != nil || s.ours.under.(*transport).plain.buffer != nil {
			t.Error("a buffer is held in the end")
		}
	})
}

// A connection that waits holds no buffer, not even for a record of which a part came.
func TestNoBufferIsHeldWhileNothingComes(t *testing.T) {
	t.Parallel()
	ca := identitytest.CA(t, domain)
	s := speak(t, newSidecar(t, ca, "db"), ca.Issue("/svc/web"))
	tr := s.ours.under.(*transport)
	if _, err := s.peer.Write(make([]byte, 5000)); err != nil {
		t.Fatal(err)
	}
	s.net.deliver(3000)
	waits := make(chan struct{})
	tr.under = &beforeReads{wireless: s.net, at: 3, do: func() {
		if tr.wire.in.buffer != nil || tr.plain.buffer != nil {
			t.Error("a buffer is held")
		}
		close(waits)
	}}
	go func() { _, _ = s.ours.Read(make([]byte, 10000)); _, _ = s.ours.Read(make([]byte, 10000)) }()
	<-waits
	s.net.end()
}

// beforeReads does something before one of the reads.
type beforeReads struct {
	*wireless
	at, reads int
	do        func()
}

func (b *beforeReads) Read(l h2.Lender) (int, error) {
	if b.reads++; b.reads == b.at {
		b.do()
	}
	return b.wireless.Read(l)
}

// What the socket does not take stays pending, is not more than a bound, and goes out
// as it is when there is room.
func TestPendingOutput(t *testing.T) {
	t.Parallel()
	ca := identitytest.CA(t, domain)
	s := speak(t, newSidecar(t, ca, "db"), ca.Issue("/svc/web"))
	s.net.setRoom(1000)
	sent := make([]byte, 1<<20)
	fill(sent, 1)
	n, pending, err := s.ours.Transport().TryWrite(sent)
	if n != writeSize || !pending || err != nil {
		t.Fatalf("TryWrite: %d, %v, %v", n, pending, err)
	}
	out := &s.ours.under.(*transport).wire.out
	if held := cap(out.b.b); held > maxKept {
		t.Errorf("%d bytes are held", held)
	}
	if again, pending, err := s.ours.Transport().TryWrite(nil); again != 0 || !pending || err != nil {
		t.Errorf("TryWrite of nothing: %d, %v, %v", again, pending, err)
	}
	got := make(chan []byte)
	go func() {
		all := make([]byte, len(sent))
		_, _ = io.ReadFull(s.peer, all)
		got <- all
	}()
	s.net.setRoom(-1)
	if m, err := s.ours.Transport().Write(sent[n:], time.Second); n+m != len(sent) || err != nil {
		t.Errorf("Write: %d, %v", m, err)
	}
	if !bytes.Equal(<-got, sent) {
		t.Error("something else came")
	}
	if n, pending, err := s.ours.Transport().TryWrite(sent[:100]); n != 100 || pending || err != nil {
		t.Errorf("then TryWrite: %d, %v, %v", n, pending, err)
	}
}

// A few bytes that wait do not hold a buffer for many.
func TestPendingOutputHoldsWhatItNeeds(t *testing.T) {
	t.Parallel()
	ca := identitytest.CA(t, domain)
	s := speak(t, newSidecar(t, ca, "db"), ca.Issue("/svc/web"))
	s.net.setRoom(writeSize)
	if _, pending, err := s.ours.Transport().TryWrite(make([]byte, writeSize)); !pending || err != nil {
		t.Fatalf("TryWrite: %v, %v", pending, err)
	}
	if held := cap(s.ours.under.(*transport).wire.out.b.b); held > 4<<10 {
		t.Errorf("%d bytes are held for a few", held)
	}
}

// The peer says that nothing more comes, and hears it of us.
func TestCloseNotify(t *testing.T) {
	t.Parallel()
	ca := identitytest.CA(t, domain)
	s := speak(t, newSidecar(t, ca, "db"), ca.Issue("/svc/web"))
	if err := s.ours.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.peer.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the peer reads %v", err)
	}
	_ = s.peer.CloseWrite()
	s.net.deliver(1)
	if _, err := s.ours.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("we read %v", err)
	}
}

// What ends in the middle of a record, or was changed on the way, is no end like others.
func TestBrokenRecords(t *testing.T) {
	t.Parallel()
	ca := identitytest.CA(t, domain)
	db, cert := newSidecar(t, ca, "db"), ca.Issue("/svc/web")
	for name, spoil := range map[string]func(p []byte) []byte{
		"truncated":   func(p []byte) []byte { return p[:len(p)-1] },
		"changed":     func(p []byte) []byte { p[len(p)-1] ^= 1; return p },
		"a huge one":  func(p []byte) []byte { p[3] = 0xff; return append(p, make([]byte, 70000)...) },
		"another one": func(p []byte) []byte { p[0] = 99; return p },
	} {
		t.Run(name, func(t *testing.T) {
			s := speak(t, db, cert)
			if _, err := s.peer.Write([]byte("hello")); err != nil {
				t.Fatal(err)
			}
			p := spoil(bytes.Clone(s.net.held.Bytes()))
			s.net.held.Reset()
			s.net.held.Write(p)
			s.net.deliver(40000)
			s.net.end()
			n, err := s.ours.Read(make([]byte, 100))
			if n != 0 || err == nil || err == io.EOF {
				t.Errorf("read %d, %v", n, err)
			}
		})
	}
}

// A peer that sends records without end that bring nothing is ended, whether it wants
// answers to them or not, and though data come between.
func TestChatterIsBounded(t *testing.T) {
	t.Parallel()
	ca := identitytest.CA(t, domain)
	db, cert := newSidecar(t, ca, "db"), ca.Issue("/svc/web")
	for _, answer := range []bool{true, false} {
		s := speak(t, db, cert)
		s.net.setRoom(0)
		k := newTalker(t, s.log.String())
		var err error
		updates := 0
		for ; updates < 10000 && err == nil; updates++ {
			s.net.bring(k.update(answer), k.data("x"))
			_, err = s.ours.Read(make([]byte, 100))
		}
		if !errors.Is(err, errChatter) || updates < 16 {
			t.Errorf("after %d key updates, answers wanted: %v: %v", updates, answer, err)
		}
		s.net.setRoom(-1)
	}
}

// A key update goes through, and is answered, though nobody writes.
func TestKeyUpdatesAreAnswered(t *testing.T) {
	t.Parallel()
	ca := identitytest.CA(t, domain)
	s := speak(t, newSidecar(t, ca, "db"), ca.Issue("/svc/web"))
	k := newTalker(t, s.log.String())
	before := s.net.out.Len()
	s.net.bring(k.update(true), k.data("x"))
	if n, err := s.ours.Read(make([]byte, 100)); n != 1 || err != nil {
		t.Fatalf("read %d, %v", n, err)
	}
	if s.net.out.Len() == before {
		t.Error("the key update is not answered")
	}
	if n, pending, err := s.ours.Transport().TryWrite([]byte("hello")); n != 5 || pending || err != nil {
		t.Fatalf("TryWrite: %d, %v, %v", n, pending, err)
	}
	p := make([]byte, 5)
	if _, err := io.ReadFull(s.peer, p); err != nil || string(p) != "hello" {
		t.Errorf("the peer reads %q, %v", p, err)
	}
}

// What has come can be read without waiting, and where nothing has, no buffer is held.
func TestTryRead(t *testing.T) {
	t.Parallel()
	ca := identitytest.CA(t, domain)
	s := speak(t, newSidecar(t, ca, "db"), ca.Issue("/svc/web"))
	tr := s.ours.under.(*transport)
	try := func(want int, end error) {
		t.Helper()
		l := &lender{p: make([]byte, 64<<10)}
		n, err := tr.TryRead(l)
		if n != want || err != end || l.lent != min(n, 1) || n == 0 && tr.wire.in.buffer != nil {
			t.Errorf("read %d, %v, want %d, %v; %d buffers are lent", n, err, want, end, l.lent)
		}
	}
	try(0, nil)
	if _, err := s.peer.Write(make([]byte, 5000)); err != nil {
		t.Fatal(err)
	}
	s.net.deliver(3000)
	try(0, nil) // the first half of a record
	try(5000, nil)
	try(0, nil)
	s.net.end()
	try(0, io.EOF)
}

package fault

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"
)

func TestAFaithfulProxyPassesOnBytesAndEnds(t *testing.T) {
	t.Parallel()

	p := startPair(t, true)
	client, server := p.connect(t)
	data := noise(3 << 20)
	var both sync.WaitGroup
	for _, c := range []net.Conn{client, server} {
		both.Go(func() {
			if _, err := c.Write(data); err != nil {
				t.Error(err)
			}
		})
		both.Go(func() { expect(t, c, data) })
	}
	both.Wait()

	// A FIN in one direction leaves the other open.
	if err := closeWrite(client); err != nil {
		t.Fatal(err)
	}
	if n, err := server.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Fatalf("got %d bytes, %v", n, err)
	}
	write(t, server, []byte("still here"))
	expect(t, client, []byte("still here"))

	// And an RST is one on the other side.
	client, server = p.connect(t)
	reset(server)
	if n, err := client.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("got %d bytes, %v", n, err)
	}
}

func TestWhatDelaysKeepsOrderAndBytes(t *testing.T) {
	t.Parallel()

	for _, test := range []struct {
		name  string
		flow  Flow
		size  int
		least time.Duration
	}{
		{"delay", Flow{Delay: 100 * time.Millisecond}, 1 << 20, 100 * time.Millisecond},
		{"jitter", Flow{Delay: 20 * time.Millisecond, Jitter: 30 * time.Millisecond}, 1 << 20, 20 * time.Millisecond},
		{"bandwidth", Flow{BytesPerSecond: 1 << 20}, 256 << 10, 200 * time.Millisecond},
		{"byte by byte", Flow{Chunk: 1}, 20_000, 0},
		{"byte by byte, slowly", Flow{Chunk: 1, BytesPerSecond: 200}, 30, 140 * time.Millisecond},
		{"nobody to be overtaken by", Flow{Overtake: 50 * time.Millisecond}, 1 << 10, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()

			p := startPair(t, true)
			p.MustSet(t, Both(test.flow))
			client, server := p.connect(t)
			data := noise(test.size)
			began := time.Now()
			var writing sync.WaitGroup
			defer writing.Wait()
			writing.Go(func() {
				for rest := data; len(rest) > 0; {
					n := min(len(rest), 5000)
					write(t, client, rest[:n])
					rest = rest[n:]
				}
			})
			expect(t, server, data)
			if took := time.Since(began); took < test.least {
				t.Errorf("took %v, want %v at least", took, test.least)
			}
		})
	}
}

func TestSlowBytesDoNotComeTogether(t *testing.T) {
	t.Parallel()

	p := startPair(t, true)
	p.MustSet(t, Both(Flow{Chunk: 1, BytesPerSecond: 20}))
	client, server := p.connect(t)
	write(t, client, noise(10))
	reads := 0
	for got := 0; got < 10; reads++ {
		n, err := server.Read(make([]byte, 10))
		if err != nil {
			t.Fatal(err)
		}
		got += n
	}
	if reads < 3 {
		t.Errorf("10 bytes came in %d pieces", reads)
	}
}

func TestStalls(t *testing.T) {
	t.Parallel()

	const much = 16 << 20 // more than the kernel keeps

	data := noise(much)
	for kind, free := range map[Stall]int{Unread: 0, Held: 2 << 20} {
		t.Run(fmt.Sprint(kind), func(t *testing.T) {
			t.Parallel()

			p := startPair(t, true)
			client, server := p.connect(t)
			write(t, client, []byte("before"))
			expect(t, server, []byte("before"))
			p.MustSet(t, Faults{ToServer: Flow{Stall: kind}})

			// The other direction goes on.
			write(t, server, []byte("back"))
			expect(t, client, []byte("back"))

			if err := client.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
				t.Fatal(err)
			}
			n, err := client.Write(data)
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("%d bytes were taken, %v", n, err)
			}
			if n < free {
				t.Errorf("%d bytes were taken, want %d", n, free)
			}
			expectSilence(t, server)

			p.Clear(t)
			expect(t, server, data[:n])
		})
	}
}

func TestEndingsNow(t *testing.T) {
	t.Parallel()

	for ending, want := range map[Ending]error{Close: io.EOF, Abort: syscall.ECONNRESET, HalfClose: io.EOF, Vanish: nil} {
		t.Run(ending.String(), func(t *testing.T) {
			t.Parallel()

			p := startPair(t, true)
			client, server := p.connect(t)
			write(t, client, []byte("before"))
			expect(t, server, []byte("before"))
			p.EndAll(ending)
			for _, c := range []net.Conn{client, server} {
				if want == nil {
					write(t, c, noise(1<<20)) // is taken all the same
					expectSilence(t, c)

					continue
				}
				if n, err := c.Read(make([]byte, 1)); !errors.Is(err, want) {
					t.Errorf("got %d bytes, %v, want %v", n, err, want)
				}
			}
			if want == nil {
				_ = client.Close()
				expectSilence(t, server)
			}
		})
	}
}

func TestAHalfCloseLeavesTheOtherDirection(t *testing.T) {
	t.Parallel()

	p := startPair(t, true)
	client, server := p.connect(t)
	p.Conns()[0].HalfClose(ToServer)
	if n, err := server.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Fatalf("got %d bytes, %v", n, err)
	}
	write(t, client, []byte("lost"))
	write(t, server, []byte("still here"))
	expect(t, client, []byte("still here"))
}

func TestAccept(t *testing.T) {
	t.Parallel()

	for accept, want := range map[Accept]error{
		Drop: io.EOF, Reset: syscall.ECONNRESET, Mute: os.ErrDeadlineExceeded, Refuse: syscall.ECONNREFUSED,
	} {
		t.Run(Faults{Accept: accept}.String(), func(t *testing.T) {
			t.Parallel()

			p := startPair(t, true)
			open, server := p.connect(t)
			p.MustSet(t, Faults{Accept: accept})

			client, err := net.Dial("tcp", p.Address())
			if err == nil {
				t.Cleanup(func(c net.Conn) func() { return func() { _ = c.Close() } }(client))
				_ = client.SetReadDeadline(time.Now().Add(moment))
				_, err = client.Read(make([]byte, 1))
			}
			if !errors.Is(err, want) {
				t.Errorf("got %v, want %v", err, want)
			}
			if accept == Drop {
				_ = (<-p.accepted).Close()
			}
			p.opened = p.Accepted()

			write(t, open, []byte("open ones go on"))
			expect(t, server, []byte("open ones go on"))

			p.Clear(t)
			client, server = p.connect(t)
			write(t, client, []byte("healed"))
			expect(t, server, []byte("healed"))
		})
	}
}

func TestATargetThatRefuses(t *testing.T) {
	t.Parallel()

	p, err := New(Options{Listen: freeAddress(t), Target: freeAddress(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	client, err := net.Dial("tcp", p.Address())
	if err == nil {
		defer func() { _ = client.Close() }()
		_, err = client.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v", err)
	}
}

func TestOneConnectionIsHeldUntilAnotherHasDelivered(t *testing.T) {
	t.Parallel()

	p := startPair(t, true)
	client1, server1 := p.connect(t)
	client2, server2 := p.connect(t)
	first, second := p.Conns()[0], p.Conns()[1]
	release := first.Hold(ToServer)
	write(t, client1, []byte("first"))
	expectSilence(t, server1)
	write(t, client2, []byte("second"))
	if err := second.AwaitDelivered(t.Context(), ToServer, 6); err != nil {
		t.Fatal(err)
	}
	expect(t, server2, []byte("second"))
	release()
	release() // counts once
	expect(t, server1, []byte("first"))

	_ = client2.Close()
	if err := second.AwaitDelivered(t.Context(), ToServer, 7); err == nil {
		t.Error("a connection that is over has delivered more")
	}
}

func TestOvertaking(t *testing.T) {
	t.Parallel()

	p := startPair(t, true)
	client1, server1 := p.connect(t)
	client2, server2 := p.connect(t)
	p.MustSet(t, Faults{ToServer: Flow{Overtake: patience}})

	// By the seed, some batches are held until the other connection delivers one,
	// so each pair of them comes well within patience.
	const batches = 20
	one := noise(10)
	began := time.Now()
	var reading sync.WaitGroup
	for _, c := range []net.Conn{server1, server2} {
		reading.Go(func() { expect(t, c, append(append([]byte(nil), one...), one...)) })
	}
	for range 2 {
		write(t, client1, one)
		write(t, client2, one)
	}
	done := make(chan struct{})
	go func() { reading.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(moment):
		p.Clear(t) // all are held: nobody is left to overtake them
		<-done
	}
	if took := time.Since(began); took > patience/2 {
		t.Errorf("%d batches took %v", batches, took)
	}
}

package fault

import (
	"bytes"
	"errors"
	"io"
	"syscall"
	"testing"

	"golang.org/x/net/http2"
	"pgregory.net/rapid"
)

func TestCutsAfterBytes(t *testing.T) {
	t.Parallel()

	for ending, want := range map[Ending]error{Close: io.EOF, Abort: syscall.ECONNRESET, HalfClose: io.EOF, Vanish: nil} {
		t.Run(ending.String(), func(t *testing.T) {
			t.Parallel()

			p := startPair(t, true)
			client, server := p.connect(t)
			write(t, client, []byte("not counted"))
			expect(t, server, []byte("not counted"))
			p.MustSet(t, Faults{Cut: &Cut{Direction: ToServer, Ending: ending, Bytes: 1000}})

			data := noise(5000)
			write(t, client, data)
			expect(t, server, data[:1000])
			if want == nil {
				expectSilence(t, server)
			} else if n, err := server.Read(make([]byte, 1)); !errors.Is(err, want) {
				t.Errorf("got %d bytes, %v, want %v", n, err, want)
			}
			if p.Cuts() != 1 {
				t.Errorf("%d cuts", p.Cuts())
			}
		})
	}
}

func TestCutsHaveABound(t *testing.T) {
	t.Parallel()

	p := startPair(t, true)
	p.MustSet(t, Faults{Cut: &Cut{Direction: ToClient, Bytes: 3, Connections: 1}})
	for cut := range 3 {
		client, server := p.connect(t)
		write(t, server, []byte("abcd"))
		expect(t, client, []byte("abc"))
		if cut > 0 {
			expect(t, client, []byte("d"))
		} else if n, err := client.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("got %d bytes, %v", n, err)
		}
	}
	if p.Cuts() != 1 {
		t.Errorf("%d cuts", p.Cuts())
	}
}

// frames are what a client writes: the preface, SETTINGS, and two DATA frames.
func frames(t *testing.T) (all []byte, starts []int) {
	t.Helper()

	var buffer bytes.Buffer
	buffer.WriteString(http2.ClientPreface)
	framer := http2.NewFramer(&buffer, nil)
	framer.AllowIllegalWrites = true
	for _, write := range []func() error{
		func() error { return framer.WriteSettings() },
		func() error { return framer.WriteData(1, false, noise(100)) },
		func() error { return framer.WriteData(1, true, noise(50)) },
	} {
		starts = append(starts, buffer.Len())
		if err := write(); err != nil {
			t.Fatal(err)
		}
	}

	return buffer.Bytes(), starts
}

func TestCutsAtFrames(t *testing.T) {
	t.Parallel()

	all, starts := frames(t)
	for _, test := range []struct {
		place FramePlace
		want  int
	}{
		{FramePlace{Type: http2.FrameData}, starts[1]},
		{FramePlace{Type: http2.FrameData, Offset: 4}, starts[1] + 4},
		{FramePlace{Type: http2.FrameData, Offset: frameHeader + 1}, starts[1] + frameHeader + 1},
		{FramePlace{Type: http2.FrameData, Nth: 2}, starts[2]},
		{FramePlace{Type: http2.FrameData, FromEnd: true}, starts[2]},
		{FramePlace{Type: http2.FrameData, FromEnd: true, Offset: -1}, starts[2] - 1},
		{FramePlace{Type: http2.FrameData, FromEnd: true, Offset: 3}, starts[2] + 3},
		{FramePlace{Type: http2.FrameData, FromEnd: true, Nth: 2}, len(all)},
		{FramePlace{Type: AnyType}, starts[0]},
		{FramePlace{Type: AnyType, Nth: 3, Offset: 1}, starts[2] + 1},
	} {
		t.Run(test.place.String(), func(t *testing.T) {
			t.Parallel()

			p := startPair(t, false)
			p.MustSet(t, Faults{Cut: &Cut{Direction: ToServer, Frame: &test.place}})
			client, server := p.connect(t)
			go func() { _, _ = client.Write(all) }()
			got, err := io.ReadAll(server)
			if err != nil || !bytes.Equal(got, all[:test.want]) {
				t.Errorf("got %d bytes, %v, want %d", len(got), err, test.want)
			}
		})
	}
}

func TestWhatIsNotHTTP2PassesAllTheSame(t *testing.T) {
	t.Parallel()

	p := startPair(t, false)
	client, server := p.connect(t)
	for _, text := range []string{"GET / HTTP/1.1\r\n\r\n", "PRI", "x"} {
		if text == "PRI" {
			client, server = p.connect(t)
		}
		write(t, client, []byte(text))
		expect(t, server, []byte(text))
	}
	// A part of a frame's header is let go at the end.
	client, server = p.connect(t)
	write(t, server, []byte("short"))
	_ = closeWrite(server)
	expect(t, client, []byte("short"))
}

// However the bytes are split up, the same frames are found.
func TestScannerFindsFramesInAnySplit(t *testing.T) {
	t.Parallel()

	rapid.Check(t, func(t *rapid.T) {
		var all bytes.Buffer
		all.WriteString(http2.ClientPreface)
		framer := http2.NewFramer(&all, nil)
		var want []frame
		for range rapid.IntRange(0, 10).Draw(t, "frames") {
			kind := http2.FrameType(rapid.Byte().Draw(t, "type"))
			size := rapid.IntRange(0, 300).Draw(t, "size")
			start := int64(all.Len())
			if err := framer.WriteRawFrame(kind, 0, 0, make([]byte, size)); err != nil {
				t.Fatal(err)
			}
			want = append(want, frame{kind, start, int64(all.Len())})
		}

		s := newScanner(ToServer, false)
		var got []frame
		var pending, passed []byte
		for rest := all.Bytes(); len(rest) > 0; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "split")
			pending = append(pending, rest[:n]...)
			rest = rest[n:]
			through := s.feed(pending, func(f frame) { got = append(got, f) })
			passed = append(passed, pending[:through]...)
			pending = pending[through:]
		}
		if len(pending) > 0 || !bytes.Equal(passed, all.Bytes()) {
			t.Fatalf("%d bytes of %d went on", len(passed), all.Len())
		}
		if len(got) != len(want) {
			t.Fatalf("found %v, want %v", got, want)
		}
		for i := range got {
			if got[i] != want[i] {
				t.Fatalf("found %v, want %v", got, want)
			}
		}
	})
}

package downstream

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pillion-proxy/pillion/proxy/internal/fewlines"
)

// logged is what a server says.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// lines returns and forgets what was said, without times.
func (l *logged) lines() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var lines []string
	for line := range strings.Lines(l.text.String()) {
		_, line, _ = strings.Cut(strings.TrimSpace(line), " ")
		lines = append(lines, line)
	}
	l.text.Reset()
	return lines
}

func (r *rig) listen() *logged {
	l := new(logged)
	logger := slog.New(slog.NewTextHandler(l, nil))
	r.s.offences.Logger, r.s.refusals.Logger = logger, logger
	return l
}

// offend connects, says something that is no HTTP/2, and leaves.
func (r *rig) offend(say string) {
	here, there := net.Pipe()
	r.listener.conns <- there
	go func() { _, _ = here.Write([]byte(say)) }()
	synctest.Wait()
	_ = here.Close()
	synctest.Wait()
}

// However many connections end badly, the log has a few lines, and the number of
// the others.
func TestOffencesAreLoggedWithinABound(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, 0)
		log := r.listen()
		for range 1000 {
			r.offend(strings.Repeat("garbage ", 10))
		}
		lines := log.lines()
		if len(lines) != fewlines.Each {
			t.Errorf("%d lines, want %d: %q", len(lines), fewlines.Each, lines)
		}
		want := `level=INFO msg="a caller's connection was ended" peer=pipe err="PROTOCOL_ERROR: the connection preface of HTTP/2 is missing"`
		if lines[0] != want {
			t.Errorf("the first line is\n%s\nwant\n%s", lines[0], want)
		}
		time.Sleep(fewlines.Period)
		synctest.Wait()
		lines = log.lines()
		want = `level=INFO msg="more callers' connections were ended" left_out=995 last_peer=pipe last_err=`
		if len(lines) != 1 || !strings.HasPrefix(lines[0], want) {
			t.Errorf("at the period's end %q, want %q", lines, want)
		}
		time.Sleep(time.Hour)
		if lines = log.lines(); len(lines) > 0 {
			t.Errorf("later %q, want nothing", lines)
		}
		r.offend("garbage garbage garbage")
		if lines = log.lines(); len(lines) != 1 {
			t.Errorf("then %q, want one line", lines)
		}
	})
}

// What was not told is told when the server is shut down.
func TestOffencesAreToldAtTheEnd(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, 0)
		log := r.listen()
		for range 7 {
			r.offend(strings.Repeat("garbage ", 10))
		}
		_ = r.shutdown(time.Second)
		if lines := log.lines(); len(lines) != fewlines.Each+1 || !strings.Contains(lines[fewlines.Each], "left_out=2") {
			t.Errorf("%q, want the last line to say that two were left out", lines)
		}
	})
}

// Who speaks something else finds out from the log.
func TestStrangersAreLogged(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, 0)
		log := r.listen()
		r.offend("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
		r.offend("GET / HTTP/1.1\r\n\r\n")
		lines := log.lines()
		for i, want := range []string{"the client speaks TLS, but this port is plaintext", "the client speaks HTTP/1"} {
			if len(lines) != 2 || !strings.Contains(lines[i], want) {
				t.Fatalf("%q, want one that says %q", lines, want)
			}
		}
	})
}

// Those that are being refused, or have ended and linger, hold sockets too: there
// are no more of them than Sockets says.
func TestSocketsAreBounded(t *testing.T) {
	simulated(t, func(t *testing.T) {
		const most = 10
		r := newRig(t, most)
		log := r.listen()
		var mine []net.Conn
		closed := make([]atomic.Bool, 100)
		for i := range closed {
			here, there := net.Pipe()
			mine = append(mine, here)
			r.listener.conns <- there
			go func() { // takes what it is told, and keeps its end open
				_, err := here.Read(make([]byte, 1<<16))
				for err == nil {
					_, err = here.Read(make([]byte, 1<<16))
				}
				closed[i].Store(true)
			}()
			synctest.Wait()
		}
		r.s.mu.Lock()
		held := r.s.held
		r.s.mu.Unlock()
		if held != Sockets(most) {
			t.Errorf("%d sockets are held, want %d", held, Sockets(most))
		}
		open := 0
		for i := range closed {
			if !closed[i].Load() {
				open++
			}
		}
		if n := r.open.Load(); n != most || open < most {
			t.Errorf("%d connections are open, want %d; %d clients are not closed", n, most, open)
		}
		time.Sleep(fewlines.Period)
		synctest.Wait()
		lines := slices.DeleteFunc(log.lines(), func(l string) bool { return !strings.Contains(l, "refused") })
		if last := lines[len(lines)-1]; len(lines) != fewlines.Each+1 || !strings.Contains(last, fmt.Sprintf("left_out=%d", len(closed)-most-fewlines.Each)) {
			t.Errorf("the log says %q", lines)
		}
		for _, c := range mine {
			_ = c.Close()
		}
		synctest.Wait()
		r.s.mu.Lock()
		defer r.s.mu.Unlock()
		if r.s.held != 0 {
			t.Errorf("%d sockets are held in the end", r.s.held)
		}
	})
}

func TestConnsForSockets(t *testing.T) {
	t.Parallel()
	for sockets := range 20_000 {
		n := ConnsFor(sockets)
		if n < 1 || Sockets(n) > max(sockets, Sockets(1)) || Sockets(n+1) <= sockets {
			t.Fatalf("ConnsFor(%d) is %d, which holds %d sockets", sockets, n, Sockets(n))
		}
	}
}

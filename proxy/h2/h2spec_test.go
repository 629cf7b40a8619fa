package h2

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestH2spec has h2spec 2.2.1 examine the server role over TCP. Its 145 cases and
// the strict one count 146.
func TestH2spec(t *testing.T) {
	t.Parallel()
	tool := filepath.Join(os.Getenv("PILLION_TOOLS"), "h2spec")
	if _, err := os.Stat(tool); os.Getenv("PILLION_TOOLS") == "" || err != nil {
		t.Skip("h2spec is not in the folder that PILLION_TOOLS names: run `make tools` and set it to .cache/tools")
	}
	host, port, err := net.SplitHostPort(serveEach(t, listenTCP(t), answerAll{}).String())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	// Its default of 2 s for an answer is short on a busy machine.
	out, _ := exec.CommandContext(ctx, tool, "--strict", "--host", host, "--port", port, "--timeout", "5").CombinedOutput()

	closing := regexp.MustCompile(`\d+ tests, \d+ passed, \d+ skipped, \d+ failed`).FindString(string(out))
	if closing != "146 tests, 146 passed, 0 skipped, 0 failed" {
		_, failures, _ := strings.Cut(string(out), "Failures:")
		t.Errorf("h2spec says %q. Failures:%s", closing, failures)
	}
}

func listenTCP(t testing.TB) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

// serveEach serves every connection to ln until the test ends.
func serveEach(t testing.TB, ln net.Listener, h Handler) net.Addr {
	cfg := Config{}.WithDefaults()
	var serving sync.WaitGroup
	var conns sync.Map
	serving.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			conns.Store(nc, nil)
			serving.Go(func() {
				defer conns.Delete(nc)
				New(NewTransport(nc), Server, &cfg, h).Serve()
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		conns.Range(func(nc, _ any) bool { nc.(net.Conn).Close(); return true })
		serving.Wait()
	})
	return ln.Addr()
}

// answerAll is a handler whose streams answer each request with 200 and some
// bytes once it has ended.
type answerAll struct{}

func (answerAll) NewStream(*Conn) *Stream {
	a := new(answerer)
	a.s.Init(a)
	return &a.s
}
func (answerAll) OnConnSlots(*Batch, *Conn)         {}
func (answerAll) OnConnDraining(*Batch, *Conn)      {}
func (answerAll) OnConnClosed(*Batch, *Conn, error) {}

type answerer struct{ s Stream }

var answerBody = []byte("an answer of some bytes")

func (a *answerer) answer(b *Batch) {
	a.s.SendHeaders(b, fields(":status", "200", "content-type", "text/plain"), false)
	a.s.SendData(b, answerBody, false)
	a.s.SendData(b, nil, true)
}

func (a *answerer) OnHeaders(b *Batch, _ *Stream, _ uint32, h *Head, end bool) {
	if end {
		a.answer(b)
	}
}

func (a *answerer) OnData(b *Batch, s *Stream, _ uint32, p []byte, end bool) {
	s.Consume(b, len(p))
	if end {
		a.answer(b)
	}
}
func (a *answerer) OnReset(*Batch, *Stream, uint32, Reset) {}
func (a *answerer) OnTaken(*Batch, *Stream, uint32, int)   {}
func (a *answerer) OnClosed(*Batch, *Stream, uint32)       {}

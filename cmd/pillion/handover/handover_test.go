package handover

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// role is the variable by which this test binary learns that it is a successor, and
// which way it is to behave.
const role = "HANDOVER_TEST_ROLE"

func TestMain(m *testing.M) {
	if r, ok := os.LookupEnv(role); ok {
		os.Exit(succeed(r))
	}
	goleak.VerifyTestMain(m)
}

const patience = 30 * time.Second

// succeed is a successor: it takes the sockets "a" and "b" where they are wanted,
// and answers each connection to them with its role.
func succeed(role string) int {
	p, err := Inherit()
	if err != nil || p == nil {
		fmt.Fprintln(os.Stderr, "inherit:", err)
		return 9
	}
	for _, name := range append(perProcess, Variable) {
		if _, ok := os.LookupEnv(name); ok {
			fmt.Fprintln(os.Stderr, "it still has", name)
			return 8
		}
	}
	var known map[string]string
	if err := p.Known(&known); err != nil || known["service"] != "greeter" {
		fmt.Fprintln(os.Stderr, "known:", known, err)
		return 7
	}
	switch role {
	case "fails":
		p.Failed(errors.New("the address is taken"))
		return 1
	case "exits":
		return 3
	case "hangs":
		select {}
	case "chatters":
		_ = p.wire.send(message{Say: "hello"})
		select {}
	}
	var sockets []*Socket
	for _, wanted := range []struct{ name, listen string }{{"a", "127.0.0.1:0"}, {"b", os.Getenv("HANDOVER_TEST_B")}} {
		s := p.Take(wanted.name, wanted.listen)
		if s == nil {
			fmt.Fprintln(os.Stderr, "there is no", wanted)
			return 6
		}
		sockets = append(sockets, s)
	}
	if p.Take("a", "127.0.0.1:0") != nil || p.Take("c", "elsewhere:1") != nil {
		fmt.Fprintln(os.Stderr, "a socket was taken that is none, or is taken")
		return 5
	}
	if err := p.AwaitBegin(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "begin:", err)
		return 4
	}
	if role == "dies" {
		return 2
	}
	for _, s := range sockets {
		go func() {
			for {
				c, err := s.Listener.Accept()
				if err != nil {
					return
				}
				_, _ = fmt.Fprintln(c, role, s.Name)
				_ = c.Close()
			}
		}()
	}
	p.Begun()
	KeepFile(sockets[1].Listener, false)
	_, _ = io.Copy(io.Discard, os.Stdin) // until the test lets it go
	_ = sockets[1].Listener.Close()
	return 0
}

// estate is two sockets, one of them Unix, and one more that is of no use.
func estate(t *testing.T) (Estate, string) {
	t.Helper()
	folder, err := os.MkdirTemp("", "pillion") //nolint:usetesting // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	path := filepath.Join(folder, "b")
	e := Estate{Known: map[string]string{"service": "greeter"}}
	for _, s := range []struct{ name, network, address, listen string }{
		{"a", "tcp", "127.0.0.1:0", "127.0.0.1:0"},
		{"b", "unix", path, "unix://" + path},
		{"unwanted", "tcp", "127.0.0.1:0", "127.0.0.1:0"},
	} {
		l, err := net.Listen(s.network, s.address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		e.Sockets = append(e.Sockets, Socket{Name: s.name, Listen: s.listen, Listener: l})
	}
	return e, path
}

// successor starts this binary as a successor. Its standard input is a pipe that is
// closed at the test's end.
func successor(t *testing.T, role string, e Estate) *Successor {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(t.TempDir(), "successor")
	text := fmt.Sprintf("#!/bin/sh\nHANDOVER_TEST_ROLE=%s HANDOVER_TEST_B=%s exec %s <%s\n", role, e.Sockets[1].Listen, program, fifo(t))
	if err := os.WriteFile(script, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	s, err := Start(Command{Path: script, Args: []string{script}}, e)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Kill() })
	return s
}

// fifo returns a named pipe that has a writer until the test ends.
func fifo(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "stdin")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return path
}

// asked connects to an address and returns what it says.
func asked(t *testing.T, a net.Addr) string {
	t.Helper()
	c, err := net.Dial(a.Network(), a.String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(patience))
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		t.Fatalf("%v said nothing: %v", a, err)
	}
	return strings.TrimSpace(line)
}

func TestTakeOver(t *testing.T) {
	for _, name := range perProcess { // meant for this process alone
		t.Setenv(name, "1")
	}
	e, path := estate(t)
	s := successor(t, "serves", e)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := s.AwaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	if !s.Took(0) || !s.Took(1) || s.Took(2) {
		t.Errorf("it took %v, want 0 and 1", s.taken)
	}
	if err := s.Begin(ctx); err != nil {
		t.Fatal(err)
	}
	a, b := e.Sockets[0].Listener, e.Sockets[1].Listener
	// The predecessor closes; the sockets stay.
	KeepFile(b, true)
	addresses := map[string]net.Addr{"serves a": a.Addr(), "serves b": b.Addr()}
	_, _ = a.Close(), b.Close()
	s.Leave()
	for want, address := range addresses {
		if said := asked(t, address); said != want {
			t.Errorf("%v says %q, want %q", address, said, want)
		}
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the socket's file: %v", err)
	}
}

// A successor that fails, at whichever step, costs nothing: the sockets go on to work
// here, without having become blocking ones, say.
func TestFailures(t *testing.T) {
	t.Parallel()
	for role, want := range map[string]string{
		"fails":    "the address is taken",
		"exits":    "it ended with exit status 3",
		"hangs":    "it was not ready in time: too slow",
		"chatters": `it says "hello" instead of "ready"`,
		"dies":     "it ended with exit status 2",
	} {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			e, path := estate(t)
			s := successor(t, role, e)
			timeout := patience
			if role == "hangs" {
				timeout = 300 * time.Millisecond
			}
			ctx, cancel := context.WithTimeoutCause(t.Context(), timeout, errors.New("too slow"))
			defer cancel()
			err := s.AwaitReady(ctx)
			if role == "dies" && err == nil {
				err = s.Begin(ctx)
			}
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %s", err, want)
			}
			s.Kill()
			for _, socket := range e.Sockets {
				l := socket.Listener
				go func() {
					if c, err := l.Accept(); err == nil {
						_, _ = fmt.Fprintln(c, "predecessor")
						_ = c.Close()
					}
				}()
				if said := asked(t, l.Addr()); said != "predecessor" {
					t.Errorf("%v says %q", l.Addr(), said)
				}
			}
			if _, err := os.Lstat(path); err != nil {
				t.Errorf("the socket's file: %v", err)
			}
		})
	}
}

func TestAProgramThatIsNotThere(t *testing.T) {
	t.Parallel()
	e, _ := estate(t)
	_, err := Start(Command{Path: filepath.Join(t.TempDir(), "nothing"), Args: []string{"x"}}, e)
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

// pair is a predecessor as its successor sees it, and the other end.
func pair(t *testing.T) (*Predecessor, *wire) {
	t.Helper()
	ours, theirs, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll([]*os.File{ours, theirs})
	here, err := newWire(ours)
	if err != nil {
		t.Fatal(err)
	}
	there, err := newWire(theirs)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(here.close)
	t.Cleanup(there.close)
	return &Predecessor{wire: there, taken: map[int]bool{}}, here
}

// Whoever is left alone begins.
func TestThePredecessorCrashes(t *testing.T) {
	t.Parallel()
	p, other := pair(t)
	done := make(chan error)
	go func() { done <- p.AwaitBegin(context.Background()) }()
	if _, err := other.receive(sayReady); err != nil {
		t.Fatal(err)
	}
	other.close()
	if err := <-done; err != nil {
		t.Errorf("got %v", err)
	}
	p.Begun() // returns, though nobody hears it
}

func TestStoppedBeforeItBegan(t *testing.T) {
	t.Parallel()
	p, other := pair(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- p.AwaitBegin(ctx) }()
	if _, err := other.receive(sayReady); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestAnotherVersion(t *testing.T) {
	t.Parallel()
	p, other := pair(t)
	if err := other.send(message{Say: sayEstate, Version: version + 1}); err != nil {
		t.Fatal(err)
	}
	if _, err := meet(p.wire, 0); err == nil || !strings.Contains(err.Error(), "version 2") {
		t.Errorf("got %v", err)
	}
	if _, err := other.receive(sayReady); err == nil || !strings.Contains(err.Error(), "restart instead") {
		t.Errorf("the predecessor is told %v", err)
	}
}

// Nothing that stands in the variable, or comes over the socket, does harm.
func TestNoPredecessorButTheVariable(t *testing.T) {
	for value, want := range map[string]string{
		"": "no descriptor", "-1": "no descriptor", "x": "no descriptor", "99999999": "no descriptor",
		"4000": "no socket",
	} {
		t.Setenv(Variable, value)
		p, err := Inherit()
		if p != nil || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %s", value, err, want)
		}
		if _, ok := os.LookupEnv(Variable); ok {
			t.Errorf("%q: the variable is still there", value)
		}
	}
	if p, err := Inherit(); p != nil || err != nil {
		t.Errorf("without the variable: %v, %v", p, err)
	}
}

func TestNoPredecessor(t *testing.T) {
	t.Parallel()
	var p *Predecessor
	p.Begun()
	p.Failed(errors.New("x"))
	if err := errors.Join(p.AwaitBegin(t.Context()), p.Known(nil)); err != nil || p.Take("a", "b") != nil {
		t.Errorf("got %v", err)
	}
}

func FuzzMessages(f *testing.F) {
	for _, seed := range []string{
		`{"say":"ready","taken":[0,-1,99]}`, `{"say":"failed","error":"x"}`, `{"say":"estate","version":1,"sockets":[{"name":"a"}]}`,
		"", "{", "[]", "null", `{"say":7}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, want := range []kind{sayReady, sayEstate, sayBegin} {
			w := &wire{in: json.NewDecoder(strings.NewReader(string(text)))}
			m, err := w.receive(want)
			if err == nil && m.Say != want {
				t.Errorf("%q passes for %s", text, want)
			}
			(&Successor{taken: m.Taken}).Took(0)
		}
	})
}

// A process that this one starts for another purpose gets none of it.
func TestDescriptorsAreNotLeaked(t *testing.T) {
	t.Parallel()
	ours, theirs, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll([]*os.File{ours, theirs})
	out, err := exec.Command("sh", "-c", "ls -l /proc/$$/fd").Output()
	if err != nil || strings.Contains(string(out), "socket:") {
		t.Errorf("%v: it has\n%s", err, out)
	}
}

// Handing a socket over leaves it as it is for who has it: one that waits for a connection
// there can still be told to stop, whoever connects between the two.
func TestASocketThatIsHandedOverCanStillBeClosed(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	fs, err := files([]Socket{{Name: "a", Listener: l}})
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(fs)
	fs[0].Fd() // as it is when a process is started with it
	accepted := make(chan error)
	go func() {
		for {
			c, err := l.Accept()
			accepted <- err
			if err != nil {
				return
			}
			_ = c.Close()
		}
	}()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if err := <-accepted; err != nil {
		t.Fatal(err)
	}
	time.Sleep(10 * time.Millisecond) // it waits again
	closed := make(chan error, 1)
	go func() { closed <- l.Close() }()
	select {
	case err := <-accepted:
		if !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
		<-closed
	case <-time.After(10 * time.Second):
		t.Error("it cannot be closed while somebody waits for a connection")
		if c, err := net.Dial("tcp", l.Addr().String()); err == nil {
			_ = c.Close()
		}
		<-accepted
	}
}

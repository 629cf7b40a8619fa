package systemd

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pillion-proxy/pillion/cmd/pillion/handover"
)

// role is the variable by which this test binary learns that systemd is to have
// started it.
const role = "SYSTEMD_TEST_TAKE"

func TestMain(m *testing.M) {
	if wanted, ok := os.LookupEnv(role); ok {
		os.Exit(activate(wanted))
	}
	goleak.VerifyTestMain(m)
}

// manager is a service manager that only listens.
type manager struct {
	t    *testing.T
	conn *net.UnixConn
}

func newManager(t *testing.T) *manager {
	t.Helper()
	folder, err := os.MkdirTemp("", "pillion") //nolint:usetesting // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	path := filepath.Join(folder, "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return &manager{t, conn}
}

// next is the next message.
func (m *manager) next() string {
	m.t.Helper()
	_ = m.conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	text := make([]byte, 4096)
	n, err := m.conn.Read(text)
	if err != nil {
		m.t.Fatal(err)
	}
	return string(text[:n])
}

func TestMessages(t *testing.T) {
	listening := newManager(t)
	m := New(slog.New(slog.DiscardHandler))
	defer m.Close()
	for _, message := range []struct {
		say  func()
		want string
	}{
		{func() { m.Ready("serving\non 1") }, "READY=1\nSTATUS=serving on 1"},
		{func() { m.Stopping("draining") }, "STOPPING=1\nSTATUS=draining"},
		{func() { m.Replaced(42) }, "MAINPID=42\nREADY=1"},
		{func() { m.Reloading("upgrading") }, "RELOADING=1\nMONOTONIC_USEC="},
	} {
		message.say()
		if said := listening.next(); !strings.HasPrefix(said, message.want) {
			t.Errorf("said %q, want %q", said, message.want)
		}
	}
}

func TestNoManager(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	m := New(slog.New(slog.DiscardHandler))
	if m != nil {
		t.Fatal("there is one")
	}
	m.Ready("x")
	m.Watch(t.Context(), func(context.Context) error { t.Error("checked"); return nil })
	m.Close()
}

// A manager that goes away, as systemd does when it is replaced, is found again.
func TestTheManagerGoesAway(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "nobody"))
	m := New(slog.New(slog.DiscardHandler))
	defer m.Close()
	m.Ready("nobody hears")
	listening := newManager(t)
	m.addr.Name = os.Getenv("NOTIFY_SOCKET")
	m.tell(statusLine("heard"))
	if said := listening.next(); said != "STATUS=heard" {
		t.Errorf("said %q", said)
	}
}

// The watchdog hears of progress, and of nothing where there is none.
func TestWatchdog(t *testing.T) {
	listening := newManager(t)
	t.Setenv("WATCHDOG_USEC", "90000") // a look every 30 ms
	t.Setenv("WATCHDOG_PID", "")
	m := New(slog.New(slog.DiscardHandler))
	defer m.Close()
	ctx, cancel := context.WithCancel(t.Context())
	stuck, looks := make(chan struct{}), make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		m.Watch(ctx, func(ctx context.Context) error {
			select {
			case <-stuck:
			default:
				return nil
			}
			select {
			case looks <- struct{}{}:
			case <-ctx.Done():
			}
			return errors.New("stuck")
		})
	}()
	for range 3 {
		if said := listening.next(); said != "WATCHDOG=1" {
			t.Errorf("said %q", said)
		}
	}
	close(stuck)
	<-looks
	m.tell(statusLine("from now on there is no progress"))
	for listening.next() == "WATCHDOG=1" { // what was said before
		continue
	}
	<-looks
	<-looks
	m.tell(statusLine("end"))
	if said := listening.next(); said != "STATUS=end" {
		t.Errorf("without progress it said %q", said)
	}
	cancel()
	<-done
}

// activate takes the sockets "outbound" and "admin" where it is told that they are
// wanted, and prints what it got.
func activate(wanted string) int {
	s, err := Activated()
	if err != nil {
		_, _ = os.Stdout.WriteString(err.Error())
		return 1
	}
	outbound, admin, _ := strings.Cut(wanted, " ")
	for _, want := range []struct{ side, listen string }{{"outbound", outbound}, {"admin", admin}} {
		if took := s.Take(want.side, want.listen); took != nil && took.Borrowed {
			_, _ = os.Stdout.WriteString(want.side + "=" + took.Listener.Addr().String() + " ")
		}
	}
	if err := s.Unused(); err != nil {
		_, _ = os.Stdout.WriteString(err.Error())
		return 2
	}
	return 0
}

func TestSocketActivation(t *testing.T) {
	t.Parallel()
	tcp := listener(t, "tcp", "127.0.0.1:0")
	other := listener(t, "tcp", "127.0.0.1:0")
	a, b := tcp.Addr().String(), other.Addr().String()
	for name, c := range map[string]struct {
		wanted, names string
		sockets       []net.Listener
		says          string
	}{
		"by name, wherever":   {"127.0.0.1:1 127.0.0.1:2", "admin:outbound", []net.Listener{tcp, other}, "outbound=" + b + " admin=" + a + " "},
		"by address":          {a + " " + b, "x.socket:y.socket", []net.Listener{tcp, other}, "outbound=" + a + " admin=" + b + " "},
		"without names":       {a + " " + b, "", []net.Listener{tcp, other}, "outbound=" + a + " admin=" + b + " "},
		"one of the two":      {a + " 127.0.0.1:2", "outbound", []net.Listener{tcp}, "outbound=" + a + " "},
		"one that nobody has": {a + " 127.0.0.1:2", "outbound:y.socket", []net.Listener{tcp, other}, "nothing listens on what systemd has opened as y.socket (" + b + "): write FileDescriptorName="},
		"none":                {"127.0.0.1:1 127.0.0.1:2", "", nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if said := activated(t, c.wanted, c.names, c.sockets...); !strings.Contains(said, c.says) {
				t.Errorf("it says %q, want %q", said, c.says)
			}
		})
	}
}

// What is no listening socket is refused: it would fail with each Accept.
func TestActivationByOtherSockets(t *testing.T) {
	t.Parallel()
	packets, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = packets.Close() }()
	f, err := packets.(*net.UDPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if said := run(t, "a:1 b:2", "outbound", f); !strings.Contains(said, "socket outbound of systemd is no stream socket that listens") {
		t.Errorf("it says %q", said)
	}
}

func listener(t *testing.T, network, address string) net.Listener {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func activated(t *testing.T, wanted, names string, sockets ...net.Listener) string {
	t.Helper()
	var files []*os.File
	for _, l := range sockets {
		f, err := l.(*net.TCPListener).File()
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = f.Close() }()
		files = append(files, f)
	}
	return run(t, wanted, names, files...)
}

// run runs this binary as systemd does, with sockets, and returns what it says.
func run(t *testing.T, wanted, names string, files ...*os.File) string {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", `LISTEN_PID=$$ exec "$0"`, program)
	cmd.Env = append(os.Environ(), role+"="+wanted, "LISTEN_FDNAMES="+names, "LISTEN_FDS="+string(rune('0'+len(files))))
	cmd.ExtraFiles = files
	out, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return string(out)
}

func TestSameAddress(t *testing.T) {
	t.Parallel()
	tcp := func(ip string, port int) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: port} }
	for _, c := range []struct {
		have net.Addr
		want string
		same bool
	}{
		{tcp("127.0.0.1", 1), "127.0.0.1:1", true},
		{tcp("127.0.0.1", 1), "127.0.0.1:2", false},
		{tcp("127.0.0.1", 1), "0.0.0.0:1", false},
		{tcp("::", 1), "0.0.0.0:1", true},
		{tcp("0.0.0.0", 1), ":1", true},
		{tcp("::1", 1), "[::1]:1", true},
		{tcp("127.0.0.1", 1), "unix:///run/x", false},
		{&net.UnixAddr{Name: "/run/x", Net: "unix"}, "unix:///run/x", true},
		{&net.UnixAddr{Name: "/run/x", Net: "unix"}, "unix:///run/y", false},
		{&net.UnixAddr{Name: "/run/x", Net: "unix"}, "127.0.0.1:1", false},
		{tcp("127.0.0.1", 1), "nonsense", false},
	} {
		if same := sameAddress(c.have, c.want); same != c.same {
			t.Errorf("%v and %s: %v", c.have, c.want, same)
		}
	}
}

var _ interface {
	Take(side, listen string) *handover.Socket
} = (*Sockets)(nil)

package upgrade

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/pillion-proxy/pillion/interop/harness"
	"github.com/pillion-proxy/pillion/interop/load"
	"google.golang.org/grpc"
)

// manager stands in for systemd: it hears what services say over NOTIFY_SOCKET.
type manager struct {
	path string

	mu   sync.Mutex
	said []string
}

func startManager(t *testing.T) *manager {
	t.Helper()

	m := &manager{path: filepath.Join(harness.SocketFolder(t), "notify")}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		message := make([]byte, 4096)
		for {
			n, err := conn.Read(message)
			if err != nil {
				return
			}
			m.mu.Lock()
			m.said = append(m.said, string(message[:n]))
			m.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		_ = conn.Close()
		<-done
	})

	return m
}

// messages returns what was said, but for the watchdog's, and how many those were.
func (m *manager) messages() (said []string, watchdog int) {
	m.mu.Lock()
	defer m.mu.Unlock()

	for _, message := range m.said {
		if message == "WATCHDOG=1" {
			watchdog++
		} else {
			said = append(said, message)
		}
	}

	return said, watchdog
}

// await waits for a message that begins so, after the first few, and returns its
// place.
func (m *manager) await(t *testing.T, after int, prefix string) (place int) {
	t.Helper()

	eventually(t, "the manager is told "+prefix, func() bool {
		said, _ := m.messages()
		if after >= len(said) {
			return false
		}
		found := slices.IndexFunc(said[after:], func(message string) bool { return strings.HasPrefix(message, prefix) })
		place = after + found

		return found >= 0
	})

	return place
}

// What systemd is told of a service's life, in this order.
func TestWhatSystemdIsTold(t *testing.T) {
	t.Parallel()

	systemd := startManager(t)
	app := load.StartApp(t, "app", "")
	s := start(t, options{
		outbound: harness.FreeAddress(t), service: "app", app: app.Address, inbound: harness.FreeAddress(t),
		settings: map[string]any{"registry": mesh(t, app.Address)},
		// As systemd sets them; the sockets are another process's.
		env: []string{"NOTIFY_SOCKET=" + systemd.path, "WATCHDOG_USEC=900000"},
	})

	ready := systemd.await(t, 0, "READY=1\nSTATUS=serving: outbound "+s.Outbound+" inbound "+s.Inbound+" admin "+s.Admin)
	awaitPats := func(whose string) {
		t.Helper()

		_, before := systemd.messages()
		eventually(t, whose+" data plane is seen to make progress", func() bool {
			_, now := systemd.messages()

			return now >= before+3
		})
	}
	awaitPats("the first process's")

	s.script(t, "exit 7")
	s.signal(t, syscall.SIGHUP)
	reloading := systemd.await(t, ready+1, "RELOADING=1\nMONOTONIC_USEC=")
	failed := systemd.await(t, reloading+1, "READY=1\nSTATUS=serving: ")
	if said, _ := systemd.messages(); !strings.Contains(said[failed], "the last upgrade failed: ") {
		t.Errorf("after a failed upgrade: %q", said[failed])
	}

	s.install(t, harness.Pillion(t))
	s.Await(t, "the upgrade failed") // or its line may come after that of the next
	before := s.lines("the upgrade failed")
	s.signal(t, syscall.SIGHUP)
	eventually(t, "the upgrade", func() bool { return len(s.upgrades()) == 1 })
	if s.lines("the upgrade failed") != before {
		t.Fatal("the upgrade failed")
	}
	s.pid = s.upgrades()[0]
	reloading = systemd.await(t, failed+1, "RELOADING=1\nMONOTONIC_USEC=")
	replaced := systemd.await(t, reloading+1, fmt.Sprintf("MAINPID=%d\nREADY=1", s.pid))
	serving := systemd.await(t, replaced+1, "READY=1\nSTATUS=serving: ")
	<-s.Exited()
	awaitPats("the second process's")

	s.signal(t, syscall.SIGTERM)
	systemd.await(t, serving+1, "STOPPING=1")
	eventually(t, "the end", func() bool { return gone(s.pid) })
	if said, _ := systemd.messages(); strings.Count(strings.Join(said, "\n"), "STOPPING=1") != 1 {
		t.Errorf("not just the last process said that it stops: %q", said)
	}
}

// A side whose connections are not served is seen to make no progress, though its
// process runs and its port is open: the watchdog is told nothing then.
func TestTheWatchdogIsNotFooled(t *testing.T) {
	t.Parallel()

	systemd := startManager(t)
	s := prepare(t, options{outbound: harness.FreeAddress(t), settings: map[string]any{"registry": mesh(t, harness.FreeAddress(t))}})
	listener, file := listenFor(t, "tcp", s.Outbound)
	defer func() { _ = listener.Close() }()
	s.run(t, options{
		env:     []string{"NOTIFY_SOCKET=" + systemd.path, "WATCHDOG_USEC=900000", "LISTEN_FDS=1", "LISTEN_FDNAMES=outbound"},
		files:   []*os.File{file},
		through: []string{"sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`},
	})
	s.AwaitReady(t)
	// From now on the test takes connections away from it, and answers none.
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			defer func() { _ = c.Close() }()
		}
	}()
	s.Await(t, `"level":"ERROR","msg":"the data plane makes no progress.*no answer to a PING`)
}

// Callers that connect faster than they may keep the watchdog's look waiting, for as
// long as they like. The service is not ended for that.
func TestTheWatchdogDuringAFlood(t *testing.T) {
	t.Parallel()

	systemd := startManager(t)
	s := start(t, options{
		outbound: harness.FreeAddress(t),
		settings: map[string]any{"registry": mesh(t, harness.FreeAddress(t)), "http2": map[string]any{"max_connection_rate": 20}},
		env:      []string{"NOTIFY_SOCKET=" + systemd.path, "WATCHDOG_USEC=900000"},
	})
	systemd.await(t, 0, "READY=1")
	for range 400 { // for 20 s
		c, err := net.Dial("tcp", s.Outbound)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
	}
	_, before := systemd.messages()
	const looks = 10
	eventually(t, "the data plane is seen to make progress", func() bool {
		_, now := systemd.messages()

		return now >= before+looks
	})
	// A look has 300 ms, which may be too short on a machine that is busy with tests.
	if failed := s.lines("makes no progress"); failed > looks {
		t.Errorf("it was seen to make no progress %d times, and %d times to make some", failed, looks)
	}
}

// listenFor opens a socket as systemd does, to hand on.
func listenFor(t *testing.T, network, address string) (net.Listener, *os.File) {
	t.Helper()

	listener, err := net.Listen(network, strings.TrimPrefix(address, "unix://"))
	if err != nil {
		t.Fatal(err)
	}
	var file *os.File
	switch l := listener.(type) {
	case *net.TCPListener:
		file, err = l.File()
	case *net.UnixListener:
		l.SetUnlinkOnClose(false)
		file, err = l.File()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = file.Close()
		_ = listener.Close()
	})

	return listener, file
}

// With sockets that systemd holds, not even a crash has a connection refused: those
// that come while nobody serves wait. And an upgrade passes the sockets on.
func TestSocketActivation(t *testing.T) {
	t.Parallel()

	app := load.StartApp(t, "app", "")
	outbound := "unix://" + filepath.Join(harness.SocketFolder(t), "outbound")
	o := options{outbound: outbound, admin: harness.FreeAddress(t), settings: map[string]any{
		"registry": mesh(t, app.Address), "drain": map[string]any{"timeout": "60s"},
	}}
	_, first := listenFor(t, "unix", outbound)
	_, second := listenFor(t, "tcp", o.admin)
	o.files = []*os.File{first, second}
	o.env = []string{"LISTEN_FDS=2", "LISTEN_FDNAMES=outbound:pillion-admin.socket"}
	o.through = []string{"sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`}
	s := start(t, o)

	conn := load.Dial(t, outbound)
	a := startAttempts(t, conn, false)
	if drains := s.upgrade(t); drains == s.pid {
		t.Error("it is the same process")
	}
	a.more(t, 20)
	killed := a.during(t, func() { s.kill(t) })
	s.Kill()
	s.run(t, o)
	a.more(t, 20)
	a.judge(t, "the sidecar was killed, the sockets stay open", killed)

	s.signal(t, syscall.SIGTERM)
	s.Wait(t)
	if _, err := os.Lstat(strings.TrimPrefix(outbound, "unix://")); err != nil {
		t.Errorf("the socket is systemd's, and its file is gone: %v", err)
	}
}

// The same by systemd's own tool, which starts the program with the first connection.
func TestSystemdSocketActivate(t *testing.T) {
	t.Parallel()

	tool, err := exec.LookPath("systemd-socket-activate")
	if err != nil {
		t.Skip("systemd-socket-activate is not on this machine (Debian: apt-get install systemd)")
	}
	app := load.StartApp(t, "app", "")
	o := options{outbound: harness.FreeAddress(t), admin: harness.FreeAddress(t), settings: map[string]any{"registry": mesh(t, app.Address)}}
	s := prepare(t, o)
	o.through = []string{tool, "-l", o.outbound, "-l", o.admin, "--fdname=outbound:admin"}
	s.run(t, o)
	s.Await(t, "Listening on")
	// gRPC tries again where the program takes longer than the client gives a connection.
	if _, err := load.Who(t.Context(), load.Dial(t, o.outbound), grpc.WaitForReady(true)); err != nil {
		t.Errorf("the first RPC: %v", err)
	}
	s.AwaitReady(t)
}

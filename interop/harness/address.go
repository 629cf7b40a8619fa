package harness

import (
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
	"testing"
)

// The ports that are handed out: below those that Linux gives to outgoing
// connections and to listeners that ask for any port (32768 and up), so that
// nobody takes one between our choosing it and a process's listening on it.
const (
	firstPort = 16000
	lastPort  = 32000
)

var (
	portsMu   sync.Mutex
	portsUsed = map[int]bool{}
)

// FreePort returns a port of the loopback addresses on which nobody listens and
// which it has not returned before.
func FreePort(t testing.TB) int {
	t.Helper()

	portsMu.Lock()
	defer portsMu.Unlock()

	for range 1000 {
		port := firstPort + rand.IntN(lastPort-firstPort)
		if portsUsed[port] {
			continue
		}

		listener, err := net.Listen("tcp", net.JoinHostPort("", strconv.Itoa(port)))
		if err != nil {
			continue
		}
		_ = listener.Close()
		portsUsed[port] = true

		return port
	}

	t.Fatalf("no free port between %d and %d", firstPort, lastPort)

	return 0
}

// FreeAddress is 127.0.0.1 with a [FreePort].
func FreeAddress(t testing.TB) string {
	t.Helper()

	return net.JoinHostPort("127.0.0.1", strconv.Itoa(FreePort(t)))
}

// Listen returns a listener on a port of 127.0.0.1, closed at the test's end at
// the latest.
func Listen(t testing.TB) net.Listener {
	t.Helper()

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	t.Cleanup(func() { _ = listener.Close() })

	return listener
}

// SocketFolder returns a folder for Unix sockets, removed at the test's end. Its
// name is short, because a socket's path has 107 bytes at most, and a test's own
// temporary folder bears the test's name.
func SocketFolder(t testing.TB) string {
	t.Helper()

	folder, err := os.MkdirTemp("", "pillion") //nolint:usetesting // t.TempDir is what this replaces, see above
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(folder) })

	return folder
}

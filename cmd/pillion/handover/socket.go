package handover

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
)

// Socket is a listening socket that passes from one process to the next.
type Socket struct {
	// Name says what it is for, such as "outbound".
	Name string `json:"name"`
	// Listen is where the configuration wanted it: 127.0.0.1:0, say, whatever
	// port that became.
	Listen string `json:"listen"`
	// Borrowed says that it belongs to somebody who outlives all processes, such
	// as systemd. A borrowed Unix socket is never removed from the file system.
	Borrowed bool `json:"borrowed,omitempty"`

	// Listener is the socket itself.
	Listener net.Listener `json:"-"`
}

// files returns duplicates of the sockets' descriptors.
func files(sockets []Socket) (fs []*os.File, err error) {
	defer func() {
		if err != nil {
			closeAll(fs)
		}
	}()
	for _, s := range sockets {
		l, ok := s.Listener.(syscall.Conn)
		if !ok {
			return fs, fmt.Errorf("socket %s: %T has no descriptor", s.Name, s.Listener)
		}
		f, err := duplicate(l, s.Name)
		if err != nil {
			return fs, fmt.Errorf("socket %s: %w", s.Name, err)
		}
		fs = append(fs, f)
	}
	return fs, nil
}

// duplicate returns a duplicate of a socket's descriptor. The one that the File method of
// listeners returns puts the socket into blocking mode when it is handed to a process,
// for both processes: from then on whoever waits for a connection cannot be told to stop.
func duplicate(l syscall.Conn, name string) (*os.File, error) {
	raw, err := l.SyscallConn()
	if err != nil {
		return nil, err
	}
	var failed error
	descriptor := -1
	err = raw.Control(func(fd uintptr) {
		syscall.ForkLock.RLock() // no process may start between the two steps
		defer syscall.ForkLock.RUnlock()
		if descriptor, failed = syscall.Dup(int(fd)); failed == nil {
			syscall.CloseOnExec(descriptor)
		}
	})
	if err := errors.Join(err, failed); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(descriptor), name), nil
}

func closeAll(fs []*os.File) {
	for _, f := range fs {
		_ = f.Close()
	}
}

// inherit makes a listener of the nth descriptor that came with the control
// socket.
func inherit(descriptor uintptr) (net.Listener, error) {
	f := os.NewFile(descriptor, "inherited socket")
	if f == nil {
		return nil, errors.New("no such descriptor")
	}
	defer func() { _ = f.Close() }()
	return net.FileListener(f)
}

// KeepFile sets whether closing a Unix listener leaves its file in the file
// system. For others it does nothing.
func KeepFile(l net.Listener, keep bool) {
	if u, ok := l.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(!keep)
	}
}

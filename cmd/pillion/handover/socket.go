package handover

import (
	"errors"
	"fmt"
	"net"
	"os"
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

// filer is a listener of the net package over a real socket.
type filer interface{ File() (*os.File, error) }

// files returns duplicates of the sockets' descriptors.
func files(sockets []Socket) (fs []*os.File, err error) {
	defer func() {
		if err != nil {
			closeAll(fs)
		}
	}()
	for _, s := range sockets {
		l, ok := s.Listener.(filer)
		if !ok {
			return fs, fmt.Errorf("socket %s: %T has no descriptor", s.Name, s.Listener)
		}
		f, err := l.File()
		if err != nil {
			return fs, fmt.Errorf("socket %s: %w", s.Name, err)
		}
		fs = append(fs, f)
	}
	return fs, nil
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

package mtls

import (
	"errors"
	"io"
	"syscall"

	"golang.org/x/sys/unix"
)

const canPeek = true

// peek waits until as much has come as [awaited] says, and returns how it begins.
func peek(rc syscall.RawConn) (first []byte, err error) {
	var buffer [firstSize]byte
	failed := rc.Read(func(fd uintptr) (done bool) {
		first, err = peekNow(int(fd), buffer[:])
		return !errors.Is(err, syscall.EAGAIN)
	})
	if failed != nil {
		return nil, failed
	}
	return first, err
}

// peekNow looks what has come. It returns EAGAIN where that is too little.
func peekNow(fd int, buffer []byte) ([]byte, error) {
	for {
		n, _, err := syscall.Recvfrom(fd, buffer, syscall.MSG_PEEK)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case err != nil:
			return nil, err
		case n == 0:
			return nil, io.EOF
		}
		first := buffer[:n]
		want := awaited(first)
		if want <= n {
			return first, nil
		}
		have, err := unix.IoctlGetInt(fd, unix.SIOCINQ)
		if err == nil && have < want && !ended(fd) {
			return nil, syscall.EAGAIN
		}
		return first, nil // whoever reads it finds out what is wrong
	}
}

// ended says whether nothing follows what has come.
func ended(fd int) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0
}

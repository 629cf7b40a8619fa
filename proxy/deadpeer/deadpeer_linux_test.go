package deadpeer

import (
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The kernel is told the limit for both ends of a connection.
func TestTheKernelIsTold(t *testing.T) {
	t.Parallel()
	const limit = 6 * time.Second
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dialer := net.Dialer{KeepAliveConfig: KeepAlive(limit), Control: Control(limit)}
	dialled, err := dialer.DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer dialled.Close()
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	if err := Watch(accepted, limit); err != nil {
		t.Fatal(err)
	}
	for _, c := range []net.Conn{dialled, accepted} {
		raw, err := c.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		var unacknowledged, idle int
		if err := raw.Control(func(fd uintptr) {
			unacknowledged, _ = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)
			idle, _ = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_KEEPIDLE)
		}); err != nil {
			t.Fatal(err)
		}
		if unacknowledged != 6000 || idle != 3 {
			t.Errorf("%d ms unacknowledged, %d s until a probe", unacknowledged, idle)
		}
	}
}

func TestWhatIsNotTCPIsLeftAlone(t *testing.T) {
	t.Parallel()
	one, two := net.Pipe()
	defer one.Close()
	defer two.Close()
	if err := Watch(one, time.Second); err != nil {
		t.Error(err)
	}
	if err := Control(time.Second)("unix", "/x", nil); err != nil {
		t.Error(err)
	}
}

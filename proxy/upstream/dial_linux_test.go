package upstream

import (
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The kernel is told how long a host that is gone is believed to be there.
func TestDeadAfter(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for limit, want := range map[time.Duration][2]int{
		0:           {30000, 15}, // milliseconds unacknowledged, seconds until a probe
		time.Minute: {60000, 30},
	} {
		c, err := Options{DeadAfter: limit}.WithDefaults().Dial(t.Context(), "tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		raw, err := c.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		var got [2]int
		err = raw.Control(func(fd uintptr) {
			got[0], _ = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)
			got[1], _ = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_KEEPIDLE)
		})
		if err != nil || got != want {
			t.Errorf("with %v the socket has %v, %v; want %v", limit, got, err, want)
		}
	}
}

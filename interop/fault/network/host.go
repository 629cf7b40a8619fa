package network

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// device is what a host calls its interface.
const device = "wire0"

// Host is a network namespace with one interface.
type Host struct {
	Name string
	IP   netip.Addr

	tun  *os.File
	work chan func()
	gone chan struct{} // closed when the namespace is left
	box  *inbox
}

// newHost makes a namespace. A thread lives in it until work is closed, and goes
// back to where it was then. It must not end: it may have been any goroutine's
// before, and processes that were started from it are killed when it does, if they
// are to end with their parent (PR_SET_PDEATHSIG means the thread).
func newHost(name string, ip netip.Addr) (*Host, error) {
	h := &Host{Name: name, IP: ip, work: make(chan func()), gone: make(chan struct{})}
	failed := make(chan error)
	go func() {
		defer close(h.gone)
		runtime.LockOSThread()

		leave, err := enter()
		defer leave()
		if err == nil {
			err = h.make()
		}
		failed <- err
		if err != nil {
			return
		}
		for f := range h.work {
			f()
		}
	}()

	return h, <-failed
}

// enter puts the present thread, which is locked, into a new namespace. leave puts it
// back and unlocks it.
func enter() (leave func(), err error) {
	home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return runtime.UnlockOSThread, fmt.Errorf("open the thread's network namespace: %w", err)
	}
	leave = func() {
		// A thread that cannot go back stays locked, and so ends with its goroutine:
		// nobody else may run on it.
		if unix.Setns(home, unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		_ = unix.Close(home)
	}
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		_ = unix.Close(home)

		return runtime.UnlockOSThread, fmt.Errorf("make a network namespace: %w", err)
	}

	return leave, nil
}

// make makes the interface in the present thread's namespace.
func (h *Host) make() error {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /dev/net/tun: %w", err)
	}
	request, err := unix.NewIfreq(device)
	if err != nil {
		_ = unix.Close(fd)

		return err
	}
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		_ = unix.Close(fd)

		return fmt.Errorf("make a TUN device: %w", err)
	}
	// Only now: a TUN device that has no interface yet cannot be polled.
	h.tun = os.NewFile(uintptr(fd), "/dev/net/tun")

	if err := h.configure(); err != nil {
		_ = h.tun.Close()

		return err
	}

	return nil
}

func (h *Host) configure() error {
	if err := address(unix.SIOCSIFADDR, h.IP); err != nil {
		return fmt.Errorf("give %s to the interface: %w", h.IP, err)
	}
	if err := address(unix.SIOCSIFNETMASK, netip.AddrFrom4([4]byte{255, 255, 255, 0})); err != nil {
		return fmt.Errorf("set the interface's mask: %w", err)
	}
	for _, name := range []string{"lo", device} {
		if err := link(name, true); err != nil {
			return fmt.Errorf("set %s up: %w", name, err)
		}
	}

	return nil
}

// address sets an address of the interface (netdevice(7)).
func address(request int, ip netip.Addr) error {
	// An ifreq with a sockaddr_in: x/sys has no setter for one.
	var r struct {
		name [unix.IFNAMSIZ]byte
		addr unix.RawSockaddrInet4
		_    [8]byte
	}
	copy(r.name[:], device)
	r.addr.Family = unix.AF_INET
	r.addr.Addr = ip.As4()

	return control(func(fd int) error {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request), uintptr(unsafe.Pointer(&r)))
		if errno != 0 {
			return errno
		}

		return nil
	})
}

func link(name string, up bool) error {
	request, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}

	return control(func(fd int) error {
		if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, request); err != nil {
			return err
		}
		flags := request.Uint16() &^ unix.IFF_UP
		if up {
			flags |= unix.IFF_UP
		}
		request.SetUint16(flags)

		return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request)
	})
}

// control calls do with a socket of the present namespace.
func control(do func(fd int) error) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()

	return do(fd)
}

// Do calls a function on the host: sockets that it opens itself are the host's, and
// so are processes that it starts. What other goroutines do for it, such as an
// HTTP client's dialling, is not on the host; sockets of the file system work from
// anywhere.
func (h *Host) Do(t testing.TB, f func()) {
	t.Helper()

	ended, well := make(chan struct{}), false
	select {
	case h.work <- func() {
		defer close(ended)
		f()
		well = true
	}:
	case <-h.gone:
		t.Fatalf("host %s is no more: what was done on it before has failed", h.Name)
	}
	<-ended
	if !well {
		t.FailNow() // as f did
	}
}

// Listen returns a listener on the host, closed at the test's end at the latest.
func (h *Host) Listen(t testing.TB, port int) net.Listener {
	t.Helper()

	var listener net.Listener
	h.Do(t, func() {
		var err error
		if listener, err = net.Listen("tcp", net.JoinHostPort(h.IP.String(), strconv.Itoa(port))); err != nil {
			t.Fatalf("listen on host %s: %v", h.Name, err)
		}
	})
	t.Cleanup(func() { _ = listener.Close() })

	return listener
}

// SetLink takes the host's interface down or up, as pulling out the cable does.
func (h *Host) SetLink(t testing.TB, up bool) {
	t.Helper()

	h.Do(t, func() {
		if err := link(device, up); err != nil {
			t.Fatalf("set the link of host %s: %v", h.Name, err)
		}
	})
}

func (h *Host) close() {
	_ = h.tun.Close()
	close(h.work)
	<-h.gone
}

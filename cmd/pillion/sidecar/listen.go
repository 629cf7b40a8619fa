package sidecar

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"github.com/pillion-proxy/pillion/cmd/pillion/handover"
	"github.com/pillion-proxy/pillion/registry"
)

// Sockets are listening sockets that somebody else has opened: the process that
// this one replaces, or systemd.
type Sockets interface {
	// Take returns the socket for a side that is configured to listen there, nil
	// where there is none.
	Take(side, listen string) *handover.Socket
}

// socket is where a side listens.
type socket struct {
	handover.Socket
	net.Listener
}

// listen opens all listeners that are configured, where they are not open yet.
func (s *Sidecar) listen(opened []Sockets) error {
	for side, where := range map[string]string{
		sideOutbound: s.cfg.GetOutbound().GetListen(),
		sideInbound:  s.cfg.GetInbound().GetListen(),
		sideAdmin:    s.cfg.GetAdmin().GetListen(),
	} {
		if where == "" {
			continue
		}
		taken, err := take(opened, side, where)
		if err != nil {
			return fmt.Errorf("%s: cannot listen on %s: %w", side, where, explainListen(err, side))
		}
		s.listeners[side] = &socket{Socket: *taken, Listener: taken.Listener}
	}
	return nil
}

func take(opened []Sockets, side, where string) (*handover.Socket, error) {
	for _, sockets := range opened {
		if taken := sockets.Take(side, where); taken != nil {
			return taken, nil
		}
	}
	l, err := listenOn(where)
	if err != nil {
		return nil, err
	}
	return &handover.Socket{Name: side, Listen: where, Listener: l}, nil
}

func listenOn(where string) (net.Listener, error) {
	network, addr, err := registry.ParseAddress(where)
	if err != nil {
		return nil, err
	}
	if network == "unix" {
		if err := removeStaleSocket(addr); err != nil {
			return nil, err
		}
	}
	return net.Listen(network, addr)
}

// removeStaleSocket removes a socket that a process left behind which was
// killed; one that somebody listens on stays.
func removeStaleSocket(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSocket == 0 {
		return fmt.Errorf("%s is there and is no socket", path)
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		_ = c.Close()
		return syscall.EADDRINUSE
	}
	return os.Remove(path)
}

// explainListen says what to do about the usual errors.
func explainListen(err error, side string) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("the address is already in use by another process: stop it, or choose another with --%s or %s.listen", side, side)
	case errors.Is(err, syscall.EACCES):
		return errors.New("permission denied: ports below 1024 and sockets in others' folders need privileges")
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return errors.New("no network interface of this machine has the address")
	}
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

// address returns a listener's address as configuration writes it.
func address(l net.Listener) string {
	if l.Addr().Network() == "unix" {
		return "unix://" + l.Addr().String()
	}
	return l.Addr().String()
}

// hostNames returns the host of an address where it is a name.
func hostNames(where string) []string {
	host, _, err := net.SplitHostPort(where)
	if err != nil {
		return nil
	}
	if _, err := netip.ParseAddr(host); err == nil || host == "" {
		return nil
	}
	return []string{host}
}

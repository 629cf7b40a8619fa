package systemd

import (
	"fmt"
	"net"
	"strings"

	"github.com/coreos/go-systemd/v22/activation"

	"github.com/pillion-proxy/pillion/cmd/pillion/handover"
	"github.com/pillion-proxy/pillion/registry"
)

// Sockets are those that systemd has opened for this process (socket activation).
type Sockets struct {
	opened []opened
}

type opened struct {
	name     string // as LISTEN_FDNAMES has it
	listener net.Listener
	taken    bool
}

// Activated returns the sockets that LISTEN_FDS tells of, none where systemd has
// passed none. It may be called once: it takes the variables away.
func Activated() (*Sockets, error) {
	s := &Sockets{}
	for _, f := range activation.Files(true) {
		l, err := net.FileListener(f)
		name := f.Name()
		_ = f.Close() // the listener has a duplicate
		if err != nil {
			s.close()
			return nil, fmt.Errorf("socket %s of systemd is no stream socket that listens: write ListenStream= and Accept=no in its unit", name)
		}
		s.opened = append(s.opened, opened{name: name, listener: l})
	}
	return s, nil
}

func (s *Sockets) close() {
	for _, o := range s.opened {
		_ = o.listener.Close()
	}
}

// Take returns the socket that bears a side's name, wherever it listens: the unit
// says where. Else the one that listens where the side is configured to. Nil: there
// is none.
func (s *Sockets) Take(side, listen string) *handover.Socket {
	for _, fits := range []func(opened) bool{
		func(o opened) bool { return o.name == side },
		func(o opened) bool { return sameAddress(o.listener.Addr(), listen) },
	} {
		for i, o := range s.opened {
			if !o.taken && fits(o) {
				s.opened[i].taken = true
				return &handover.Socket{Name: side, Listen: listen, Borrowed: true, Listener: o.listener}
			}
		}
	}
	return nil
}

// Unused is an error that names the sockets which nobody has taken, nil where there
// are none: clients would wait on them for ever.
func (s *Sockets) Unused() error {
	var names []string
	for _, o := range s.opened {
		if !o.taken {
			names = append(names, fmt.Sprintf("%s (%s)", o.name, o.listener.Addr()))
		}
	}
	if names == nil {
		return nil
	}
	return fmt.Errorf("nothing listens on what systemd has opened as %s: write FileDescriptorName=outbound, inbound or admin in the socket unit, and that block in the configuration", strings.Join(names, ", "))
}

// sameAddress says whether a socket listens where the configuration wants it.
func sameAddress(have net.Addr, want string) bool {
	network, where, err := registry.ParseAddress(want)
	if err != nil {
		return false
	}
	if network == "unix" {
		return have.Network() == "unix" && have.String() == where
	}
	tcp, ok := have.(*net.TCPAddr)
	if !ok {
		return false
	}
	wanted, err := net.ResolveTCPAddr("tcp", where)
	if err != nil || wanted.Port != tcp.Port {
		return false
	}
	// ListenStream=15006 is [::], which takes IPv4 too.
	anywhere := wanted.IP == nil || wanted.IP.IsUnspecified()
	return tcp.IP.Equal(wanted.IP) || anywhere && tcp.IP.IsUnspecified()
}

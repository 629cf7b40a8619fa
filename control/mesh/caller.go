package mesh

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/pillion-proxy/pillion/identity"
	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
	"github.com/pillion-proxy/pillion/proxy/access"
	"github.com/pillion-proxy/pillion/proxy/wire"
)

// caller is who asks: the zero value has proven nothing.
type caller struct{ id spiffeid.ID }

// String is who it is in messages.
func (c caller) String() string {
	if c.id.IsZero() {
		return "a caller without an identity"
	}
	return c.id.String()
}

// callerOf returns who asks, as the inbound side says it. It removes what callers
// themselves say there.
func (m *Member) callerOf(ctx context.Context) (caller, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	said := md.Get(wire.HeaderPeer)
	var c caller
	var err error
	switch len(said) {
	case 0:
	case 1:
		if c.id, err = identity.ParseID(said[0]); err != nil {
			return c, status.Error(codes.Unauthenticated, "control: who calls cannot be read: "+err.Error())
		}
	default:
		return c, status.Error(codes.Unauthenticated, "control: there are several who call")
	}
	return c, m.admit(c)
}

// admit says why a caller may not speak here at all.
func (m *Member) admit(c caller) error {
	s := m.o.Security
	if c.id.IsZero() {
		if s != nil && s.Inbound == Strict {
			return status.Error(codes.Unauthenticated, "control: the caller has no identity, and inbound.tls is strict here")
		}
		return nil
	}
	if s == nil {
		return nil // who proves what nobody here can judge has proven nothing
	}
	own := s.Keeper.Current()
	if own == nil || !c.id.MemberOf(own.TrustDomain) {
		return status.Errorf(codes.PermissionDenied, "control: %s is of another trust domain, and only sidecars of the own one speak of canaries and experiments", c)
	}
	return nil
}

const (
	// maxName bounds names of sidecars and services.
	maxName = 256
)

// welcome checks what a stream begins with. What it returns is handed to Leading.
func (m *Member) welcome(c caller, h *meshv1.Hello) (*meshv1.Hello, error) {
	switch {
	case h == nil:
		return nil, status.Error(codes.InvalidArgument, "control: the first report has no hello")
	case !isName(h.GetId()):
		return nil, status.Error(codes.InvalidArgument, "control: hello.id is empty, too long or not printable")
	case !isName(h.GetAbout()):
		return nil, status.Error(codes.InvalidArgument, "control: hello.about is empty, too long or not printable")
	case h.GetService() != "" && !isName(h.GetService()):
		return nil, status.Error(codes.InvalidArgument, "control: hello.service is too long or not printable")
	}
	if !c.id.IsZero() && m.o.Security != nil {
		if h.GetService() != "" && !m.proves(c.id, h.GetService()) {
			return nil, status.Errorf(codes.PermissionDenied, "control: %s does not prove to be of service %q", c, h.GetService())
		}
	}
	if err := m.maySpeak(c, h.GetAbout()); err != nil {
		return nil, err
	}
	return &meshv1.Hello{
		Id: h.GetId(), Service: h.GetService(), About: h.GetAbout(),
		Process: numberOf(c.id, h.GetId(), h.GetProcess()),
	}, nil
}

// maySpeak says why a caller may neither report on a service nor ask about it.
func (m *Member) maySpeak(c caller, about string) error {
	may, id := m.o.May, c.id
	if m.o.Security == nil {
		id = spiffeid.ID{} // nobody here can judge what was proven
	}
	if may == nil || !id.IsZero() && m.proves(id, about) {
		return nil
	}
	if err := may(id, about); err != nil {
		return status.Errorf(codes.PermissionDenied, "control: %s may not speak of service %q: %v", c, about, err)
	}
	return nil
}

// proves says whether an ID is that of a service's instances.
func (m *Member) proves(id spiffeid.ID, service string) bool {
	s := m.o.Security
	own := s.Keeper.Current()
	if own == nil {
		return false
	}
	patterns := access.Names(s.ServiceID, own.ID, own.TrustDomain)(service)
	return slices.ContainsFunc(patterns, func(p identity.Pattern) bool { return p.Matches(id) })
}

// provable is the own service, where the own identity proves that.
func (m *Member) provable() string {
	if s := m.o.Security; s != nil {
		if own := s.Keeper.Current(); own == nil || own.ID.IsZero() || !m.proves(own.ID, m.o.Service) {
			return ""
		}
	}
	return m.o.Service
}

// numberOf is the number by which counts of a process are kept. Nobody who proves another
// identity can make the same, and who proves the same one has to know the process'.
func numberOf(id spiffeid.ID, name string, process uint64) uint64 {
	h := sha256.New()
	for _, text := range []string{id.String(), name} {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(text))))
		h.Write([]byte(text))
	}
	h.Write(binary.BigEndian.AppendUint64(nil, process))
	return binary.BigEndian.Uint64(h.Sum(nil))
}

// isName says whether a name is one that can be logged.
func isName(name string) bool {
	return name != "" && len(name) <= maxName && utf8.ValidString(name) &&
		!strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f })
}

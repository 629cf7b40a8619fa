package mesh

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/pillion-proxy/pillion/identity"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
	"github.com/pillion-proxy/pillion/proxy/mtls"
)

// connect returns a connection to who is elected. over, which may be nil, is told once it
// should be replaced by another, or may not be used any more.
func (m *Member) connect(leader *controlv1.Leader, over func(reason error)) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+leader.GetAddress(),
		grpc.WithTransportCredentials(insecure.NewCredentials()), // it comes with the connection
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return m.dial(ctx, leader, over)
		}),
		grpc.WithNoProxy(), grpc.WithDisableServiceConfig(), grpc.WithIdleTimeout(0),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)),
	)
}

// dial connects to who is elected, by mutual TLS where that one takes it and this sidecar
// has an identity.
func (m *Member) dial(ctx context.Context, leader *controlv1.Leader, over func(reason error)) (net.Conn, error) {
	s := m.o.Security
	if s == nil || !leader.GetTls() {
		if s != nil && s.Strict {
			return nil, errors.New("it takes no mutual TLS, and outbound.tls is strict here")
		}
		nc, err := m.o.Dial(ctx, leader.GetAddress())
		if err != nil && leader.GetTls() {
			return nil, fmt.Errorf("%w (it takes mutual TLS, for which this sidecar has no identity)", err)
		}
		return nc, err
	}
	expected, err := m.expected(ctx, leader)
	if err != nil {
		return nil, err
	}
	nc, err := m.o.Dial(ctx, leader.GetAddress())
	if err != nil {
		return nil, err
	}
	c, err := s.TLS.Dial(ctx, nc, mtls.Expected{IDs: []spiffeid.ID{expected}}, nil)
	if err != nil {
		return nil, err
	}
	a := &attended{Conn: c}
	a.unattend = s.TLS.Attend(c, mtls.Watched{
		End: func(reason error) {
			_ = c.Close()
			if over != nil {
				over(reason)
			}
		},
		Drain: func() {
			if over != nil {
				over(errMoved)
			}
		},
	})
	return a, nil
}

// expected is who the elected sidecar has to prove to be. The lock says so, and everybody
// who may write it can; but not that somebody of another trust domain is.
func (m *Member) expected(ctx context.Context, leader *controlv1.Leader) (spiffeid.ID, error) {
	id, err := identity.ParseID(leader.GetIdentity())
	if err != nil {
		return id, fmt.Errorf("who it has to prove to be cannot be read: %w", err)
	}
	own, err := m.o.Security.Keeper.Wait(ctx)
	if err != nil {
		return id, err
	}
	if !id.MemberOf(own.TrustDomain) {
		return id, fmt.Errorf("it is %s, which is of another trust domain", id)
	}
	return id, nil
}

// attended is a connection that is looked after as long as it is open.
type attended struct {
	*mtls.Conn
	unattend func()
}

// Close implements net.Conn.
func (a *attended) Close() error {
	a.unattend()
	return a.Conn.Close()
}

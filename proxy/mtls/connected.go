package mtls

import (
	"crypto/tls"
	"time"

	"github.com/pillion-proxy/pillion/identity"
)

// Connected is who is at the other end of a connection that is open, and has proven it.
type Connected struct {
	// Address is the peer's.
	Address string
	Peer    *identity.Peer
	TLS     tls.ConnectionState
	// Since is when the connection was taken into use.
	Since time.Time
}

// Connected describes a connection that is not in plaintext.
func (c *Conn) Connected(address string, since time.Time) Connected {
	return Connected{address, c.Peer(), c.ConnectionState(), since}
}

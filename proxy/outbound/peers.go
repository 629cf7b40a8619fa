package outbound

import (
	"crypto/tls"
	"net"
	"time"

	"github.com/pillion-proxy/pillion/identity"
	"github.com/pillion-proxy/pillion/proxy/mtls"
	"github.com/pillion-proxy/pillion/proxy/upstream"
)

// Peer is an instance that has proven who it is on a connection that is open.
type Peer struct {
	// Address is the instance's.
	Address string
	Peer    *identity.Peer
	TLS     tls.ConnectionState
	// Since is when the connection was taken into use.
	Since time.Time
}

// Peers returns whom the sidecar is connected with by mutual TLS, one for each
// connection.
func (p *Proxy) Peers() (all []Peer) {
	for _, cluster := range p.Clusters() {
		cluster.Connections(func(in *upstream.Instance, nc net.Conn, since time.Time) {
			if c, ok := nc.(*mtls.Conn); ok && c.Peer() != nil {
				all = append(all, Peer{in.String(), c.Peer(), c.ConnectionState(), since})
			}
		})
	}
	return all
}

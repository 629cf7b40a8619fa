package outbound

import (
	"net"
	"time"

	"github.com/pillion-proxy/pillion/proxy/mtls"
	"github.com/pillion-proxy/pillion/proxy/upstream"
)

// Peers returns which instances the sidecar is connected with by mutual TLS, one for
// each connection. Their addresses are those that the registry gives them.
func (p *Proxy) Peers() (all []mtls.Connected) {
	for _, cluster := range p.Clusters() {
		cluster.Connections(func(in *upstream.Instance, nc net.Conn, since time.Time) {
			if c, ok := nc.(*mtls.Conn); ok && c.Peer() != nil {
				all = append(all, c.Connected(in.String(), since))
			}
		})
	}
	return all
}

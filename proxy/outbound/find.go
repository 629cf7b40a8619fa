package outbound

import "github.com/pillion-proxy/pillion/proxy/relay"

// Find says where an RPC would go before any policy, for people. It asks no registry:
// see [relay.Found.Wait].
func (p *Proxy) Find(authority, path string) relay.Found {
	return p.router.Find(p.router.Policies(), authority, path)
}

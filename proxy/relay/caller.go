package relay

import (
	"crypto/sha256"
	"encoding/hex"
	"sync/atomic"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/pillion-proxy/pillion/identity"
	"github.com/pillion-proxy/pillion/proxy/access"
	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
	"github.com/pillion-proxy/pillion/proxy/wire"
)

// Caller is who the RPCs of one connection come from. Who accepts callers' connections
// makes one for each and puts it into [h2.Conn.Data] before the connection is served;
// where there is none, the caller is as one without an identity.
//
// [h2.Conn.Data]: github.com/pillion-proxy/pillion/proxy/h2.Conn.Data
type Caller struct {
	peer   *identity.Peer
	name   string
	id     string
	told   [2]hpack.Field // what the app is told of it
	counts *telemetry.CallerConn
	access atomic.Pointer[access.Caller] // what the policy in force says of it
}

// NewCaller returns the caller on a connection. peer is who it has proven to be, nil
// where it has not; name is what that one is called in policies and logs, such as its
// service; own is the identity that it was shown. counts, which may be nil, counts
// its RPCs.
func NewCaller(peer *identity.Peer, name string, own spiffeid.ID, counts *telemetry.CallerConn) *Caller {
	c := &Caller{peer: peer, counts: counts}
	if peer == nil {
		return c
	}
	c.name, c.id = name, peer.ID.String()
	hash := sha256.Sum256(peer.Leaf.Raw)
	c.told = [...]hpack.Field{
		{Name: wire.HeaderPeer, Value: c.id},
		{Name: wire.HeaderForwardedClientCert, Value: "By=" + own.String() + ";Hash=" + hex.EncodeToString(hash[:]) + ";URI=" + c.id},
	}
	return c
}

// Peer is who the caller has proven to be, nil where it has not. A nil Caller has not.
func (c *Caller) Peer() *identity.Peer {
	if c == nil {
		return nil
	}
	return c.peer
}

// may returns what the policy in force says of the caller; nil: everything is allowed.
func (c *Caller) may(gate *access.Gate) *access.Caller {
	if c == nil {
		return gate.Present(nil, nil)
	}
	before := c.access.Load()
	now := gate.Present(before, c.peer)
	if now != before {
		c.access.Store(now)
	}
	return now
}

// caller is who the RPC comes from; nil where nobody said. r.mu is held.
func (r *RPC) caller() *Caller {
	c, _ := r.down.Conn().Data.(*Caller)
	return c
}

// introduce tells the app who calls, as the first to say so: removed is how many of the
// request's fields claim to. r.mu is held.
func (r *RPC) introduce(removed int) {
	if removed > 0 {
		r.dropClaims()
	}
	c := r.caller()
	if c == nil {
		return
	}
	c.counts.RPC(r.start)
	if c.peer != nil {
		r.block.Fields = append(r.block.Fields, c.told[:]...)
	}
}

// dropClaims removes what the caller itself says of who it is. r.mu is held.
func (r *RPC) dropClaims() {
	fields := r.block.Fields
	kept := fields[:0]
	before := int32(0) // removed ones before the timeout
	for i := range fields {
		if claims(fields[i].Name) {
			if int32(i) < r.timeoutAt {
				before++
			}
			continue
		}
		kept = append(kept, fields[i])
	}
	clear(fields[len(kept):])
	r.block.Fields = kept
	if r.timeoutAt >= 0 {
		r.timeoutAt -= before
	}
}

// claims says whether a field says who calls. HTTP/2 has names in lower case (RFC 9113
// section 8.2.1), and the engine refuses all others.
func claims(name string) bool {
	return name == wire.HeaderPeer || name == wire.HeaderForwardedClientCert
}

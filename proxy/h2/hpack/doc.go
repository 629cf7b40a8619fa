// Package hpack compresses and expands HTTP/2 header blocks (RFC 7541) on a proxy's hot path: in
// the steady state neither direction allocates.
//
// It knows nothing of frames, of which fields HTTP allows, or of gRPC. A block is given whole; to
// join CONTINUATION frames, and to bound their number, is the caller's work.
//
// Nothing in this package is safe for concurrent use.
package hpack

// DefaultTableSize is the dynamic table's size, in octets, that both ends of a connection start
// with (RFC 9113 section 6.5.2).
const DefaultTableSize = 4096

// Package scale holds that the control side of sidecars bears their number: many of them
// in one process, each with its own connections to a real Consul, follow documents, say
// how they stand, elect one and report to it, as sidecars do. No RPC goes through them,
// so it says nothing of the data plane.
package scale

// Package explain asks real sidecars about policies: what they make of an RPC, how each
// of them stands while they are edited, and whether what they say is what happens.
package explain

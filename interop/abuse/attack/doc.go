// Package attack is hostile peers: each knows one way to abuse a sidecar, does it
// as fast as one goroutine can, and says how the sidecar ended it.
//
// It judges nothing beyond that. What an attack must come to stands beside it in
// the table, and tests and benchmarks compare the two.
package attack

// Package traffic proves where RPCs go and that they survive what happens to
// instances: shares, destinations, retries, restarts, slow readers, many
// streams. It drives the real binary and has tests only.
package traffic

// Package wire is what gRPC writes on HTTP/2, as grpc/doc/PROTOCOL-HTTP2.md
// says it: timeouts, statuses, percent-encoding, paths and message boundaries.
// It is functions and tiny state machines; it knows no connection, and it
// decides nothing about an RPC.
//
// It stands on the path of every RPC, so nothing here allocates for input that
// is well formed and needs no translation.
package wire

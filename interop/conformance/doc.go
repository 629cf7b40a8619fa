// Package conformance holds the proof that programs which this project did not
// write work with Pillion as they do without it: the official gRPC interop
// client and server, h2spec, grpcurl and ghz. It has tests only.
package conformance

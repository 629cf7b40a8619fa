// Package languages proves that gRPC as other people wrote it works through
// Pillion as it does without: Python's grpcio, Node's grpc-js, Java's grpc-java,
// Rust's tonic and Go's, each as client and as server, each with each.
//
// A folder for each language has a peer: one program that is a server or a client
// of the service in proto. The client tries what it is told to and says in a line
// of JSON for each what came of it. Go is the first of them, and the others do the
// same.
//
// The package knows how peers are built, where toolchains are there, and what to
// expect of each library. It runs by `make languages` only: the first run fetches
// libraries and compiles them.
package languages

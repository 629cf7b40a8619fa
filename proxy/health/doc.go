// Package health speaks the client's part of grpc.health.v1, and decides by
// thresholds what the answers come to. It does not know how an instance is reached:
// package upstream has the connections and the clock.
package health

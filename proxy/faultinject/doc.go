// Package faultinject decides which RPCs are made late or fail on purpose (gRFC A33).
// It does neither: whoever carries the RPC waits, and ends it. Which RPCs a policy is
// for is decided elsewhere as well.
package faultinject

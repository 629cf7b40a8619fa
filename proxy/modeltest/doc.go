// Package modeltest is a randomized test of the whole data plane against a model
// of what may become of an RPC. Clients, instances, their RPCs and what goes wrong
// between them all come from one seed; they run in one process, on a network in
// memory and on virtual time. Callers and instances are made with
// golang.org/x/net/http2, so that they do not share the engine's mistakes. It does
// not test configuration, registries or anything that a person sees.
//
// A seed decides:
//
//	plan_test.go      how many clients and instances there are, and what they do
//	traffic_test.go   each RPC: its kind, messages, fields, deadline, and its answer
//	fault_test.go     what goes wrong, when, for how long
//
// These play it:
//
//	network_test.go   connections: latency, stalls, cuts in the middle of a frame
//	endpoint_test.go  one end of an HTTP/2 connection that obeys flow control, and
//	                  checks that the engine does (stream_test.go, windows_test.go)
//	client_test.go    callers
//	instance_test.go  instances, which write down what they saw of each RPC
//	world_test.go     all of that, and the proxies between
//
// And judge_test.go says, for each RPC, whether its end is one that the model
// allows, given what really happened to it.
package modeltest

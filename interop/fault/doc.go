// Package fault stands between two peers and spoils their connections: a proxy
// on real sockets that delays, throttles, stalls, breaks up, cuts, half-closes,
// resets or refuses, switchable while it runs and random only by its seed.
//
// It changes no byte and loses none but by ending the connection, as a network
// under TCP does. It looks at HTTP/2 only as far as to find where frames begin
// and end, so that a connection can be cut at such a place. What becomes of RPCs
// is for its users to judge.
package fault

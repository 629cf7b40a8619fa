// Package network makes hosts out of network namespaces, and plays the wires
// between them: it loses, delays, doubles and reorders packets, as a seed says,
// and cuts hosts off and joins them again while processes run on them.
//
// A host's interface is a TUN device whose other end is in this process, so that
// nothing but the kernel and the right to make namespaces is needed, and nothing
// is left behind: the namespaces have no names and end with the test.
package network

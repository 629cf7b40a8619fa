// Package faults proves what becomes of RPCs when the network between Pillion and
// its peers fails: which outcomes each fault allows, that no byte is lost or
// doubled and no RPC sent twice, that others do not notice, and that all is as
// before once the fault is over. It has tests only.
package faults

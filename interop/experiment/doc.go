// Package experiment shows with real processes that experiments come to what is true, by a
// mesh of three sidecars of callers and a service in two versions: with a real Consul, and
// with a folder. All that happens to an RPC is known to its caller too, so what reports say
// is held against that to the last RPC.
package experiment

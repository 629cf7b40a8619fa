// Package entries proves that Consul's configuration entries mean for a Pillion what they
// mean for an Envoy that Consul configures: each of a table of entries is written into a
// real Consul, and the same RPCs are made through an Envoy and through a Pillion. They have
// to go to the same places, look the same there, and come back the same.
package entries

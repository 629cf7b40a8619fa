// Package chain makes policies of what Consul's configuration entries (service-router,
// service-splitter, service-resolver, service-defaults, proxy-defaults) come to for one
// service: of the discovery chain that Consul compiles of them for its Envoys, and of what
// the caller's own service-defaults says of the services that it calls. What the policies
// say is what Consul has an Envoy do; what they cannot say is told, and never passed over.
// It asks Consul nothing and knows of no instance.
//
//	compiled.go  the chain as Consul answers it
//	policies.go  what it comes to as a whole
//	route.go     its routes, and what of them RPCs can match: match.go
//	split.go     its splits, with changes.go for headers
//	retry.go     when an RPC is sent again
//	cluster.go   subsets, failover and load balancing
//	filter.go    which instances a subset has
//	upstreams.go what the caller's service-defaults says of the services that it calls
//	limits.go    what of that limits RPCs, and leaves instances alone
package chain

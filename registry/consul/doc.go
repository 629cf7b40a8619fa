// Package consul is the mesh's registry in HashiCorp Consul: it watches the
// services that are in use, registers the local app with its sidecar, and gets that
// its certificates of Connect's CA and the intentions for it, and reads and writes
// Consul's KV, all through the HTTP API of one agent. It never opens a connection to an instance, knows nothing of
// HTTP/2 or of RPCs, and neither verifies a peer nor decides whom to let in.
//
// # What is asked
//
// A watched service costs two blocking queries: health/service says which
// instances of the app there are and how they are, health/connect says which
// sidecars stand beside them. Neither is enough alone: a sidecar's registration
// does not say what its app is, an app's does not say that it has a sidecar,
// and a change of one does not wake a query for the other. Nothing is asked
// about services that nobody watches.
//
// A Store costs one blocking query for each prefix that is watched, however often, and one
// short call every third of a session's TTL.
//
// What configuration entries (service-router and so on) come to for a service costs a
// third, where somebody asks for it: its compiled discovery chain, of which package chain
// makes policies. Which instances are in a subset that entries speak of is found out here,
// from the answers about the instances; they say so in their meta.
//
// An identity costs two more: the agent's leaf, which the agent renews between 60 and
// 90 % of its lifetime (those that live less than ten minutes we renew half-way, for
// the agent makes one at each question), and the roots. Intentions cost one: the match
// call. What holds without an intention it does not tell, so with each of its answers
// the agent is asked for its verdict on a caller that cannot be.
//
// # What it costs the agent
//
// An agent allows 200 connections per client address and answers 429 beyond.
// Over HTTP/1 each blocking query holds one, and every sidecar on a machine has
// the same address. So a Source holds at most Config.MaxConnections (64), of
// which 8 are kept for short calls: 56 blocking queries, that is 28 services,
// wait at the agent at the same time (18, with their configuration entries), and three
// sidecars on one machine stay below 200. With more services, or more sidecars (a 429 says so), the queries
// take turns: each gets one per second, at most 250 turns a second in all, so
// news is at most a second late up to 125 services, and two up to 250. The
// intentions' query keeps its slot: who is revoked has to be out within a second.
//
// # Whom to believe
//
// Consul's being away changes nothing but the Stale mark: what was known last
// stays, also over a restart where Config.CacheDir is set. That nobody is well is
// believed only once a second, consistent read two seconds later says the same,
// that nobody is left after seven: sidecars register again within five. An
// instance whose check has not run since its agent restarted, which Consul shows
// as critical, stays where it was for up to a minute. Where Consul has lost what
// it knew (its index went backwards), an instance that it does not know any more
// stays for up to two.
package consul

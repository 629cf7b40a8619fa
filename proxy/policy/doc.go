// Package policy turns the mesh's policies into immutable tables and answers from
// them what holds for one RPC: where it goes, how long it may take, and which
// retries, limits, breakers and faults it is under.
//
// It does not carry RPCs, keeps no state of its own about them, and knows neither
// where policies come from nor how their defaults are filled in. What a policy
// needs to remember (a breaker, a budget, a bucket) belongs to the packages named
// for it; this one sees to it that such an object outlives a change that does not
// concern it.
//
// The path of an RPC through it, of which no step allocates or takes a lock:
//
//   - [Set.Service] finds what is said of a service, by name or for all.
//   - [Service.Outbound] and [Service.Inbound] find what is said of a method:
//     policies are merged for each selector when they are compiled, so this is one
//     map access, or a binary search among prefixes.
//   - [Route.Decide] finds the first rule that matches. An index by path, gRPC
//     service, caller, and by exact metadata and cookies leaves only those rules to
//     be looked at that can match.
//   - [Splits.Decide] finds the groups of split policies, of which all hold for the service
//     where the route leads.
//
// People ask with the same code: given a [Trace], Decide looks at every rule in turn
// and says why it did not match, and [Service.Explain] says which policies won and
// which lost. A test holds the two ways against each other.
package policy

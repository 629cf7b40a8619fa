// Package access says whether a caller may call a method: by the access policies of the
// service beside which it is asked, and by Consul's intentions.
//
// It does not verify who calls (package identity does), reads no policies (package
// policy does) and no intentions (package registry/consul does), and ends no RPC.
//
// What it costs:
//
//   - [New] looks at every rule once.
//   - [Policy.For] finds the rules that are for a caller: those that name it are in a
//     map, patterns are tried one by one. The answer is kept for each caller, and whoever
//     has a connection keeps it for as long as the policy is in force.
//   - [Caller.Decide] is for each RPC. It finds what its rules say of the method in one
//     map, or by a binary search among prefixes, however many rules there are. Only rules
//     with conditions on metadata are tried one by one, where no other has decided. It
//     neither allocates nor takes a lock.
//
// What cannot be told is refused: a rule that denies holds where it may hold, one that
// allows where it does hold for certain. That is so with values that are too long for
// their regular expressions, and with paths that a server might take for another.
package access

// Package breaker keeps RPCs from a destination that fails, and bounds how many are
// under way to it at once. It is state machines: it sends nothing, sets no timer and
// asks no clock; whoever carries an RPC asks before it begins and says how it ended.
//
//	trip.go     when a breaker opens, and for how long
//	breaker.go  the breaker: closed, open, half-open
//	period.go   what a breaker knows while it is in one state
//	window.go   results of the recent past
//	status.go   what people are shown
//	circuit.go  a breaker and a limit on RPCs under way, for one method of a destination
//	place.go    an RPC's place under that limit, and the queue for it
//	policy.go   the circuits that one policy makes
//	look.go     one of them for people, without making it
//
// # The states
//
//	closed     all RPCs begin. When a condition of [Trip] holds it opens.
//	open       none begins. When its time is over, the next RPC makes it half-open.
//	half-open  Trip.Probes RPCs are under way at a time. As many successes in a row
//	           close it, one failure opens it again.
//
// A breaker that opens because a probe failed stays open twice as long as the last
// time, up to Trip.MaxOpenFor. So does one that opens sooner after it closed than it
// had been open before: what fails as soon as it is used has not recovered. One that
// stayed closed for longer begins with Trip.OpenFor again.
//
// A result counts only in the state in which its RPC began, so what began before
// a breaker opened neither closes it nor opens it again. A probe whose result does
// not come holds its place for Trip.OpenFor at most.
//
// # Locks
//
// While a breaker is closed, and while it is open, no lock is taken, except once for
// each tenth of a window. A [Circuit]'s lock may be held while a [Breaker]'s is taken.
// Callers' functions are called with neither held; which locks the caller itself
// holds is its own affair: see [Woken].
package breaker

// Package ledger keeps the book of a service's canaries, or of its experiments, for the
// sidecar that is elected: what documents say, what people ask for, where each stands. It
// writes transitions, a state and its entry in the history at once. It does not decide
// what the next state is.
//
// A transition is written on the condition that the state before is the one that is known
// here. So one who was elected before, and does not know yet that another is, writes
// nothing.
//
// A [Book] reads and writes, and remembers nothing. A [Ledger] follows the store too, and
// its states hold once they are written: experiments are led by it. Canaries keep what they
// know themselves, over a Book: a roll-back holds before it is written.
package ledger

// Package ledger keeps the book of a service's canaries, or of its experiments, for the
// sidecar that is elected: what documents say, what people ask for, where each stands. It
// is the one place that writes transitions, a state and its entry in the history at once.
// It does not decide what the next state is.
//
// A transition is written on the condition that the state before is the one that is known
// here. The store that it is given takes it only while the sidecar is elected
// ([github.com/pillion-proxy/pillion/control/kv.Fence]).
//
// # What the store loses
//
// A state that is gone while its history is there was removed: the run is over. One that is
// gone together with its history was lost. So was one that cannot be read any more. What is
// known of it then holds, and is to be written again ([Entry.Restored]). It is known here, or
// to the elected sidecar's own agents; who may report may not say what runs.
//
// # Numbers
//
// Of two states the one with the later number holds. Numbers, and those of runs, go on from
// the highest that is known: of the state, of states that were removed, of the history, of
// what sidecars go by ([Ledger.Heard]). What sidecars say is believed up to a bound beyond
// the state. After the highest number that there is comes 1: see [control.Next].
package ledger

// Package plan says what a change of policies would do, before it is done: what changes in
// what each says, and which of the RPCs that sidecars remember would fare otherwise. That
// it finds out by asking the code that decides real RPCs, for the policies before and for
// those after.
package plan

// Package exact makes RPCs of all four kinds whose messages say whether a byte
// was lost, doubled or moved, and holds the app that answers them. A ledger that
// the apps share says which RPC reached how many of them, so that one that was
// sent twice is found.
//
// It judges bytes, not outcomes: which status an RPC may end with is for its
// users to say.
package exact

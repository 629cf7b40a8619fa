// Package follow keeps a sidecar at what a store says of the services in use: it watches
// their documents and the states of their canaries and experiments, hands policies over,
// keeps the last good ones on disk, and knows how each document stands.
//
// A document that is wrong is refused alone, and its last good version stays, also over a
// restart without the store. A service whose documents are not known yet holds its RPCs
// up, but not for long: see [Options.Patience].
package follow

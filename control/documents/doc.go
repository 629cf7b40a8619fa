// Package documents is people's side of the mesh's documents: it applies policies,
// canaries and experiments to a store, shows what is there and what would change, and
// keeps every revision of each. It checks a document together with all others before it
// is written; sidecars (package follow) check it again.
//
// It does not read files, and does not run canaries and experiments.
//
// # Who writes when two do
//
// A document and its entry in the history are written in one commit, on the condition
// that the document is what it was when the change was checked, and that there is no such
// revision yet. So nothing is lost that somebody else has written meanwhile: the later
// one is told who changed what. What belongs to one service is written in one commit as
// far as the store's bounds allow ([kv.MaxOps], [kv.MaxCommit]).
//
// The conditions are about the documents that are written. Two that collide only with
// each other may still be written at once by two people: [Documents.Apply] looks again
// after it has written and warns, and sidecars refuse the later of them alone.
package documents

import (
	"time"

	"github.com/pillion-proxy/pillion/control/kv"
)

// Documents are the mesh's documents in a store. They may be used by many goroutines at
// once.
type Documents struct {
	store kv.Store
	now   func() time.Time
}

// Options are what Documents take from outside.
type Options struct {
	// Now is the time. Default: time.Now.
	Now func() time.Time
}

// New returns the documents of a store.
func New(store kv.Store, o Options) *Documents {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Documents{store: store, now: o.Now}
}

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
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
)

// Documents are the mesh's documents in a store. They may be used by many goroutines at
// once.
type Documents struct {
	store kv.Store
	o     Options
}

// Options are what Documents take from outside.
type Options struct {
	// Now is the time. Default: time.Now.
	Now func() time.Time
	// Made returns the policy that a canary or an experiment, whose defaults are filled in,
	// comes to while it runs, so that it can be seen whether it would hold; nil for others.
	// Default: that is left to sidecars.
	Made func(*controlv1.Document) *configv1.Policy
}

// New returns the documents of a store.
func New(store kv.Store, o Options) *Documents {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Made == nil {
		o.Made = func(*controlv1.Document) *configv1.Policy { return nil }
	}
	return &Documents{store: store, o: o}
}

package documents

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/kv"
	"github.com/pillion-proxy/pillion/proto/configyaml"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
)

// Stored is a document as it is in the store.
type Stored struct {
	ID      ID
	Service string
	// Document is as it was written, without defaults. Where Problem is set, it is what
	// could be read.
	Document *controlv1.Document
	// Problem says why it cannot be read, or cannot hold.
	Problem error

	version uint64 // of its key
	// stale are earlier revisions of it that are there for other services, by somebody's
	// hand. They go with the next change.
	stale []*Stored
}

// key is where the document is.
func (s *Stored) key() string { return control.DocumentKey(s.ID.Kind, s.Service, s.ID.Name) }

// State is all documents at one moment.
type State struct {
	// All are in the order of their kinds and names.
	All []*Stored
	by  map[ID]*Stored
}

// Find returns a document; nil: there is none.
func (s *State) Find(id ID) *Stored { return s.by[id] }

// servicesPrefix is what all documents are below.
const servicesPrefix = control.Root + "services/"

// Load returns all documents.
func (d *Documents) Load(ctx context.Context) (*State, error) {
	entries, err := d.store.List(ctx, servicesPrefix)
	if err != nil {
		return nil, d.failed("read the documents", err)
	}
	defer configyaml.HoldRules()()
	s := &State{by: map[ID]*Stored{}}
	for _, e := range entries {
		one := stored(e)
		if one == nil {
			continue
		}
		if other := s.by[one.ID]; other != nil {
			if one.Document.GetRevision() <= other.Document.GetRevision() {
				one, other = other, one
			}
			one.stale = append(append(one.stale, other), other.stale...)
			other.stale = nil
		}
		s.by[one.ID] = one
	}
	for _, id := range sortedIDs(s.by) {
		s.All = append(s.All, s.by[id])
	}
	return s, nil
}

// stored reads an entry; nil: it is no document.
func stored(e kv.Entry) *Stored {
	in, _, ok := strings.Cut(strings.TrimPrefix(e.Key, servicesPrefix), "/")
	if !ok {
		return nil
	}
	service := in
	if in == strings.TrimSuffix(strings.TrimPrefix(control.ServicePrefix("*"), servicesPrefix), "/") {
		service = "*"
	}
	kind, name, request, ok := control.ParseServiceKey(service, e.Key)
	if !ok || request {
		return nil
	}
	one := &Stored{ID: ID{kind, name}, Service: service, version: e.Version}
	one.Document, one.Problem = Decode(one.ID, e.Value)
	if one.Problem == nil {
		switch _, of := IDOf(one.Document); {
		case Body(one.Document) == nil:
			one.Problem = errors.New("says nothing: was it written by hand?")
		case of != service:
			one.Problem = fmt.Errorf("is for service %q, but was found with those for %q: was it written by hand?", of, service)
		}
	}
	return one
}

// failed says what could not be done.
func (d *Documents) failed(what string, err error) error {
	return fmt.Errorf("cannot %s: %w", what, err)
}

package follow

import (
	"errors"
	"fmt"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/documents"
	"github.com/pillion-proxy/pillion/control/kv"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
)

// decode reads a document for a service, and fills in its defaults. Whoever wrote it may
// have checked it by other rules than ours, or by none. Of a document that is wrong it
// returns what could be read.
func decode(service string, key documents.ID, value []byte) (*controlv1.Document, error) {
	doc, err := documents.Decode(key, value)
	if err != nil {
		return doc, err
	}
	switch _, of := documents.IDOf(doc); {
	case doc.GetBody() == nil:
		return doc, errors.New("is empty: apply it again")
	case of != service:
		return doc, fmt.Errorf("is for service %q, and not for %q, where it was found: apply it again", of, service)
	}
	return documents.Effective(doc), nil
}

// decode reads what a key of the service holds.
func (s *service) decode(key documents.ID, e kv.Entry) seen {
	doc, err := decode(s.name, key, e.Value)
	one := seen{doc: doc, version: e.Version}
	if err != nil {
		one.problem = fmt.Errorf("%s: %w", place(s.name, key, doc.GetRevision()), err)
	}
	return one
}

// place is how people are told where a document is.
func place(service string, key documents.ID, revision uint64) string {
	return fmt.Sprintf("%s revision %d", control.DocumentKey(key.Kind, service, key.Name), revision)
}

package follow

import (
	"errors"
	"fmt"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/kv"
	"github.com/pillion-proxy/pillion/proto/configyaml"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
)

// decode reads a document for a service, and fills in its defaults. Whoever wrote it may
// have checked it by other rules than ours, or by none. Of a document that is wrong it
// returns what could be read.
func decode(service string, data []byte) (*controlv1.Document, id, error) {
	doc := &controlv1.Document{}
	if err := protojson.Unmarshal(data, doc); err != nil {
		// A field that this version does not know may be the one that matters.
		revision := &controlv1.Document{}
		_ = protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(data, revision)
		return revision, id{}, fmt.Errorf("cannot be read: %s: was it written by a newer Pillion, or by hand?", oneLine(err))
	}
	var (
		key id
		of  string
		err error
	)
	switch body := doc.GetBody().(type) {
	case *controlv1.Document_Policy:
		body.Policy = configyaml.EffectivePolicy(body.Policy)
		key, of, err = id{control.Policy, body.Policy.GetName()}, body.Policy.GetService(), configyaml.CheckPolicy(body.Policy)
	case *controlv1.Document_Canary:
		body.Canary = configyaml.EffectiveCanary(body.Canary)
		key, of, err = id{control.Canary, body.Canary.GetName()}, body.Canary.GetService(), configyaml.CheckCanary(body.Canary)
	case *controlv1.Document_Experiment:
		body.Experiment = configyaml.EffectiveExperiment(body.Experiment)
		key, of, err = id{control.Experiment, body.Experiment.GetName()}, body.Experiment.GetService(), configyaml.CheckExperiment(body.Experiment)
	default:
		return doc, key, errors.New("is empty: nothing is said of what it is")
	}
	if err == nil && of != service {
		err = fmt.Errorf("is for service %q, and not for %q, where it was found: apply it again", of, service)
	}
	if err == nil && doc.GetRevision() == 0 {
		err = errors.New("has no revision: apply it again")
	}
	return doc, key, err
}

// decode reads what a key of the service holds.
func (s *service) decode(key id, e kv.Entry) seen {
	doc, found, err := decode(s.name, e.Value)
	if err == nil && found != key {
		err = fmt.Errorf("is %s %q, and lies where another is expected: apply it again", found.kind, found.name)
	}
	one := seen{doc: doc, version: e.Version, revision: doc.GetRevision()}
	if err != nil {
		one.problem = fmt.Errorf("%s: %s", place(s.name, key, doc.GetRevision()), oneLine(err))
	}
	return one
}

// oneLine is an error on one line.
func oneLine(err error) string {
	return strings.Join(strings.Fields(strings.ReplaceAll(err.Error(), "\n", "; ")), " ")
}

package documents

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/kv"
	"github.com/pillion-proxy/pillion/proto/configyaml"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
)

// MaxDocument bounds a document as it is kept, in bytes. It is written together with its
// entry in the history, which is as large.
const MaxDocument = (kv.MaxCommit - 4*kv.MaxKey) / 2

// ID says which document is meant. Names are unique in the mesh whatever the kind.
type ID struct {
	Kind control.Kind
	Name string
}

// String is how people write it: "policy/checkout-routes".
func (id ID) String() string { return string(id.Kind) + "/" + id.Name }

func (id ID) compare(other ID) int {
	return cmp.Or(cmp.Compare(slices.Index(control.Kinds, id.Kind), slices.Index(control.Kinds, other.Kind)), cmp.Compare(id.Name, other.Name))
}

// ParseID reads what [ID.String] writes. A kind may be written in the plural.
func ParseID(text string) (ID, error) {
	kind, name, ok := strings.Cut(text, "/")
	if !ok || name == "" || strings.Contains(name, "/") {
		return ID{}, fmt.Errorf("%q is not of the form KIND/NAME, such as policy/checkout-routes", text)
	}
	k, err := ParseKind(kind)
	return ID{k, name}, err
}

// ParseKind reads a kind, which may be written in the plural.
func ParseKind(text string) (control.Kind, error) {
	for _, kind := range control.Kinds {
		if text == string(kind) || text == Plural(kind) {
			return kind, nil
		}
	}
	return "", fmt.Errorf("%q is no kind of document: use policy, canary or experiment", text)
}

// Plural is what several of a kind are called.
func Plural(kind control.Kind) string {
	switch kind {
	case control.Policy:
		return "policies"
	case control.Canary:
		return "canaries"
	}
	return string(kind) + "s"
}

// Body returns what a document says, a policy, a canary or an experiment; nil: it was
// deleted.
func Body(d *controlv1.Document) proto.Message {
	switch body := d.GetBody().(type) {
	case *controlv1.Document_Policy:
		return body.Policy
	case *controlv1.Document_Canary:
		return body.Canary
	case *controlv1.Document_Experiment:
		return body.Experiment
	}
	return nil
}

// IDOf returns which document it is, and the service that it is for. A document that was
// deleted has neither.
func IDOf(d *controlv1.Document) (ID, string) {
	switch body := d.GetBody().(type) {
	case *controlv1.Document_Policy:
		return ID{control.Policy, body.Policy.GetName()}, body.Policy.GetService()
	case *controlv1.Document_Canary:
		return ID{control.Canary, body.Canary.GetName()}, body.Canary.GetService()
	case *controlv1.Document_Experiment:
		return ID{control.Experiment, body.Experiment.GetName()}, body.Experiment.GetService()
	}
	return ID{}, ""
}

// Of makes documents of what files hold, without revisions.
func Of(d *configv1.Documents) (all []*controlv1.Document) {
	for _, p := range d.GetPolicies() {
		all = append(all, &controlv1.Document{Body: &controlv1.Document_Policy{Policy: p}})
	}
	for _, c := range d.GetCanaries() {
		all = append(all, &controlv1.Document{Body: &controlv1.Document_Canary{Canary: c}})
	}
	for _, e := range d.GetExperiments() {
		all = append(all, &controlv1.Document{Body: &controlv1.Document_Experiment{Experiment: e}})
	}
	return all
}

// Collect is the reverse of [Of].
func Collect(all []*controlv1.Document) *configv1.Documents {
	d := &configv1.Documents{}
	for _, one := range all {
		switch body := one.GetBody().(type) {
		case *controlv1.Document_Policy:
			d.Policies = append(d.Policies, body.Policy)
		case *controlv1.Document_Canary:
			d.Canaries = append(d.Canaries, body.Canary)
		case *controlv1.Document_Experiment:
			d.Experiments = append(d.Experiments, body.Experiment)
		}
	}
	return d
}

// Effective returns a copy of a document with every default filled in.
func Effective(d *controlv1.Document) *controlv1.Document {
	d = proto.CloneOf(d)
	switch body := d.GetBody().(type) {
	case *controlv1.Document_Policy:
		body.Policy = configyaml.EffectivePolicy(body.Policy)
	case *controlv1.Document_Canary:
		body.Canary = configyaml.EffectiveCanary(body.Canary)
	case *controlv1.Document_Experiment:
		body.Experiment = configyaml.EffectiveExperiment(body.Experiment)
	}
	return d
}

// check says what is wrong with a document by itself.
func check(d *controlv1.Document) error {
	switch body := Effective(d).GetBody().(type) {
	case *controlv1.Document_Policy:
		return configyaml.CheckPolicy(body.Policy)
	case *controlv1.Document_Canary:
		return configyaml.CheckCanary(body.Canary)
	case *controlv1.Document_Experiment:
		return configyaml.CheckExperiment(body.Experiment)
	}
	return errors.New("says nothing")
}

// Decode reads a document or a revision as a store holds it, whoever has written it there.
// It is returned as it was written, without defaults; where it is wrong, with what could
// be read. A revision that says that the document was deleted has no body.
func Decode(id ID, value []byte) (*controlv1.Document, error) {
	d := &controlv1.Document{}
	if err := protojson.Unmarshal(value, d); err != nil {
		part := &controlv1.Document{}
		// What can be read of it is for people alone.
		_ = protojson.UnmarshalOptions{DiscardUnknown: true, AllowPartial: true}.Unmarshal(value, part)
		part.Body = nil
		return part, fmt.Errorf("cannot be read (%s): was it written by a newer Pillion, or by hand?", oneLine(err))
	}
	if d.GetRevision() == 0 {
		return d, errors.New("has no revision: was it written by hand?")
	}
	if d.GetBody() == nil {
		return d, nil
	}
	if is, _ := IDOf(d); is != id {
		return d, fmt.Errorf("is %q, which does not belong there: was it written by hand?", is)
	}
	if err := check(d); err != nil {
		return d, errors.New(oneLine(err))
	}
	return d, nil
}

// encode writes a document as a store holds it.
func encode(d *controlv1.Document) ([]byte, error) {
	value, err := protojson.Marshal(d)
	if err != nil {
		return nil, err
	}
	// protojson varies its blanks on purpose.
	var compact bytes.Buffer
	if err := json.Compact(&compact, value); err != nil {
		return nil, err
	}
	if n := compact.Len(); n > MaxDocument {
		return nil, fmt.Errorf("takes %d bytes, at most %d may be: make two of it", n, MaxDocument)
	}
	return compact.Bytes(), nil
}

// oneLine is an error on one line, without anything that a terminal would obey.
func oneLine(err error) string { return Printable(strings.ReplaceAll(err.Error(), "\n", "; ")) }

// Printable is a text that somebody else has written, on one line, without anything that
// a terminal would obey.
func Printable(text string) string {
	return strings.Join(strings.Fields(strings.Map(printable, strings.ToValidUTF8(text, "�"))), " ")
}

// maxLine bounds a Line, in bytes.
const maxLine = 1000

// Line is a text as Printable makes it, of at most 1,000 bytes: what is kept of what people
// and other sidecars say.
func Line(text string) string {
	text = Printable(text)
	if len(text) > maxLine {
		text = strings.ToValidUTF8(text[:maxLine], "") // of its last character there may be a part
	}
	return text
}

// printable is a character, or a blank in the place of one that a terminal would obey, or
// that would have a text be read in another order than it is written.
func printable(r rune) rune {
	switch {
	case r < ' ', r >= 0x7f && r < 0xa0, r == 0x2028, r == 0x2029, r >= 0x202a && r <= 0x202e, r >= 0x2066 && r <= 0x2069:
		return ' '
	}
	return r
}

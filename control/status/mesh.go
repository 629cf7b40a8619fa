package status

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/kv"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
)

// Mesh is what all sidecars say, beside what the store holds.
type Mesh struct {
	// Sidecars are ordered by service and name.
	Sidecars []*Sidecar `json:"sidecars"`
	// Documents are ordered by kind and name.
	Documents []*Document `json:"documents"`
	// Runs are where canaries and experiments stand, ordered by kind and name.
	Runs []*Run `json:"runs,omitempty"`
	// Unreadable are keys of the status that no sidecar can have written.
	Unreadable []string `json:"unreadable,omitempty"`

	service string // the only one that is looked at; "": all are
}

// Run is where a canary or an experiment stands.
type Run struct {
	Kind    string    `json:"kind"`
	Name    string    `json:"name"`
	Service string    `json:"service"`
	Phase   string    `json:"phase"`
	Step    uint32    `json:"step,omitempty"`
	Weight  uint32    `json:"weight,omitempty"`
	Since   time.Time `json:"since"`
	Reason  string    `json:"reason"`
	// Elected is the sidecar that decides on it; "": none is elected.
	Elected string `json:"elected,omitempty"`
}

// Sidecar is one sidecar, and what it lacks.
type Sidecar struct {
	Status *controlv1.SidecarStatus `json:"-"`
	ID     string                   `json:"id"`
	// Service is the app's; "": a pure client.
	Service string `json:"service"`
	Host    string `json:"host"`
	Version string `json:"version"`
	// Policies is the hash of all policies in force there.
	Policies string `json:"policies"`
	// InForce is how many documents hold as the store has them.
	InForce int `json:"in_force"`
	// Behind are documents of which it has not seen the newest revision.
	Behind []string `json:"behind,omitempty"`
	// Refused are documents of which it has refused the newest revision, with why.
	Refused []Refusal `json:"refused,omitempty"`
	// Lost are documents that it obeys though the store has lost them.
	Lost []Refusal `json:"lost,omitempty"`
	// CertificateExpires is when its certificate ends; nil: it has none.
	CertificateExpires *time.Time `json:"certificate_expires,omitempty"`
	// Problems are what it says is wrong.
	Problems []string `json:"problems,omitempty"`
}

// Refusal is why a document does not hold.
type Refusal struct {
	Document string `json:"document"`
	Problem  string `json:"problem"`
	// InForce is the revision that holds instead; 0: none.
	InForce uint64 `json:"in_force"`
}

// Document is one document, and how many sidecars have it.
type Document struct {
	Kind     string `json:"kind"`
	Name     string `json:"name"`
	Service  string `json:"service"`
	Revision uint64 `json:"revision"`
	// Followers are how many sidecars follow its service; of those, InForce obey the
	// newest revision, Refused have refused it, and Behind have not seen it yet.
	Followers int `json:"followers"`
	InForce   int `json:"in_force"`
	Refused   int `json:"refused"`
	Behind    int `json:"behind"`
}

// Label is how people know the document.
func (d *Document) Label() string { return d.Kind + "/" + d.Name }

// Settled says that every sidecar has seen the newest revision of what it follows, and
// obeys or has refused it.
func (m *Mesh) Settled() bool {
	return !slices.ContainsFunc(m.Sidecars, func(s *Sidecar) bool { return len(s.Behind) > 0 })
}

// Lost is how many documents the store has lost that sidecars obey yet.
func (m *Mesh) Lost() (n int) {
	for _, s := range m.Sidecars {
		n += len(s.Lost)
	}
	return n
}

// Refused is how many documents are refused by sidecars.
func (m *Mesh) Refused() (n int) {
	for _, s := range m.Sidecars {
		n += len(s.Refused)
	}
	return n
}

// Read returns how the mesh stands; of one service where service is not "".
func Read(ctx context.Context, store kv.Store, service string) (*Mesh, error) {
	entries, err := store.List(ctx, control.StatusPrefix)
	if err != nil {
		return nil, err
	}
	documents, err := store.List(ctx, control.Root+"services/")
	if err != nil {
		return nil, err
	}
	m := &Mesh{service: service}
	if err := m.readRuns(ctx, store); err != nil {
		return nil, err
	}
	byKey := map[string]*Document{}
	for _, e := range documents {
		if d := readDocument(e); d != nil && (service == "" || d.Service == service || d.Service == "*") {
			m.Documents = append(m.Documents, d)
			byKey[d.Label()] = d
		}
	}
	for _, e := range entries {
		st := &controlv1.SidecarStatus{}
		err := protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(e.Value, st)
		if err != nil || e.Key != control.StatusKey(st.GetService(), st.GetId()) {
			m.Unreadable = append(m.Unreadable, e.Key)
			continue
		}
		if service == "" || st.GetService() == service || slices.Contains(st.GetServices(), service) {
			m.Sidecars = append(m.Sidecars, m.judge(st, byKey))
		}
	}
	slices.SortFunc(m.Sidecars, func(a, b *Sidecar) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.ID, b.ID))
	})
	slices.SortFunc(m.Documents, func(a, b *Document) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
	})
	return m, nil
}

// readRuns reads where canaries and experiments stand, and who decides on them.
func (m *Mesh) readRuns(ctx context.Context, store kv.Store) error {
	states, err := store.List(ctx, control.Root+"state/")
	if err != nil {
		return err
	}
	leaders, err := store.List(ctx, control.Root+"leaders/")
	if err != nil {
		return err
	}
	elected := map[string]string{}
	for _, e := range leaders {
		l := &controlv1.Leader{}
		if (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(e.Value, l) == nil {
			elected[e.Key] = l.GetId()
		}
	}
	for _, e := range states {
		if control.IsAnchor(e.Key) {
			continue
		}
		st := &controlv1.RunState{}
		if (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(e.Value, st) != nil ||
			e.Key != control.StateKey(control.Kind(st.GetKind()), st.GetService(), st.GetName()) {
			m.Unreadable = append(m.Unreadable, e.Key)
			continue
		}
		if m.service == "" || st.GetService() == m.service {
			m.Runs = append(m.Runs, &Run{
				Kind: st.GetKind(), Name: st.GetName(), Service: st.GetService(), Step: st.GetStep(), Weight: st.GetWeight(),
				Phase: control.PhaseWord(st.GetPhase()), Since: st.GetSince().AsTime(),
				Reason: st.GetReason(), Elected: elected[control.LeaderKey(st.GetService())],
			})
		}
	}
	slices.SortFunc(m.Runs, func(a, b *Run) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
	})
	return nil
}

// readDocument reads what a key of a service holds; nil: it is no document.
func readDocument(e kv.Entry) *Document {
	doc := &controlv1.Document{}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(e.Value, doc); err != nil {
		return keyed(e.Key)
	}
	d := &Document{Revision: doc.GetRevision()}
	switch body := doc.GetBody().(type) {
	case *controlv1.Document_Policy:
		d.Kind, d.Name, d.Service = string(control.Policy), body.Policy.GetName(), body.Policy.GetService()
	case *controlv1.Document_Canary:
		d.Kind, d.Name, d.Service = string(control.Canary), body.Canary.GetName(), body.Canary.GetService()
	case *controlv1.Document_Experiment:
		d.Kind, d.Name, d.Service = string(control.Experiment), body.Experiment.GetName(), body.Experiment.GetService()
	}
	if e.Key != control.DocumentKey(control.Kind(d.Kind), d.Service, d.Name) {
		return keyed(e.Key)
	}
	return d
}

// keyed returns the document that a key is for whose value cannot be read.
func keyed(key string) *Document {
	service, _, _ := strings.Cut(strings.TrimPrefix(key, control.Root+"services/"), "/")
	if service == "_all" {
		service = "*"
	}
	kind, name, request, ok := control.ParseServiceKey(service, key)
	if !ok || request {
		return nil
	}
	return &Document{Kind: string(kind), Name: name, Service: service}
}

// judge says what a sidecar has, and adds it to the documents' counts.
func (m *Mesh) judge(st *controlv1.SidecarStatus, documents map[string]*Document) *Sidecar {
	s := &Sidecar{
		Status: st, ID: st.GetId(), Service: st.GetService(), Host: st.GetHost(), Version: st.GetVersion(),
		Policies: st.GetPolicies(), Problems: st.GetProblems(),
	}
	if at := st.GetCertificateExpires(); at != nil {
		t := at.AsTime()
		s.CertificateExpires = &t
	}
	stand := make(map[string]*controlv1.DocumentStatus, len(st.GetDocuments()))
	for _, d := range st.GetDocuments() {
		stand[d.GetKind()+"/"+d.GetName()] = d
	}
	for _, d := range m.Documents {
		if !slices.Contains(st.GetServices(), d.Service) {
			continue
		}
		d.Followers++
		has := stand[d.Label()]
		switch {
		case has == nil && st.GetLeftOut() > 0: // those that are left out are in order
			d.InForce++
			s.InForce++
		case has == nil || d.Revision != 0 && has.GetRevision() != d.Revision: // a later one is of a store that was lost
			d.Behind++
			older := "none"
			if n := has.GetRevision(); n > 0 {
				older = strconv.FormatUint(n, 10)
			}
			s.Behind = append(s.Behind, fmt.Sprintf("%s revision %d (has %s)", d.Label(), d.Revision, older))
		case has.GetProblem() != "":
			d.Refused++
			s.Refused = append(s.Refused, Refusal{Document: d.Label(), Problem: has.GetProblem(), InForce: has.GetInForce()})
		default:
			d.InForce++
			s.InForce++
		}
	}
	for _, d := range st.GetDocuments() {
		label := d.GetKind() + "/" + d.GetName()
		switch {
		case documents[label] != nil || m.service != "" && d.GetService() != m.service && d.GetService() != "*":
		case d.GetProblem() != "":
			s.Lost = append(s.Lost, Refusal{Document: label, Problem: d.GetProblem(), InForce: d.GetInForce()})
		default:
			s.Behind = append(s.Behind, label+" (was deleted)")
		}
	}
	return s
}

package follow

import (
	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/documents"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
	"github.com/pillion-proxy/pillion/registry"
)

// policies are what is handed over, as it is put together.
type policies struct {
	*registry.Policies
	store string
}

func (f *Follower) newPolicies() policies {
	store := f.o.Store.Describe()
	p := policies{&registry.Policies{Where: store, Places: map[string]string{}}, store}
	places := p.Places
	p.Locate = func(policy, field string) string {
		at, known := places[policy]
		switch {
		case !known:
			at = "policy " + policy
		case field == "":
			return at
		}
		return at + ": " + field
	}
	return p
}

// add adds the policies among documents of a service.
func (p *policies) add(s *service, docs map[documents.ID]*controlv1.Document) {
	for _, key := range sortedIDs(docs) {
		if doc := docs[key]; key.Kind == control.Policy {
			p.List = append(p.List, doc.GetPolicy())
			p.Places[key.Name] = place(s.name, key, doc.GetRevision())
		}
	}
}

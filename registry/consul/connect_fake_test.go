package consul

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/consul/api"

	"github.com/pillion-proxy/pillion/identity"
	"github.com/pillion-proxy/pillion/identity/identitytest"
	"github.com/pillion-proxy/pillion/registry"
)

const clusterDomain = "11111111-2222-3333-4444-555555555555.consul"

// greeterPath is the path of the SPIFFE ID of the service that the tests are.
const greeterPath = "/ns/default/dc/dc1/svc/greeter"

// fakeConnect is what a fake agent knows of Connect.
type fakeConnect struct {
	roots *api.CARootList
	// leaf is the certificate there is now. fresh, where it is there, makes one for each
	// question, as agents do where certificates are short-lived.
	leaf  *api.LeafCert
	fresh func() *api.LeafCert
	made  int // by fresh

	intentions string // the match call's answer for greeter, in JSON
	authorize  func(target, caller string) (int, any)
}

// connected answers about Connect.
func (f *fakeAgent) connected(req *http.Request, path string) (*http.Response, error) {
	switch path {
	case "agent/connect/ca/roots":
		return f.block(req, func() any { return f.connect.roots })
	case "agent/connect/ca/leaf/greeter":
		f.mu.Lock()
		fresh := f.connect.fresh
		f.mu.Unlock()
		if fresh != nil {
			f.change(func() { f.connect.leaf = fresh(); f.connect.made++ })
		}

		return f.block(req, func() any { return f.connect.leaf })
	case "agent/connect/authorize":
		var question api.AgentAuthorizeParams
		if err := decodeInto(req, &question); err != nil || req.Method != http.MethodPost {
			return respond(http.StatusBadRequest, nil, "want a POST"), nil //nolint:nilerr // the answer is the error
		}
		f.mu.Lock()
		authorize := f.connect.authorize
		f.mu.Unlock()
		status, answer := authorize(question.Target, question.ClientCertURI)

		return respond(status, nil, answer), nil
	case "connect/intentions/match":
		query := req.URL.Query()
		if query.Get("by") != "destination" || query.Get("name") != "greeter" || query.Has("dc") {
			return respond(http.StatusBadRequest, nil, "odd question"), nil
		}

		return f.block(req, func() any { return rawJSON(`{"greeter":` + f.connect.intentions + `}`) })
	}

	return respond(http.StatusNotFound, nil, "no such path"), nil
}

// rootList is what an agent answers about authorities; the last is the active one.
func rootList(authorities ...*identitytest.Authority) *api.CARootList {
	list := &api.CARootList{TrustDomain: clusterDomain}
	for i, authority := range authorities {
		list.Roots = append(list.Roots, &api.CARoot{
			Name: "CA", RootCertPEM: string(identitytest.RootsPEM(authority)), Active: i == len(authorities)-1,
		})
	}

	return list
}

// leafOf is what an agent answers about a certificate.
func leafOf(t testing.TB, pair *tls.Certificate) *api.LeafCert {
	return &api.LeafCert{CertPEM: string(identitytest.ChainPEM(pair)), PrivateKeyPEM: string(identitytest.KeyPEM(t, pair)), Service: "greeter"}
}

// identityBook collects what an identity's watch hands over.
type identityBook struct {
	mu     sync.Mutex
	states []*identity.State
	stop   func()
	source identity.Source
}

func watchIdentity(t *testing.T, source *Source, service string) *identityBook {
	t.Helper()

	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	book := &identityBook{source: source.Identity(service), stop: func() { cancel(); <-done }}
	go func() {
		defer close(done)
		book.source.Watch(ctx, func(s *identity.State) {
			book.mu.Lock()
			defer book.mu.Unlock()
			book.states = append(book.states, s)
		})
	}()
	t.Cleanup(book.stop)

	return book
}

// last is what was handed over last; nil where that is nothing.
func (b *identityBook) last() *identity.State {
	b.mu.Lock()
	defer b.mu.Unlock()

	if len(b.states) == 0 {
		return nil
	}

	return b.states[len(b.states)-1]
}

func (b *identityBook) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()

	return len(b.states)
}

// presents says whether this is the certificate that was handed over last.
func (b *identityBook) presents(pair *tls.Certificate) bool {
	last := b.last()

	return last != nil && last.Certificate != nil && last.Certificate.Leaf.Equal(pair.Leaf)
}

// intentionBook collects what a watch of intentions hands over.
type intentionBook struct {
	mu     sync.Mutex
	states []*registry.Intentions
	stop   func()
}

func watchIntentions(t *testing.T, source *Source) *intentionBook {
	t.Helper()

	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	book := &intentionBook{stop: func() { cancel(); <-done }}
	go func() {
		defer close(done)
		source.WatchIntentions(ctx, "greeter", func(s *registry.Intentions) {
			book.mu.Lock()
			defer book.mu.Unlock()
			book.states = append(book.states, s)
		})
	}()
	t.Cleanup(book.stop)

	return book
}

func (b *intentionBook) all() []*registry.Intentions {
	b.mu.Lock()
	defer b.mu.Unlock()

	return append([]*registry.Intentions(nil), b.states...)
}

// verdict is what the authorize call answers where no intention is for a caller.
func verdict(allowed bool) func(string, string) (int, any) {
	return func(target, caller string) (int, any) {
		if target != "greeter" || !strings.HasPrefix(caller, "spiffe://"+clusterDomain+"/ns/"+nowhere+"/") {
			return http.StatusBadRequest, "odd question"
		}

		return http.StatusOK, map[string]any{"Authorized": allowed, "Reason": "Default behavior configured by ACLs"}
	}
}

func decodeInto(req *http.Request, into any) error { return json.NewDecoder(req.Body).Decode(into) }

// rawJSON is text that is JSON already.
type rawJSON = json.RawMessage

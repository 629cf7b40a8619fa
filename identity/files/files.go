// Package files is a source of identity over PEM files, which something else renews: it
// reads them anew when they change. It writes none.
package files

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/pillion-proxy/pillion/filewatch"
	"github.com/pillion-proxy/pillion/identity"
)

// Options say which files they are, all in PEM.
type Options struct {
	// Certificate is the file of the certificate, followed by its intermediates.
	Certificate string
	// Key is that of its private key; it may be the same file. Nobody but its owner and
	// its group may be able to read it.
	Key string
	// Roots is that of the own trust domain's roots.
	Roots string
	// Federated are those of other trust domains' roots, by their names.
	Federated map[string]string
	// Logger is told what is wrong with changed files. nil: discarded.
	Logger *slog.Logger
	// Now is the clock. nil: [time.Now].
	Now func() time.Time
}

// Source is an [identity.Source]. What cannot be used of changed files leaves what was
// there before in force.
type Source struct {
	*identity.Condition

	o     Options
	first *identity.State
}

var _ identity.Source = (*Source)(nil)

// Open reads the files for the first time. The error says which will not do, why, and
// what to do. Nothing is left open: [Source.Watch] watches.
func Open(o Options) (*Source, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Source{o: o, Condition: identity.NewCondition(identity.Status{Kind: "files", Location: o.Certificate}, identity.ConditionOptions{
		Logger: o.Logger, Now: o.Now, Args: []any{"certificate", o.Certificate},
		Fails: "files of the identity are not taken over, what they said before stays in force",
		Well:  "files of the identity can be used again",
	})}
	state, err := s.read()
	if err != nil {
		return nil, err
	}
	s.first = state
	return s, nil
}

// State is what the files said when they were opened.
func (s *Source) State() *identity.State { return s.first }

// Watch is that of [identity.Source].
func (s *Source) Watch(ctx context.Context, update func(*identity.State)) {
	watcher := filewatch.Watch(s.paths, s.o.Logger)
	held := s.first
	update(held)
	reload := func() {
		state, err := s.read()
		s.Note(err)
		if err == nil && (!state.SameCertificate(held) || !state.SameRoots(held)) {
			held = state
			update(held)
		}
	}
	// They may have changed since they were opened, when nobody watched.
	reload()
	watcher.Run(ctx, reload)
}

func (s *Source) paths() []string {
	paths := []string{s.o.Certificate, s.o.Key, s.o.Roots}
	return slices.AppendSeq(paths, maps.Values(s.o.Federated))
}

// read reads all files. They belong together, so all or none are used: while they are
// being replaced the certificate and the key may not match, and are read again.
func (s *Source) read() (*identity.State, error) {
	chain, err := identity.ReadFile(s.o.Certificate)
	if err != nil {
		return nil, fmt.Errorf("certificate file %w", err)
	}
	key, err := identity.ReadKeyFile(s.o.Key)
	if err != nil {
		return nil, fmt.Errorf("key file %w", err)
	}
	pair, err := identity.ParsePair(chain, key)
	if err != nil {
		return nil, fmt.Errorf("certificate file %s with key file %s: %w", s.o.Certificate, s.o.Key, err)
	}
	id, err := identity.IDOf(pair.Leaf)
	if err != nil {
		return nil, fmt.Errorf("certificate file %s: the certificate %w", s.o.Certificate, err)
	}
	bundles, err := s.readBundles(id.TrustDomain())
	if err != nil {
		return nil, err
	}
	state, err := identity.NewState(pair, bundles, s.o.Now())
	if err != nil {
		return nil, fmt.Errorf("certificate file %s: %w", s.o.Certificate, err)
	}
	return state, nil
}

func (s *Source) readBundles(own spiffeid.TrustDomain) (map[spiffeid.TrustDomain]*identity.Bundle, error) {
	roots, err := readBundle(s.o.Roots)
	if err != nil {
		return nil, fmt.Errorf("roots file %w", err)
	}
	bundles := map[spiffeid.TrustDomain]*identity.Bundle{own: roots}
	for _, name := range slices.Sorted(maps.Keys(s.o.Federated)) {
		td, err := spiffeid.TrustDomainFromString(name)
		switch {
		case err != nil:
			return nil, fmt.Errorf("federated trust domain %q: %w", name, err)
		case td == own:
			return nil, fmt.Errorf("federated trust domain %q is the own one: put its roots into %s", name, s.o.Roots)
		}
		if bundles[td], err = readBundle(s.o.Federated[name]); err != nil {
			return nil, fmt.Errorf("roots file of federated trust domain %q %w", name, err)
		}
	}
	return bundles, nil
}

func readBundle(path string) (*identity.Bundle, error) {
	text, err := identity.ReadFile(path)
	if err != nil {
		return nil, err
	}
	roots, err := identity.ParseRoots(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return identity.NewBundle(roots), nil
}

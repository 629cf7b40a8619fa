package dev

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/pillion-proxy/pillion/identity"
)

const (
	// DefaultTTL is how long a certificate is valid where nothing is said.
	DefaultTTL = 24 * time.Hour
	// renewAt is the share of its lifetime at which a certificate is renewed at the latest,
	// and jitter by how much earlier it may be, so that sidecars which were started
	// together do not go on together.
	renewAt, jitter = 0.5, 0.1
	// renewsBy leaves time for the signing itself, and for the shortest certificates, whose
	// times are whole seconds.
	renewsBy = 0.6
	// shortest is the least to wait between renewals, but where certificates are so short
	// that a tenth of one is less.
	shortest = 10 * time.Second
	// retryEvery is how long to wait after a failure.
	retryEvery = 5 * time.Second
	// lookEvery is how long to go without looking at the clock: timers stand still while
	// a machine sleeps.
	lookEvery = time.Minute
)

// Options are what a [Source] needs besides its CA and ID.
type Options struct {
	// TTL is how long each certificate is valid. 0: [DefaultTTL].
	TTL time.Duration
	// Logger is told that this is for development. nil: discarded.
	Logger *slog.Logger
	// Now is the clock. nil: [time.Now].
	Now func() time.Time
	// Random returns numbers in [0, 1). nil: [rand.Float64].
	Random func() float64
}

// Source is an [identity.Source] that issues certificates to itself, and renews
// them at about half of their lifetime.
type Source struct {
	*identity.Condition

	ca *CA
	id spiffeid.ID
	o  Options
}

var _ identity.Source = (*Source)(nil)

// Source returns a source of certificates for an ID.
func (ca *CA) Source(id spiffeid.ID, o Options) (*Source, error) {
	if o.TTL == 0 {
		o.TTL = DefaultTTL
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Random == nil {
		o.Random = rand.Float64
	}
	s := &Source{ca: ca, id: id, o: o, Condition: identity.NewCondition(identity.Status{Kind: "dev", Location: ca.folder, RenewsBy: renewsBy}, identity.ConditionOptions{
		Logger: o.Logger, Now: o.Now, Args: []any{"id", id.String()},
		Fails: "certificate cannot be renewed", Well: "certificate is renewed again",
	})}
	if _, err := ca.Issue(id, o.TTL, o.Now()); err != nil {
		return nil, err
	}
	return s, nil
}

// Watch is that of [identity.Source].
func (s *Source) Watch(ctx context.Context, update func(*identity.State)) {
	s.o.Logger.Warn("the identity is signed by a CA for development, whose key lies beside the sidecar: it is not for production",
		"id", s.id.String(), "ca", s.ca.folder)
	for {
		next, err := s.issue(update)
		s.Note(err)
		if err != nil {
			next = s.o.Now().Add(retryEvery)
		}
		if !s.sleep(ctx, next) {
			return
		}
	}
}

// issue hands a new certificate over and returns when to renew it.
func (s *Source) issue(update func(*identity.State)) (time.Time, error) {
	now := s.o.Now()
	cert, err := s.ca.Issue(s.id, s.o.TTL, now)
	if err != nil {
		return time.Time{}, err
	}
	bundles := map[spiffeid.TrustDomain]*identity.Bundle{s.ca.td: s.ca.Bundle()}
	state, err := identity.NewState(cert, bundles, now)
	if err != nil {
		return time.Time{}, err
	}
	update(state)
	lifetime := cert.Leaf.NotAfter.Sub(cert.Leaf.NotBefore)
	share := renewAt - jitter*s.o.Random()
	next := cert.Leaf.NotBefore.Add(time.Duration(share * float64(lifetime)))
	// Near the CA's own end certificates become ever shorter.
	if soonest := now.Add(min(s.o.TTL/10, shortest)); next.Before(soonest) {
		next = soonest
	}
	return next, nil
}

// sleep waits for a moment; it returns false if ctx ends before.
func (s *Source) sleep(ctx context.Context, until time.Time) bool {
	for {
		left := until.Sub(s.o.Now())
		if left <= 0 {
			return ctx.Err() == nil
		}
		timer := time.NewTimer(min(left, lookEvery))
		select {
		case <-ctx.Done():
			timer.Stop()
			return false
		case <-timer.C:
		}
	}
}

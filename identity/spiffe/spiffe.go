// Package spiffe is a source of identity over a SPIFFE Workload API, such as SPIRE's
// agent: it takes one X.509-SVID and all bundles from it, and goes on with what it had
// while the API is away.
package spiffe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pillion-proxy/pillion/identity"
)

const (
	firstRetry = 250 * time.Millisecond
	// lastRetry is the most to wait between attempts: go-spiffe and grpc-go would wait
	// for up to 30 seconds and two minutes, while certificates run out.
	lastRetry = 5 * time.Second
)

// Options say where the API is.
type Options struct {
	// Socket is "unix:///path" or "tcp://ip:port". "": SPIFFE_ENDPOINT_SOCKET.
	Socket string
	// ID is which of several SVIDs to take. Zero: the first.
	ID spiffeid.ID
	// Logger is told what is wrong with the API. nil: discarded.
	Logger *slog.Logger
	// Now is the clock. nil: [time.Now].
	Now func() time.Time
}

// Source is an [identity.Source].
type Source struct {
	*identity.Condition

	o     Options
	first time.Duration // firstRetry, but in tests
}

var _ identity.Source = (*Source)(nil)

// Open returns the source of an API. It connects to nothing before [Source.Watch]: the
// error is the address's.
func Open(o Options) (*Source, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Socket == "" {
		socket, ok := workloadapi.GetDefaultAddress()
		if !ok || socket == "" {
			return nil, fmt.Errorf("no SPIFFE Workload API is named: say identity.spiffe.socket, or set %s, such as unix:///run/spire/agent.sock", workloadapi.SocketEnv)
		}
		o.Socket = socket
	}
	if err := workloadapi.ValidateAddress(o.Socket); err != nil {
		return nil, fmt.Errorf("address %q of the SPIFFE Workload API: %w", o.Socket, err)
	}
	return &Source{o: o, first: firstRetry, Condition: identity.NewCondition(identity.Status{Kind: "spiffe", Location: o.Socket}, identity.ConditionOptions{
		Logger: o.Logger, Now: o.Now, Args: []any{"socket", o.Socket},
		Fails: "SPIFFE Workload API fails, what it said before stays in force",
		Well:  "SPIFFE Workload API answers again",
	})}, nil
}

// Watch is that of [identity.Source].
func (s *Source) Watch(ctx context.Context, update func(*identity.State)) {
	strategy := retries{first: s.first}
	pauses := strategy.NewBackoff()
	for ctx.Err() == nil {
		client, err := workloadapi.New(ctx,
			workloadapi.WithAddr(s.o.Socket),
			workloadapi.WithBackoffStrategy(strategy),
			workloadapi.WithDialOptions(grpc.WithConnectParams(grpc.ConnectParams{
				Backoff:           backoff.Config{BaseDelay: s.first, Multiplier: 1.6, Jitter: 0.2, MaxDelay: lastRetry},
				MinConnectTimeout: lastRetry,
			})))
		if err != nil {
			s.Note(err)
		} else {
			// It returns when ctx ends, and also after errors that go-spiffe holds to be final.
			// To us none is: an agent may be configured otherwise meanwhile.
			_ = client.WatchX509Context(ctx, &watcher{s: s, ctx: ctx, update: update, pauses: pauses})
			_ = client.Close()
		}
		select {
		case <-ctx.Done():
		case <-time.After(pauses.Next()):
		}
	}
}

// watcher is what go-spiffe tells.
type watcher struct {
	s      *Source
	ctx    context.Context //nolint:containedctx // that of the call it lives in
	update func(*identity.State)
	pauses workloadapi.Backoff
}

// OnX509ContextUpdate is that of [workloadapi.X509ContextWatcher].
func (w *watcher) OnX509ContextUpdate(x *workloadapi.X509Context) {
	w.pauses.Reset()
	state, err := w.s.state(x)
	w.s.Note(err)
	if err == nil && w.ctx.Err() == nil {
		w.update(state)
	}
}

// OnX509ContextWatchError is that of [workloadapi.X509ContextWatcher].
func (w *watcher) OnX509ContextWatchError(err error) {
	if w.ctx.Err() == nil {
		w.s.Note(plain(err))
	}
}

// state is what the API has said in our terms.
func (s *Source) state(x *workloadapi.X509Context) (*identity.State, error) {
	svid, err := s.choose(x.SVIDs)
	if err != nil {
		return nil, err
	}
	bundles := make(map[spiffeid.TrustDomain]*identity.Bundle)
	for _, bundle := range x.Bundles.Bundles() {
		if roots := bundle.X509Authorities(); len(roots) > 0 {
			bundles[bundle.TrustDomain()] = identity.NewBundle(roots)
		}
	}
	cert := &tls.Certificate{PrivateKey: svid.PrivateKey, Leaf: svid.Certificates[0]}
	for _, c := range svid.Certificates {
		cert.Certificate = append(cert.Certificate, c.Raw)
	}
	return identity.NewState(cert, bundles, s.o.Now())
}

// choose takes the SVID that is wanted.
func (s *Source) choose(svids []*x509svid.SVID) (*x509svid.SVID, error) {
	if len(svids) == 0 {
		return nil, errors.New("it hands out no SVID")
	}
	if s.o.ID.IsZero() {
		return svids[0], nil
	}
	i := slices.IndexFunc(svids, func(svid *x509svid.SVID) bool { return svid.ID == s.o.ID })
	if i >= 0 {
		return svids[i], nil
	}
	const most = 5
	var got []string
	for _, svid := range svids[:min(most, len(svids))] {
		got = append(got, svid.ID.String())
	}
	return nil, fmt.Errorf("it hands out %d SVIDs, and none is %s, but %s", len(svids), s.o.ID, strings.Join(got, ", "))
}

// plain is an error of the API without what gRPC puts around it.
func plain(err error) error {
	if errors.Is(err, io.EOF) {
		return errors.New("it has ended the stream")
	}
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	message := strings.ReplaceAll(s.Message(), "\n", " ")
	if s.Code() == codes.PermissionDenied {
		return fmt.Errorf("it refuses: %s: does it have an entry for this workload?", message)
	}
	return fmt.Errorf("%s: %s", s.Code(), message)
}

// retries is the strategy of waiting between attempts.
type retries struct{ first time.Duration }

// NewBackoff is that of [workloadapi.BackoffStrategy].
func (r retries) NewBackoff() workloadapi.Backoff { return &pauses{first: r.first} }

// pauses double from the first to [lastRetry].
type pauses struct{ first, last time.Duration }

// Next is that of [workloadapi.Backoff].
func (p *pauses) Next() time.Duration {
	p.last = min(max(p.first, 2*p.last), lastRetry)
	return p.last
}

// Reset is that of [workloadapi.Backoff].
func (p *pauses) Reset() { p.last = 0 }

package consul

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/pillion-proxy/pillion/identity"
)

// agentRenewsBy is the share of a certificate's lifetime by which an agent that is well
// has renewed it.
const agentRenewsBy = 0.9

// recheckAfter is when a certificate is looked at again that cannot be used yet: time
// itself may mend that, where clocks differ.
const recheckAfter = 5 * time.Second

// Identity returns the identity that Consul's Connect CA gives a service, as a source
// of it. The agent makes the key, has it signed, and renews the certificate; both are
// kept in memory alone. The token needs service:write for the service. A watch costs
// two blocking queries.
func (s *Source) Identity(service string) identity.Source {
	return &connectIdentity{agent: s.agent, service: service}
}

// connectIdentity is an identity of Consul's Connect CA.
type connectIdentity struct {
	agent   *agent
	service string

	mu     sync.Mutex
	errs   [reasons]error
	failed time.Time
}

// reason is what may be wrong with an identity.
type reason int

const (
	noCertificate reason = iota
	noRoots
	noMatch
	reasons
)

// Status implements identity.Source.
func (c *connectIdentity) Status() identity.Status {
	c.mu.Lock()
	defer c.mu.Unlock()

	status := identity.Status{Kind: "consul", Location: c.agent.address, RenewsBy: agentRenewsBy}
	for _, err := range c.errs {
		if err != nil && status.Err == nil {
			status.Err, status.Since = err, c.failed
		}
	}

	return status
}

// note notes that something is wrong, or is not any more.
func (c *connectIdentity) note(reason reason, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()

	was := errors.Join(c.errs[:]...)
	c.errs[reason] = err
	if was == nil && err != nil {
		c.failed = time.Now()
	}
}

// Watch implements identity.Source.
func (c *connectIdentity) Watch(ctx context.Context, update func(*identity.State)) {
	if !serviceName.MatchString(c.service) {
		c.note(noCertificate, fmt.Errorf("consul: service name %q: want letters, digits, '-' and '_', at most 128", c.service))
		<-ctx.Done()

		return
	}

	var pollers sync.WaitGroup
	defer pollers.Wait()
	certificates, roots := make(chan answer[*certificate]), make(chan answer[*authorities])
	pace := newPace()
	renewing := &poller[*certificate]{agent: c.agent, out: certificates, rest: pace.wait, ask: func(ctx context.Context, options *api.QueryOptions) asked[*certificate] {
		asked := c.agent.askCertificate(ctx, c.service, options)
		if asked.err == nil && asked.index != options.WaitIndex {
			pace.set(asked.value.rest(c.agent.random()))
		}

		return asked
	}}
	rooting := &poller[*authorities]{agent: c.agent, out: roots, ask: c.agent.askAuthorities}
	pollers.Go(func() { renewing.run(ctx) })
	pollers.Go(func() { rooting.run(ctx) })
	defer func() {
		for _, scope := range []string{scopeCertificate(c.service), scopeRoots, c.scopeMatch()} {
			c.agent.troubles.forget(scope)
		}
	}()

	rotation := c.agent.tokens.ticker()
	defer rotation.Stop()
	recheck := stopped()
	defer recheck.Stop()
	var (
		known holding
		told  *identity.State
	)
	for {
		select {
		case <-ctx.Done():
			return
		case a := <-certificates:
			c.note(noCertificate, failureOf(a.err, a.failures))
			if a.err != nil {
				continue
			}
			known.next = a.value
		case a := <-roots:
			c.note(noRoots, failureOf(a.err, a.failures))
			if a.err != nil || known.roots != nil && known.roots.same(a.value) {
				continue
			}
			if known.roots != nil {
				pace.hurry() // the old root's certificates are of use for a while only
			}
			known.roots = a.value
		case <-recheck.C:
		case <-rotation.C:
			// A query that waits does so with the token that it began with.
			c.agent.tokens.current()

			continue
		}

		state, err := known.state(time.Now())
		c.mismatch(err)
		if err == nil {
			recheck.Stop()
		} else {
			recheck.Reset(recheckAfter)
		}
		if state != nil && (told == nil || !sameState(told, state)) {
			told = state
			update(state)
		}
	}
}

func sameState(a, b *identity.State) bool {
	return a.TrustDomain == b.TrustDomain && a.SameCertificate(b) && a.SameRoots(b)
}

// failureOf is what is told of a failure: nothing of the first in a row.
func failureOf(err *failure, failures int) error {
	if err == nil || failures <= toleratedFailures {
		return nil
	}

	return err
}

func (c *connectIdentity) scopeMatch() string { return "roots of " + scopeCertificate(c.service) }

// mismatch tells of a certificate that the roots do not stand behind.
func (c *connectIdentity) mismatch(err error) {
	c.note(noMatch, err)
	if err == nil {
		c.agent.troubles.clear(c.scopeMatch())
	} else {
		c.agent.troubles.report(c.scopeMatch(), err)
	}
}

// holding is what is known of an identity. Its two halves come by queries of their own.
type holding struct {
	roots *authorities
	// held is the certificate in use, next one that came after it.
	held, next *certificate
}

// state is what to hand over: the newest certificate that the roots stand behind. One
// that is newer than the roots waits for them; the error says so. It is nil as long
// as there are no roots.
func (h *holding) state(now time.Time) (*identity.State, error) {
	if h.roots == nil {
		return nil, nil
	}
	bundles := map[spiffeid.TrustDomain]*identity.Bundle{h.roots.trustDomain: h.roots.bundle}
	var waits error
	if h.next != nil {
		state, err := stateOf(h.next, bundles)
		if err == nil {
			if _, err = state.Verify(h.next.chain, x509.ExtKeyUsageServerAuth, now); err != nil {
				err = fmt.Errorf("the certificate %w", err)
			}
		}
		if err == nil {
			h.held, h.next = h.next, nil

			return state, nil
		}
		waits = fmt.Errorf("consul: what the agent gave is not used yet: %w", err)
	}
	if h.held != nil {
		// It was well once; where it is of another trust domain, it is of a cluster
		// that is no more.
		if state, err := stateOf(h.held, bundles); err == nil {
			return state, waits
		}
	}

	return &identity.State{TrustDomain: h.roots.trustDomain, Bundles: bundles}, waits
}

func stateOf(c *certificate, bundles map[spiffeid.TrustDomain]*identity.Bundle) (*identity.State, error) {
	return identity.NewState(c.pair, bundles, c.obtained)
}

// pace is when to ask again: after a rest, or at once when it hurries.
type pace struct {
	mu      sync.Mutex
	until   time.Time
	hurried chan struct{}
}

func newPace() *pace { return &pace{hurried: make(chan struct{}, 1)} }

func (p *pace) set(rest time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()

	p.until = time.Now().Add(rest)
}

// hurry has the next attempts not wait, until set says again for how long.
func (p *pace) hurry() {
	p.mu.Lock()
	p.until = time.Time{}
	p.mu.Unlock()
	select {
	case p.hurried <- struct{}{}:
	default:
	}
}

// wait returns when it is time, and false where ctx ends before.
func (p *pace) wait(ctx context.Context) bool {
	p.mu.Lock()
	rest := time.Until(p.until)
	p.mu.Unlock()
	if rest <= 0 {
		select {
		case <-p.hurried: // this is what was hurried
		default:
		}

		return ctx.Err() == nil
	}
	timer := time.NewTimer(rest)
	defer timer.Stop()

	select {
	case <-timer.C:
	case <-p.hurried:
	case <-ctx.Done():
		return false
	}

	return true
}

package consul

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/pillion-proxy/pillion/identity"
)

// shortLived is a lifetime below which an agent makes a new certificate at each
// question, instead of at a moment between 60 and 90 % of it: it is we who have to wait.
const shortLived = 10 * time.Minute

// certificate is one that Connect's CA gave the own service, with its key.
type certificate struct {
	pair *tls.Certificate
	// chain is what the pair presents, the leaf first.
	chain    []*x509.Certificate
	obtained time.Time
}

func scopeCertificate(service string) string { return "certificate of " + service }

// askCertificate asks for the certificate of a service once.
func (a *agent) askCertificate(ctx context.Context, service string, options *api.QueryOptions) asked[*certificate] {
	what, scope := "get a certificate for service "+strconv.Quote(service), scopeCertificate(service)
	found, meta, err := a.api.Agent().ConnectCALeaf(service, options.WithContext(here(ctx, alteration{})))
	var made *certificate
	if err == nil {
		if made, err = certificateOf(found, service, time.Now()); err != nil {
			err = unusable{err}
		}
	}
	if err != nil {
		failure := a.explain(err, what, rule("service", service, "write"))
		if !errors.Is(ctx.Err(), context.Canceled) {
			a.note(scope, failure)
		}

		return asked[*certificate]{err: failure}
	}
	a.noteSuccess(scope)

	return asked[*certificate]{value: made, index: meta.LastIndex}
}

// certificateOf checks an answer in so far as that takes no roots. No error holds
// anything of the key.
func certificateOf(found *api.LeafCert, service string, now time.Time) (*certificate, error) {
	pair, err := tls.X509KeyPair([]byte(found.CertPEM), []byte(found.PrivateKeyPEM))
	if err != nil {
		return nil, err
	}
	made := &certificate{pair: &pair, obtained: now}
	for _, der := range pair.Certificate {
		one, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		made.chain = append(made.chain, one)
	}
	pair.Leaf = made.chain[0]

	id, err := identity.IDOf(pair.Leaf)
	if err != nil {
		return nil, fmt.Errorf("the certificate %w", err)
	}
	if consul, ok := identity.ParseConsulID(id); !ok || consul.Service != service {
		return nil, fmt.Errorf("the certificate is for %s", id)
	}
	if now.After(pair.Leaf.NotAfter) {
		return nil, fmt.Errorf("the certificate has expired at %s; are this machine's and Consul's clocks right?", pair.Leaf.NotAfter.UTC().Format(time.RFC3339))
	}

	return made, nil
}

// rest is how long to wait before asking for the next one, so that a short-lived
// certificate is renewed about half-way.
func (c *certificate) rest(random float64) time.Duration {
	leaf := c.chain[0]
	if leaf.NotAfter.Sub(leaf.NotBefore) >= shortLived {
		return 0
	}
	left := max(0, leaf.NotAfter.Sub(c.obtained))

	return time.Duration((0.45 + 0.1*random) * float64(left))
}

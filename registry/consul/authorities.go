package consul

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/consul/api"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/pillion-proxy/pillion/identity"
)

// scopeRoots is that of the troubles with the roots of Connect's CA.
const scopeRoots = "roots"

// maxRoots bounds the roots; during rotations there are two or three.
const maxRoots = 100

// errNoCA is what Consul's answer says until its CA has been set up.
var errNoCA = errors.New("there is no CA yet")

// authorities are whom Consul's Connect CA is made of: its trust domain, and its roots,
// that of the present and those of the past whose leaves are still about.
type authorities struct {
	trustDomain spiffeid.TrustDomain
	bundle      *identity.Bundle
}

// same says whether both believe the same.
func (a *authorities) same(other *authorities) bool {
	return a.trustDomain == other.trustDomain && slices.EqualFunc(a.bundle.Roots, other.bundle.Roots, (*x509.Certificate).Equal)
}

// askAuthorities asks for the roots once.
func (a *agent) askAuthorities(ctx context.Context, options *api.QueryOptions) asked[*authorities] {
	found, meta, err := a.api.Agent().ConnectCARoots(options.WithContext(here(ctx, alteration{})))
	what := "read the roots of Connect's CA"
	var made *authorities
	if err == nil {
		if made, err = authoritiesOf(found); err != nil {
			err = unusable{err}
		}
	}
	if err != nil {
		failure := a.explain(err, what)
		if !errors.Is(ctx.Err(), context.Canceled) {
			a.note(scopeRoots, failure)
		}

		return asked[*authorities]{err: failure}
	}
	a.noteSuccess(scopeRoots)

	return asked[*authorities]{value: made, index: meta.LastIndex}
}

// authoritiesOf checks an answer. Intermediates, those that sign a new root by an old
// one included, come with the leaves that they stand behind: only roots are believed.
func authoritiesOf(list *api.CARootList) (*authorities, error) {
	if list == nil || list.TrustDomain == "" || len(list.Roots) == 0 {
		return nil, errNoCA
	}
	trustDomain, err := spiffeid.TrustDomainFromString(strings.ToLower(list.TrustDomain))
	if err != nil {
		return nil, fmt.Errorf("trust domain %.100q: %w", list.TrustDomain, err)
	}
	if len(list.Roots) > maxRoots {
		return nil, fmt.Errorf("there are %d roots, more than %d", len(list.Roots), maxRoots)
	}

	var roots []*x509.Certificate
	for _, root := range list.Roots {
		if root == nil {
			continue
		}
		found, err := certificatesIn(root.RootCertPEM)
		if err != nil {
			return nil, fmt.Errorf("root %.100q: %w", root.Name, err)
		}
		for _, certificate := range found {
			if !slices.ContainsFunc(roots, certificate.Equal) {
				roots = append(roots, certificate)
			}
		}
	}
	if len(roots) == 0 {
		return nil, errNoCA
	}

	return &authorities{trustDomain: trustDomain, bundle: identity.NewBundle(roots)}, nil
}

// certificatesIn parses all certificates of a PEM text; none is an error.
func certificatesIn(text string) (found []*x509.Certificate, err error) {
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		found = append(found, certificate)
	}
	if len(found) == 0 {
		return nil, errors.New("holds no certificate")
	}

	return found, nil
}

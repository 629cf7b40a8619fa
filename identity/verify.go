package identity

import (
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// maxChain is the most certificates that a peer may present: a leaf, and more
// intermediates than anybody uses.
const maxChain = 10

// Peer is who somebody has proven to be.
type Peer struct {
	// ID is the SPIFFE ID in the leaf.
	ID spiffeid.ID
	// Leaf is its certificate, the first of Chain.
	Leaf *x509.Certificate
	// Chain is what it presented, intermediates included, so that it can be verified
	// anew when the roots have changed.
	Chain []*x509.Certificate
	// NotAfter is when what was proven ends: the earliest end in the chain from the leaf
	// to the root, and where there are several chains, in the one that lasts longest.
	NotAfter time.Time
	// Service, Namespace, Partition and Datacenter are what an ID in Consul's form says;
	// all empty for others.
	Service, Namespace, Partition, Datacenter string
}

// Verify says who presented a chain of certificates, the leaf first, if by this state it
// is an X.509-SVID that may be used so at that time: its one URI SAN is a SPIFFE ID, it
// is no CA, its usages are right, and it chains to a root of the ID's own trust
// domain. Whether that is who is wanted is not its business. An error is one line that
// says what was found, and belongs in a sentence like "the certificate of 10.0.0.7:1234 ...".
func (s *State) Verify(chain []*x509.Certificate, usage x509.ExtKeyUsage, now time.Time) (*Peer, error) {
	switch {
	case len(chain) == 0:
		return nil, errors.New("is missing: none was presented")
	case len(chain) > maxChain:
		return nil, fmt.Errorf("comes with %d others, and %d are the most", len(chain)-1, maxChain-1)
	}
	leaf := chain[0]
	id, err := checkLeaf(leaf, usage)
	if err != nil {
		return nil, err
	}
	if err := checkTime(leaf, now); err != nil {
		return nil, fmt.Errorf("(%s) %w", id, err)
	}
	bundle := s.Bundles[id.TrustDomain()]
	if bundle == nil {
		return nil, fmt.Errorf("(%s) is of the trust domain %q, for which there are no roots here: there are those of %s", id, id.TrustDomain().Name(), s.domains())
	}
	notAfter, err := verifyChain(chain, bundle, usage, now)
	if err != nil {
		return nil, fmt.Errorf("(%s) does not chain to the roots of its trust domain: %w", id, err)
	}
	p := &Peer{ID: id, Leaf: leaf, Chain: chain, NotAfter: notAfter}
	if c, ok := ParseConsulID(id); ok {
		p.Service, p.Namespace, p.Partition, p.Datacenter = c.Service, c.Namespace, c.Partition, c.Datacenter
	}
	return p, nil
}

// checkLeaf holds a leaf against the X.509-SVID specification, sections 2 to 4.
func checkLeaf(leaf *x509.Certificate, usages ...x509.ExtKeyUsage) (spiffeid.ID, error) {
	id, err := IDOf(leaf)
	if err != nil {
		return spiffeid.ID{}, err
	}
	switch {
	case leaf.IsCA:
		return spiffeid.ID{}, fmt.Errorf("(%s) is a CA's own, and no CA may be a peer", id)
	case leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return spiffeid.ID{}, fmt.Errorf("(%s) has not the key usage digitalSignature", id)
	case leaf.KeyUsage&x509.KeyUsageCertSign != 0:
		return spiffeid.ID{}, fmt.Errorf("(%s) has the key usage keyCertSign, which a leaf may not have", id)
	case leaf.KeyUsage&x509.KeyUsageCRLSign != 0:
		return spiffeid.ID{}, fmt.Errorf("(%s) has the key usage cRLSign, which a leaf may not have", id)
	}
	if len(leaf.ExtKeyUsage) == 0 && len(leaf.UnknownExtKeyUsage) == 0 {
		return id, nil // for every use
	}
	for _, usage := range usages {
		if !slices.Contains(leaf.ExtKeyUsage, usage) && !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageAny) {
			return spiffeid.ID{}, fmt.Errorf("(%s) may not be used as a %s's: it has not the extended key usage %s", id, usageRoles[usage], usageNames[usage])
		}
	}
	return id, nil
}

var (
	usageNames = map[x509.ExtKeyUsage]string{x509.ExtKeyUsageClientAuth: "clientAuth", x509.ExtKeyUsageServerAuth: "serverAuth"}
	usageRoles = map[x509.ExtKeyUsage]string{x509.ExtKeyUsageClientAuth: "client", x509.ExtKeyUsageServerAuth: "server"}
)

// checkTime says whether a certificate is valid at a time.
func checkTime(cert *x509.Certificate, now time.Time) error {
	switch {
	case now.After(cert.NotAfter):
		return fmt.Errorf("has expired: it was valid until %s, %s ago", moment(cert.NotAfter), now.Sub(cert.NotAfter).Round(time.Second))
	case now.Before(cert.NotBefore):
		return fmt.Errorf("is not valid yet: it will be from %s, in %s; are both clocks right?", moment(cert.NotBefore), cert.NotBefore.Sub(now).Round(time.Second))
	}
	return nil
}

func moment(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// verifyChain returns when the chain that lasts longest ends.
func verifyChain(chain []*x509.Certificate, bundle *Bundle, usage x509.ExtKeyUsage, now time.Time) (time.Time, error) {
	o := x509.VerifyOptions{Roots: bundle.Pool, KeyUsages: []x509.ExtKeyUsage{usage}, CurrentTime: now}
	if len(chain) > 1 {
		o.Intermediates = x509.NewCertPool()
		for _, cert := range chain[1:] {
			o.Intermediates.AddCert(cert)
		}
	}
	verified, err := chain[0].Verify(o)
	if err != nil {
		return time.Time{}, errors.New(strings.ReplaceAll(strings.TrimPrefix(err.Error(), "x509: "), "\n", " "))
	}
	var last time.Time
	for _, way := range verified {
		end := way[0].NotAfter
		for _, cert := range way[1:] {
			if cert.NotAfter.Before(end) {
				end = cert.NotAfter
			}
		}
		if end.After(last) {
			last = end
		}
	}
	return last, nil
}

// domains are the trust domains there are roots of.
func (s *State) domains() string {
	const most = 5
	names := make([]string, 0, len(s.Bundles))
	for td := range maps.Keys(s.Bundles) {
		names = append(names, td.Name())
	}
	slices.Sort(names)
	switch {
	case len(names) == 0:
		return "none"
	case len(names) > most:
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}

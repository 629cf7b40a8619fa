package identity

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// NewState returns the state in which this is the own certificate, if it is an
// X.509-SVID that can be used for both sides of a connection. Whether it is valid now
// is not asked.
func NewState(cert *tls.Certificate, bundles map[spiffeid.TrustDomain]*Bundle, obtained time.Time) (*State, error) {
	if len(cert.Certificate) == 0 || cert.PrivateKey == nil {
		return nil, errors.New("the certificate is missing, or its key")
	}
	if cert.Leaf == nil {
		leaf, err := x509.ParseCertificate(cert.Certificate[0])
		if err != nil {
			return nil, fmt.Errorf("the certificate cannot be parsed: %w", err)
		}
		with := *cert
		with.Leaf = leaf
		cert = &with
	}
	id, err := checkLeaf(cert.Leaf, x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth)
	if err != nil {
		return nil, fmt.Errorf("the certificate %w", err)
	}
	if bundles[id.TrustDomain()] == nil {
		return nil, fmt.Errorf("the certificate (%s) is of the trust domain %q, for which there are no roots", id, id.TrustDomain().Name())
	}
	return &State{Certificate: cert, ID: id, TrustDomain: id.TrustDomain(), Bundles: bundles, Obtained: obtained}, nil
}

// Expiry is when the own certificate ends; zero where there is none.
func (s *State) Expiry() time.Time {
	if s.Certificate == nil {
		return time.Time{}
	}
	return s.Certificate.Leaf.NotAfter
}

// SameCertificate says whether both have the same own certificate, or none.
func (s *State) SameCertificate(other *State) bool {
	if s.Certificate == nil || other.Certificate == nil {
		return s.Certificate == other.Certificate
	}
	return slices.EqualFunc(s.Certificate.Certificate, other.Certificate.Certificate, bytes.Equal)
}

// SameRoots says whether both believe the same roots.
func (s *State) SameRoots(other *State) bool {
	if len(s.Bundles) != len(other.Bundles) {
		return false
	}
	for td, bundle := range s.Bundles {
		o := other.Bundles[td]
		if o == nil || !sameCertificates(bundle.Roots, o.Roots) {
			return false
		}
	}
	return true
}

// sameCertificates compares sets of certificates: their order means nothing.
func sameCertificates(a, b []*x509.Certificate) bool {
	within := func(a, b []*x509.Certificate) bool {
		return !slices.ContainsFunc(a, func(cert *x509.Certificate) bool {
			return !slices.ContainsFunc(b, cert.Equal)
		})
	}
	return within(a, b) && within(b, a)
}

// chainsToOwn says why the own certificate does not chain to the own roots.
func (s *State) chainsToOwn(now time.Time) error {
	chain := make([]*x509.Certificate, 0, len(s.Certificate.Certificate))
	for _, der := range s.Certificate.Certificate {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return fmt.Errorf("has an intermediate that cannot be parsed: %w", err)
		}
		chain = append(chain, cert)
	}
	_, err := s.Verify(chain, x509.ExtKeyUsageClientAuth, now)
	return err
}

// String says what a state is about. No key is in it.
func (s State) String() string {
	if s.Certificate == nil {
		return fmt.Sprintf("no certificate in %s, roots of %s", s.TrustDomain.Name(), s.domains())
	}
	return fmt.Sprintf("%s until %s, roots of %s", s.ID, moment(s.Expiry()), s.domains())
}

// Format prints String, whatever the verb: with some, the fields would be printed, and
// the key is among them.
func (s State) Format(f fmt.State, _ rune) {
	_, _ = f.Write([]byte(s.String()))
}

// MarshalText keeps the key out of JSON too.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

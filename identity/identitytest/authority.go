// Package identitytest makes certificates for tests: authorities, leaves that are right
// or wrong in any way, and a source that a test can rotate. It is for tests alone.
package identitytest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/pillion-proxy/pillion/identity"
)

// Authority is a CA of a trust domain.
type Authority struct {
	t testing.TB
	// TrustDomain is the one whose certificates it issues.
	TrustDomain spiffeid.TrustDomain
	// Root is its own certificate, Key the key of it.
	Root *x509.Certificate
	Key  crypto.Signer
	// between are the intermediates that go along with its leaves, the nearest first.
	between []*x509.Certificate
	signer  *x509.Certificate
}

// CA returns a new authority of a trust domain. Two of the same domain are strangers to
// each other.
func CA(t testing.TB, trustDomain string, options ...Option) *Authority {
	t.Helper()
	td, err := spiffeid.TrustDomainFromString(trustDomain)
	if err != nil {
		t.Fatalf("identitytest: %v", err)
	}
	a := &Authority{t: t, TrustDomain: td}
	template := authorityTemplate(td, options)
	a.Key = newKey(t)
	a.Root = sign(t, template, template, a.Key.Public(), a.Key)
	a.signer = a.Root
	return a
}

func authorityTemplate(td spiffeid.TrustDomain, options []Option) *x509.Certificate {
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "test CA " + rand.Text()[:6]},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(10 * 365 * 24 * time.Hour),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, IsCA: true, BasicConstraintsValid: true,
		URIs: []*url.URL{td.ID().URL()},
	}
	for _, option := range options {
		option(template)
	}
	return template
}

// Intermediate returns an authority below this one: what it issues comes with its
// certificate, and chains to this one's root.
func (a *Authority) Intermediate(options ...Option) *Authority {
	a.t.Helper()
	key := newKey(a.t)
	cert := sign(a.t, authorityTemplate(a.TrustDomain, options), a.signer, key.Public(), a.Key)
	return &Authority{
		t: a.t, TrustDomain: a.TrustDomain, Root: a.Root, Key: key,
		between: append([]*x509.Certificate{cert}, a.between...), signer: cert,
	}
}

// CrossSigned returns next with its root signed by this authority too, as Consul does
// when its root is rotated: what it issues chains to both roots.
func (a *Authority) CrossSigned(next *Authority) *Authority {
	a.t.Helper()
	template := *next.Root
	template.SerialNumber = serial()
	cert := sign(a.t, &template, a.signer, next.Key.Public(), a.Key)
	with := *next
	with.between = append(append([]*x509.Certificate{}, next.between...), cert)
	return &with
}

// Bundle is the roots: the authority's own, and those of others.
func (a *Authority) Bundle(others ...*Authority) *identity.Bundle {
	roots := []*x509.Certificate{a.Root}
	for _, other := range others {
		roots = append(roots, other.Root)
	}
	return identity.NewBundle(roots)
}

// Bundles are those of the authority's trust domain and of others; several authorities
// of one domain are in one bundle.
func (a *Authority) Bundles(others ...*Authority) map[spiffeid.TrustDomain]*identity.Bundle {
	roots := map[spiffeid.TrustDomain][]*x509.Certificate{a.TrustDomain: {a.Root}}
	for _, other := range others {
		roots[other.TrustDomain] = append(roots[other.TrustDomain], other.Root)
	}
	bundles := make(map[spiffeid.TrustDomain]*identity.Bundle, len(roots))
	for td, list := range roots {
		bundles[td] = identity.NewBundle(list)
	}
	return bundles
}

// Option changes a certificate before it is signed.
type Option func(*x509.Certificate)

// TTL ends a certificate so long from now.
func TTL(d time.Duration) Option {
	return func(c *x509.Certificate) { c.NotAfter = time.Now().Add(d) }
}

// From begins a certificate's validity so long from now.
func From(d time.Duration) Option {
	return func(c *x509.Certificate) { c.NotBefore = time.Now().Add(d) }
}

// Usage sets the extended key usages; none for any.
func Usage(usages ...x509.ExtKeyUsage) Option {
	return func(c *x509.Certificate) { c.ExtKeyUsage = usages }
}

// URIs replaces the URI SANs.
func URIs(uris ...string) Option {
	return func(c *x509.Certificate) {
		c.URIs = nil
		for _, text := range uris {
			uri, err := url.Parse(text)
			if err != nil {
				panic(err)
			}
			c.URIs = append(c.URIs, uri)
		}
	}
}

// DNS adds DNS SANs.
func DNS(names ...string) Option {
	return func(c *x509.Certificate) { c.DNSNames = append(c.DNSNames, names...) }
}

// Issue returns a leaf with its key and intermediates. The ID is a whole one, or the
// path of one in the trust domain, such as "/svc/web". It is valid for a day, for
// both sides of a connection, unless options say otherwise.
func (a *Authority) Issue(id string, options ...Option) *tls.Certificate {
	a.t.Helper()
	if id != "" && id[0] == '/' {
		id = "spiffe://" + a.TrustDomain.Name() + id
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "test leaf"},
		NotBefore: now.Add(-time.Minute), NotAfter: now.Add(24 * time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	URIs(id)(template)
	for _, option := range options {
		option(template)
	}
	key := newKey(a.t)
	leaf := sign(a.t, template, a.signer, key.Public(), a.Key)
	cert := &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
	for _, c := range a.between {
		cert.Certificate = append(cert.Certificate, c.Raw)
	}
	return cert
}

// State returns the state of a sidecar with a certificate of this authority's, which
// believes its root and those of others.
func (a *Authority) State(cert *tls.Certificate, others ...*Authority) *identity.State {
	a.t.Helper()
	if cert == nil {
		return &identity.State{TrustDomain: a.TrustDomain, Bundles: a.Bundles(others...)}
	}
	state, err := identity.NewState(cert, a.Bundles(others...), time.Now())
	if err != nil {
		a.t.Fatalf("identitytest: %v", err)
	}
	return state
}

// Chain is the parsed chain of a certificate, the leaf first.
func Chain(t testing.TB, cert *tls.Certificate) []*x509.Certificate {
	t.Helper()
	chain := make([]*x509.Certificate, 0, len(cert.Certificate))
	for _, der := range cert.Certificate {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatalf("identitytest: %v", err)
		}
		chain = append(chain, c)
	}
	return chain
}

// Write writes leaf.pem (the chain), key.pem and roots.pem to a folder, as the source
// "files" reads them.
func (a *Authority) Write(folder string, cert *tls.Certificate, others ...*Authority) {
	a.t.Helper()
	roots := RootsPEM(append([]*Authority{a}, others...)...)
	for name, data := range map[string][]byte{"leaf.pem": ChainPEM(cert), "key.pem": KeyPEM(a.t, cert), "roots.pem": roots} {
		// Replaced, not written in place: a reader sees one or the other.
		path := filepath.Join(folder, name)
		if err := os.WriteFile(path+".new", data, 0o600); err != nil {
			a.t.Fatalf("identitytest: %v", err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			a.t.Fatalf("identitytest: %v", err)
		}
	}
}

// RootsPEM are the roots of authorities in PEM.
func RootsPEM(authorities ...*Authority) (text []byte) {
	for _, a := range authorities {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Root.Raw})...)
	}
	return text
}

// ChainPEM is a certificate with its intermediates in PEM.
func ChainPEM(cert *tls.Certificate) (text []byte) {
	for _, der := range cert.Certificate {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return text
}

// KeyPEM is a certificate's key in PEM.
func KeyPEM(t testing.TB, cert *tls.Certificate) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatalf("identitytest: %v", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// newKey returns a new key, of ECDSA on P-256.
func newKey(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatalf("identitytest: %v", err)
	}
	return key
}

func sign(t testing.TB, template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		t.Fatalf("identitytest: %v", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatalf("identitytest: %v", err)
	}
	return cert
}

func serial() *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		panic(err)
	}
	return n
}

package identity_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/pillion-proxy/pillion/identity"
)

// FuzzIDOf makes certificates of any names, as bytes of the extension or as URIs, one a
// line. What is found to be an ID is what go-spiffe finds; and what go-spiffe finds in a
// single URI that is written canonically is found.
func FuzzIDOf(f *testing.F) {
	for _, uris := range []string{
		"spiffe://example.org/svc/web", "spiffe://example.org", "spiffe://a/b\nspiffe://a/c", "SPIFFE://a/b", "spiffe://a/b#", "spiffe://a/b?",
		"spiffe://@a/b", "spiffe://a:/b", "spiffe://a/%62", "spiffe://a%2eb/c", "https://a/b", "spiffe:a", "",
	} {
		f.Add([]byte(nil), uris)
		f.Add(names(strings.Split(uris, "\n")), "")
	}
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	f.Fuzz(func(t *testing.T, raw []byte, text string) {
		var uris []string
		if len(raw) == 0 {
			uris = strings.Split(text, "\n")
			raw = names(uris)
		}
		cert := certificate(key, raw)
		if cert == nil {
			return // crypto/x509 takes it for none
		}
		got, err := identity.IDOf(cert)
		want, wantErr := x509svid.IDFromCert(cert)
		if err == nil && (wantErr != nil || got != want || got.Path() == "") {
			t.Errorf("names %q: %v, where go-spiffe says %v, %v", raw, got, want, wantErr)
		}
		if len(uris) != 1 {
			return
		}
		id, idErr := spiffeid.FromString(uris[0])
		canonical := idErr == nil && id.Path() != "" && len(uris[0]) <= 2048 && len(id.TrustDomain().Name()) <= 255
		if canonical != (err == nil) {
			t.Errorf("URI %q: %v, %v", uris[0], got, err)
		}
	})
}

// names is a SAN extension of these URIs.
func names(uris []string) []byte {
	list := make([]asn1.RawValue, 0, len(uris))
	for _, uri := range uris {
		list = append(list, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(uri)})
	}
	raw, err := asn1.Marshal(list)
	if err != nil {
		panic(err)
	}
	return raw
}

func certificate(key ed25519.PrivateKey, san []byte) *x509.Certificate {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1, 0),
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: san}},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil
	}
	return cert
}

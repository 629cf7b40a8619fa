// Package dev is a certificate authority for first steps and tests, in memory or in a
// folder, and a source of identity that signs its own certificates with it. It is
// not for production: whoever can read the CA's key can be anybody.
package dev

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/pillion-proxy/pillion/identity"
)

// The files of a CA in its folder.
const (
	// RootsFile holds the CA's certificate. It is no secret.
	RootsFile = "roots.pem"
	// KeyFile holds its key.
	KeyFile = "ca-key.pem"
)

const (
	// life is how long a CA is valid.
	life = 10 * 365 * 24 * time.Hour
	// backdated is how far into the past a certificate's validity begins at most, for
	// clocks that differ.
	backdated = time.Minute
)

// CA is a certificate authority of one trust domain.
type CA struct {
	td   spiffeid.TrustDomain
	root *x509.Certificate
	key  crypto.Signer
	// folder is "" for one in memory.
	folder string
}

// NewCA makes a CA in memory.
func NewCA(td spiffeid.TrustDomain) (*CA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("key of a new CA: %w", err)
	}
	number, err := serial()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: number,
		Subject:      pkix.Name{Organization: []string{"Pillion"}, CommonName: "Development CA of " + td.Name()},
		NotBefore:    now.Add(-backdated), NotAfter: now.Add(life),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		IsCA:     true, BasicConstraintsValid: true, MaxPathLenZero: true,
		// X.509-SVID, section 2: a signing certificate has its trust domain's ID.
		URIs: []*url.URL{td.ID().URL()},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("certificate of a new CA: %w", err)
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("certificate of a new CA: %w", err)
	}
	return &CA{td: td, root: root, key: key}, nil
}

// Create makes a CA in a folder, which is made if it is missing. It never overwrites
// one.
func Create(folder string, td spiffeid.TrustDomain) (*CA, error) {
	ca, err := NewCA(td)
	if err != nil {
		return nil, err
	}
	for _, name := range []string{RootsFile, KeyFile} {
		if _, err := os.Lstat(filepath.Join(folder, name)); err == nil {
			return nil, fmt.Errorf("%s is there already, and no CA is overwritten: choose another folder, or remove it", filepath.Join(folder, name))
		}
	}
	if err := os.MkdirAll(folder, 0o755); err != nil { //nolint:gosec // the roots in it are for everybody to read
		return nil, fmt.Errorf("folder of a new CA: %w", err)
	}
	key, err := keyPEM(ca.key)
	if err != nil {
		return nil, err
	}
	roots := certificatesPEM([][]byte{ca.root.Raw})
	if err := write(filepath.Join(folder, KeyFile), key, 0o600, false); err != nil {
		return nil, err
	}
	if err := write(filepath.Join(folder, RootsFile), roots, 0o644, false); err != nil {
		return nil, err
	}
	ca.folder = folder
	return ca, nil
}

// Open reads a CA from its folder.
func Open(folder string) (*CA, error) {
	rootsPath, keyPath := filepath.Join(folder, RootsFile), filepath.Join(folder, KeyFile)
	roots, err := identity.ReadFile(rootsPath)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no CA is in %s, for %s is missing: pillion ca init %s makes one", folder, rootsPath, folder)
	}
	if err != nil {
		return nil, fmt.Errorf("CA's certificate %w", err)
	}
	key, err := identity.ReadKeyFile(keyPath)
	if err != nil {
		return nil, fmt.Errorf("CA's key %w", err)
	}
	pair, err := identity.ParsePair(roots, key)
	if err != nil {
		return nil, fmt.Errorf("CA in %s: %w", folder, err)
	}
	if _, err := identity.ParseRoots(roots); err != nil {
		return nil, fmt.Errorf("CA in %s: %w", folder, err)
	}
	signer, ok := pair.PrivateKey.(crypto.Signer)
	if !ok || len(pair.Leaf.URIs) != 1 {
		return nil, fmt.Errorf("CA in %s was not made by pillion ca init: no trust domain is in its certificate", folder)
	}
	id, err := identity.ParseID(pair.Leaf.URIs[0].String())
	if err != nil {
		return nil, fmt.Errorf("CA in %s: trust domain: %w", folder, err)
	}
	return &CA{td: id.TrustDomain(), root: pair.Leaf, key: signer, folder: folder}, nil
}

// TrustDomain is the one whose certificates it issues.
func (ca *CA) TrustDomain() spiffeid.TrustDomain { return ca.td }

// Root is the CA's own certificate.
func (ca *CA) Root() *x509.Certificate { return ca.root }

// Bundle is its root.
func (ca *CA) Bundle() *identity.Bundle {
	return identity.NewBundle([]*x509.Certificate{ca.root})
}

// Issue signs a certificate for an ID of the trust domain, of a new key, that is valid
// from now on for ttl (rounded up to seconds, and no longer than the CA).
func (ca *CA) Issue(id spiffeid.ID, ttl time.Duration, now time.Time) (*tls.Certificate, error) {
	switch {
	case !id.MemberOf(ca.td):
		return nil, fmt.Errorf("%s is not of the CA's trust domain, which is %q", id, ca.td.Name())
	case id.Path() == "":
		return nil, fmt.Errorf("%s has no path, such as /svc/web: it is a trust domain, and nobody in it", id)
	case ttl <= 0:
		return nil, fmt.Errorf("a certificate cannot be valid for %s", ttl)
	case now.After(ca.root.NotAfter):
		return nil, fmt.Errorf("the CA itself has expired at %s", ca.root.NotAfter.UTC().Format(time.RFC3339))
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("key for %s: %w", id, err)
	}
	number, err := serial()
	if err != nil {
		return nil, err
	}
	end := now.Add(ttl + time.Second - 1).Truncate(time.Second)
	if end.After(ca.root.NotAfter) {
		end = ca.root.NotAfter
	}
	template := &x509.Certificate{
		SerialNumber: number,
		// A part of a tenth at most, so that half of the lifetime stays near half of ttl.
		NotBefore: now.Add(-min(backdated, ttl/10)), NotAfter: end,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		URIs:                  []*url.URL{id.URL()},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.root, key.Public(), ca.key)
	if err != nil {
		return nil, fmt.Errorf("certificate for %s: %w", id, err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("certificate for %s: %w", id, err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}

// Save writes a certificate that the CA has issued to the files that the source "files"
// reads: its key readable by its owner alone. Where files are there already
// they are replaced if overwrite says so, each as a whole.
func Save(cert *tls.Certificate, certificate, key string, overwrite bool) error {
	text, err := keyPEM(cert.PrivateKey)
	if err != nil {
		return err
	}
	for _, path := range []string{certificate, key} {
		if _, err := os.Lstat(path); err == nil && !overwrite {
			return fmt.Errorf("%s is there already, and is not overwritten without --overwrite", path)
		}
	}
	if err := write(key, text, 0o600, overwrite); err != nil {
		return err
	}
	return write(certificate, certificatesPEM(cert.Certificate), 0o644, overwrite)
}

func serial() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("serial number: %w", err)
	}
	return n, nil
}

func keyPEM(key crypto.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func certificatesPEM(chain [][]byte) []byte {
	var text strings.Builder
	for _, der := range chain {
		_ = pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: der}) // a Builder takes all
	}
	return []byte(text.String())
}

// write makes a file with this mode, or, if overwrite says so, puts another one into
// its place.
func write(path string, data []byte, mode fs.FileMode, overwrite bool) error {
	to := path
	if overwrite {
		to = path + ".new"
		_ = os.Remove(to) // left by one that was interrupted
	}
	file, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return fmt.Errorf("%s cannot be made: %w", path, withoutPath(err))
	}
	_, err = file.Write(data)
	err = errors.Join(err, file.Close())
	if err == nil && overwrite {
		err = os.Rename(to, path)
	}
	if err != nil {
		_ = os.Remove(to)
		return fmt.Errorf("%s cannot be written: %w", path, withoutPath(err))
	}
	return nil
}

// withoutPath leaves out what the message around it says already.
func withoutPath(err error) error {
	if pathError, ok := errors.AsType[*fs.PathError](err); ok {
		return pathError.Err
	}
	return err
}

package identity

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

// ParsePair reads a certificate, followed by its intermediates, and its key from PEM.
// No error shows what is in a key.
func ParsePair(chain, key []byte) (*tls.Certificate, error) {
	if _, err := parseCertificates(chain); err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return nil, errors.New(strings.TrimPrefix(err.Error(), "tls: "))
	}
	return &pair, nil
}

// ParseRoots reads the certificates of authorities from PEM, one at least.
func ParseRoots(text []byte) ([]*x509.Certificate, error) {
	roots, err := parseCertificates(text)
	if err != nil {
		return nil, err
	}
	for _, root := range roots {
		if !root.BasicConstraintsValid || !root.IsCA {
			return nil, fmt.Errorf("the certificate of %q is no CA's, so it cannot be a root", shorten(root.Subject.String()))
		}
	}
	return roots, nil
}

func parseCertificates(text []byte) (certs []*x509.Certificate, err error) {
	for {
		var block *pem.Block
		block, text = pem.Decode(text)
		if block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d cannot be parsed: %w", len(certs)+1, err)
		}
		certs = append(certs, cert)
	}
	// What is cut off in the middle is no block to pem, and must not pass for its end.
	if bytes.Contains(text, []byte("-----BEGIN ")) {
		return nil, fmt.Errorf("what follows certificate %d is not whole", len(certs))
	}
	if len(certs) == 0 {
		return nil, errors.New("no certificate is in it (PEM, CERTIFICATE)")
	}
	return certs, nil
}

package main

import (
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/pillion-proxy/pillion/identity/dev"
)

// benchDomain is the trust domain of the part about TLS.
const benchDomain = "bench.test"

// Names of the services whose certificates are used: who calls, and who is called.
const (
	callerName = "web"
	calledName = "b"
)

// certificates are the files of a folder with an authority's root and a certificate for
// each side, of ECDSA P-256 keys, as SPIRE and Consul issue them by default.
type certificates struct{ folder string }

func spiffeID(service string) string { return "spiffe://" + benchDomain + "/svc/" + service }

// Roots is the authority's certificate; Cert and Key are a service's; Both is the two in
// one file, as HAProxy wants them.
func (c certificates) Roots() string              { return filepath.Join(c.folder, dev.RootsFile) }
func (c certificates) Cert(service string) string { return filepath.Join(c.folder, service+".pem") }
func (c certificates) Key(service string) string  { return filepath.Join(c.folder, service+".key") }
func (c certificates) Both(service string) string {
	return filepath.Join(c.folder, service+"-both.pem")
}

// makeCertificates makes them in a folder that is not there yet.
func makeCertificates(folder string) (certificates, error) {
	c := certificates{folder}
	td, err := spiffeid.TrustDomainFromString(benchDomain)
	if err != nil {
		return c, err
	}
	ca, err := dev.Create(folder, td)
	if err != nil {
		return c, err
	}
	for _, service := range []string{callerName, calledName} {
		id, err := spiffeid.FromString(spiffeID(service))
		if err != nil {
			return c, err
		}
		certificate, err := ca.Issue(id, 24*time.Hour, time.Now())
		if err != nil {
			return c, err
		}
		if err := dev.Save(certificate, c.Cert(service), c.Key(service), false); err != nil {
			return c, err
		}
		var both []byte
		for _, path := range []string{c.Cert(service), c.Key(service)} {
			text, err := os.ReadFile(path)
			if err != nil {
				return c, err
			}
			both = append(both, text...)
		}
		if err := os.WriteFile(c.Both(service), both, 0o600); err != nil {
			return c, err
		}
	}
	return c, nil
}

// config is that of a plain crypto/tls client or server with a service's certificate. It
// leaves it to the caller whose certificate is wanted.
func (c certificates) config(service string) (*tls.Config, error) {
	certificate, err := tls.LoadX509KeyPair(c.Cert(service), c.Key(service))
	if err != nil {
		return nil, fmt.Errorf("certificate of %s: %w", service, err)
	}
	return &tls.Config{
		Certificates: []tls.Certificate{certificate}, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS13,
	}, nil
}

// root is the authority's certificate.
func (c certificates) root() ([]byte, error) {
	text, err := os.ReadFile(c.Roots())
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s: %w", c.Roots(), errNotFound)
	}
	return block.Bytes, nil
}

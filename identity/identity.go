// Package identity says who this sidecar is and whom it believes: it defines what a
// source of certificates (files, Consul's CA, a SPIFFE Workload API) hands over, keeps
// the newest, and verifies the certificates of others by it. It knows nothing of
// connections, nor of who may call what.
package identity

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// State is what a source knew at one moment. It is immutable once it was handed over.
//
//nolint:recvcheck // what prints has to hold for values too
type State struct {
	// Certificate is the sidecar's own X.509-SVID with its intermediates, its key and
	// its parsed Leaf. It is nil while there is none, so that only others can be
	// verified.
	Certificate *tls.Certificate
	// ID is the SPIFFE ID in it; zero where there is none.
	ID spiffeid.ID
	// TrustDomain is the own one, also while there is no certificate.
	TrustDomain spiffeid.TrustDomain
	// Bundles are the roots by trust domain: the own one's and those federated with it.
	// What is not there is not believed.
	Bundles map[spiffeid.TrustDomain]*Bundle
	// Obtained is when the certificate came.
	Obtained time.Time
}

// Bundle is the roots of a trust domain.
type Bundle struct {
	// Roots are the certificates of its authorities.
	Roots []*x509.Certificate
	// Pool holds them.
	Pool *x509.CertPool
}

// NewBundle returns the bundle of these roots.
func NewBundle(roots []*x509.Certificate) *Bundle {
	b := &Bundle{Roots: roots, Pool: x509.NewCertPool()}
	for _, root := range roots {
		b.Pool.AddCert(root)
	}
	return b
}

// Source is where an identity comes from.
type Source interface {
	// Watch hands each state over to update, the first as soon as it is known, until
	// ctx ends, and then returns. Calls to update never overlap, and update must not
	// block. An error of the source's own never ends a watch: what was known last goes
	// on holding, and the source goes on trying.
	Watch(ctx context.Context, update func(*State))
	// Status says how the source is doing.
	Status() Status
}

// Status is how a source is doing.
type Status struct {
	// Kind is what it is: "files", "consul", "spiffe" or "dev".
	Kind string
	// Location is the file's path, the agent's address or the API's socket.
	Location string
	// Err is why it fails now, on one line; nil where it does not.
	Err error
	// Since is when that began.
	Since time.Time
	// RenewsBy is the share of a certificate's lifetime by which a source that is well
	// has a newer one: 0.9 for Consul's agent. 0: 0.7.
	RenewsBy float64
}

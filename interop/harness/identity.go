package harness

import (
	"path"
	"path/filepath"
	"testing"
)

// CA is a CA for development, as `pillion ca init` makes it.
type CA struct{ Dir string }

// TrustDomain is that of every [CA].
const TrustDomain = "example.org"

// NewCA makes a CA in a folder of the test's own.
func NewCA(t testing.TB) *CA {
	t.Helper()

	ca := &CA{Dir: filepath.Join(t.TempDir(), "ca")}
	if code, output := Run(t, Command{Path: Pillion(t), Args: []string{"ca", "init", ca.Dir, "--trust-domain", TrustDomain}}); code != 0 {
		t.Fatalf("pillion ca init: exit %d:\n%s", code, output)
	}

	return ca
}

// ServiceID is the SPIFFE ID of a service's instances.
func ServiceID(service string) string { return "spiffe://" + TrustDomain + "/svc/" + service }

// Identity is a bootstrap's identity: that of a service, signed by the CA.
func (ca *CA) Identity(service string) map[string]any {
	return map[string]any{"dev": map[string]any{"ca": ca.Dir, "id": ServiceID(service)}}
}

// Files are the PEM files of a certificate.
type Files struct{ Certificate, Key, Roots string }

// Issue issues a certificate for a SPIFFE ID.
func (ca *CA) Issue(t testing.TB, id string) Files {
	t.Helper()

	folder := t.TempDir()
	if code, output := Run(t, Command{Path: Pillion(t), Args: []string{"ca", "issue", ca.Dir, "--id", id, "--out", folder}}); code != 0 {
		t.Fatalf("pillion ca issue: exit %d:\n%s", code, output)
	}
	base := filepath.Join(folder, path.Base(id))

	return Files{Certificate: base + ".pem", Key: base + "-key.pem", Roots: ca.Roots()}
}

// Roots is the file of the CA's certificate.
func (ca *CA) Roots() string { return filepath.Join(ca.Dir, "roots.pem") }

// Proven are the keys of metadata in which an app is told who calls.
var Proven = []string{"pillion-peer", "x-forwarded-client-cert"}

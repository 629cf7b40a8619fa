package identity

import (
	"crypto/tls"
	"maps"
	"net"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/pillion-proxy/pillion/identity/identitytest"
	"github.com/pillion-proxy/pillion/interop/harness"
	"github.com/pillion-proxy/pillion/interop/load"
)

const (
	// appService is the service of which most of these tests have an instance.
	appService = "app"
	// callerPath is the path of the SPIFFE ID of who calls it.
	callerPath = "/svc/web"
	// handshakePatience bounds a handshake and what a client waits for after it.
	handshakePatience = 20 * time.Second
)

// newAuthority is a CA of the tests' trust domain: its certificates are what a test wants
// them to be.
func newAuthority(t testing.TB) *identitytest.Authority {
	t.Helper()

	return identitytest.CA(t, harness.TrustDomain)
}

// identityFiles are the PEM files of a sidecar's identity.
type identityFiles struct {
	folder string
	ca     *identitytest.Authority
}

// proveBy writes a certificate, and the roots of its CA and of others.
func proveBy(t testing.TB, ca *identitytest.Authority, certificate *tls.Certificate, others ...*identitytest.Authority) identityFiles {
	t.Helper()

	f := identityFiles{t.TempDir(), ca}
	ca.Write(f.folder, certificate, others...)

	return f
}

// settings are a bootstrap's identity by the files.
func (f identityFiles) settings(further map[string]any) map[string]any {
	identity := map[string]any{"files": map[string]any{
		"certificate": filepath.Join(f.folder, "leaf.pem"), "key": filepath.Join(f.folder, "key.pem"), "roots": filepath.Join(f.folder, "roots.pem"),
	}}
	maps.Copy(identity, further)

	return map[string]any{"identity": identity}
}

// startStrict starts a sidecar beside an app, which takes callers by mutual TLS alone.
// further are fields of its identity.
func startStrict(t testing.TB, ca *identitytest.Authority, app string, further map[string]any) (*harness.Sidecar, identityFiles) {
	t.Helper()

	files := proveBy(t, ca, ca.Issue("/svc/"+appService))

	return harness.StartSidecar(t, harness.Config{
		Service: appService, App: app, Mesh: harness.NewMesh(t, nil), Settings: files.settings(further),
	}), files
}

// shows is the TLS of a client that shows a certificate, or none, and believes everybody.
// Changes make it a bad one.
func shows(certificate *tls.Certificate, changes ...func(*tls.Config)) *tls.Config {
	config := &tls.Config{NextProtos: []string{"h2"}, InsecureSkipVerify: true}
	if certificate != nil {
		// Whatever authorities the server names.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return certificate, nil }
	}
	for _, change := range changes {
		change(config)
	}

	return config
}

// dialTLS shakes hands with a port.
func dialTLS(t testing.TB, address string, config *tls.Config) (*tls.Conn, error) {
	t.Helper()

	raw, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = raw.Close() })
	if err := raw.SetDeadline(time.Now().Add(handshakePatience)); err != nil {
		t.Fatal(err)
	}
	c := tls.Client(raw, config)

	return c, c.HandshakeContext(t.Context())
}

// rpcsOver is a gRPC client by TLS.
func rpcsOver(t testing.TB, address string, config *tls.Config, options ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()

	return load.Dial(t, address, append(options, grpc.WithTransportCredentials(credentials.NewTLS(config)))...)
}

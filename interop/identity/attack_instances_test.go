package identity

import (
	"crypto/tls"
	"crypto/x509"
	"slices"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/pillion-proxy/pillion/identity/identitytest"
	"github.com/pillion-proxy/pillion/interop/harness"
	"github.com/pillion-proxy/pillion/interop/load"
)

// A sidecar sends nothing to an instance that does not prove to be of the service that
// was called. The RPC's error says what is wrong with it.
func TestAttackByInstances(t *testing.T) {
	t.Parallel()

	ca := newAuthority(t)
	type attack struct {
		name, says, tls string
		instance        []grpc.ServerOption
	}
	serves := func(certificate *tls.Certificate, changes ...func(*tls.Config)) []grpc.ServerOption {
		config := &tls.Config{Certificates: []tls.Certificate{*certificate}, ClientAuth: tls.RequestClientCert, MinVersion: tls.VersionTLS10}
		for _, change := range changes {
			change(config)
		}

		return []grpc.ServerOption{grpc.Creds(credentials.NewTLS(config))}
	}
	highest := func(version uint16) func(*tls.Config) { return func(c *tls.Config) { c.MaxVersion = version } }
	attacks := []attack{
		{"another service of the same trust domain", "spiffe://" + harness.TrustDomain + "/svc/other", "", serves(ca.Issue("/svc/other"))},
		{"the caller's own service", "spiffe://" + harness.TrustDomain + callerPath, "", serves(ca.Issue(callerPath))},
		{"TLS 1.2", "protocol version", "", serves(ca.Issue("/svc/app"), highest(tls.VersionTLS12))},
		{"TLS 1.1", "protocol version", "", serves(ca.Issue("/svc/app"), highest(tls.VersionTLS11))},
		{"plaintext", "speaks no TLS", "", nil},
		{"plaintext, as the registry says", "outbound.tls is strict here", "off", nil},
	}
	for _, leaf := range append(slices.Clone(badLeaves), badLeaf{name: "for clients", says: "serverAuth", issue: func(_ testing.TB, ca *identitytest.Authority, path string) *tls.Certificate {
		return ca.Issue(path, identitytest.Usage(x509.ExtKeyUsageClientAuth))
	}}) {
		attacks = append(attacks, attack{name: leaf.name, says: leaf.says, instance: serves(leaf.issue(t, ca, "/svc/app"))})
	}

	services, apps := map[string]harness.Service{}, map[string]*load.App{}
	add := func(service, tls string, options []grpc.ServerOption) {
		apps[service] = load.StartApp(t, service, "", options...)
		services[service] = harness.Service{
			Endpoints: harness.Endpoints(apps[service].Address), TLS: tls,
			Identities: []string{harness.ServiceID("app")},
		}
	}
	for i, a := range attacks {
		add("attack-"+strconv.Itoa(i), a.tls, a.instance)
	}
	add("app", "", serves(ca.Issue("/svc/app")))
	sidecar := harness.StartSidecar(t, harness.Config{
		Outbound: true, Mesh: harness.NewMesh(t, services), Settings: proveBy(t, ca, ca.Issue(callerPath)).settings(nil),
	})
	who := func(service string) error {
		_, err := load.Who(t.Context(), load.Dial(t, sidecar.Outbound, grpc.WithAuthority(service)))

		return err
	}
	for i, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			service := "attack-" + strconv.Itoa(i)
			if err := who(service); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), a.says) {
				t.Errorf("the RPC ends %v\nwant UNAVAILABLE, and something of %q", err, a.says)
			}
			if apps[service].Calls() != 0 {
				t.Error("the RPC came through to the app")
			}
		})
	}

	// It is the attacks that are refused, and not everybody.
	if err := who("app"); err != nil {
		t.Errorf("an instance that proves to be of the service: %v", err)
	}
}

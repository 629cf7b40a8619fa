package identity_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"strings"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/identity"
	"github.com/pillion-proxy/pillion/identity/identitytest"
)

const client, server = x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth

func without(usage x509.KeyUsage) identitytest.Option {
	return func(c *x509.Certificate) { c.KeyUsage &^= usage }
}

func with(usage x509.KeyUsage) identitytest.Option {
	return func(c *x509.Certificate) { c.KeyUsage |= usage }
}

func TestVerifyRefuses(t *testing.T) {
	t.Parallel()
	ours := identitytest.CA(t, "example.org")
	stranger := identitytest.CA(t, "example.org")
	other := identitytest.CA(t, "other.org")
	ending := identitytest.CA(t, "example.org", identitytest.TTL(-time.Minute))
	notCA := identitytest.CA(t, "example.org").Intermediate(func(c *x509.Certificate) {
		c.IsCA, c.KeyUsage = false, x509.KeyUsageDigitalSignature
	})
	state := ours.State(ours.Issue("/svc/me"), identitytest.CA(t, "federated.org"), ending, notCA)
	const web = "/svc/web"
	selfSigned := func() *tls.Certificate {
		return stranger.Issue(web)
	}
	for name, c := range map[string]struct {
		cert  *tls.Certificate
		usage x509.ExtKeyUsage
		want  []string
	}{
		"another trust domain":       {other.Issue(web), client, []string{"spiffe://other.org/svc/web", `"other.org", for which there are no roots here`, "example.org, federated.org"}},
		"a stranger's root":          {selfSigned(), client, []string{"spiffe://example.org/svc/web", "does not chain to the roots"}},
		"another domain's root":      {other.Issue("spiffe://example.org/svc/web"), client, []string{"does not chain to the roots"}},
		"another domain's ID":        {ours.Issue("spiffe://other.org/svc/web"), client, []string{`"other.org", for which there are no roots here`}},
		"federated ID, own root":     {ours.Issue("spiffe://federated.org/svc/web"), client, []string{"spiffe://federated.org/svc/web", "does not chain to the roots"}},
		"expired":                    {ours.Issue(web, identitytest.TTL(-time.Minute)), client, []string{"has expired: it was valid until ", " ago"}},
		"not yet valid":              {ours.Issue(web, identitytest.From(time.Hour)), client, []string{"is not valid yet: it will be from ", "are both clocks right?"}},
		"its root expired":           {ending.Issue(web), client, []string{"does not chain", "expired"}},
		"its intermediate expired":   {ours.Intermediate(identitytest.TTL(-time.Minute)).Issue(web), client, []string{"does not chain"}},
		"its intermediate is no CA":  {notCA.Issue(web), client, []string{"does not chain"}},
		"no SAN":                     {ours.Issue(web, identitytest.URIs()), client, []string{"has no SPIFFE ID (a URI SAN)"}},
		"DNS SAN only":               {ours.Issue(web, identitytest.URIs(), identitytest.DNS("web.example.org")), client, []string{`only the DNS name "web.example.org"`}},
		"several URI SANs":           {ours.Issue(web, identitytest.URIs("spiffe://example.org/svc/web", "spiffe://example.org/svc/admin")), client, []string{"has 2 URI SANs", "svc/web", "svc/admin"}},
		"the same URI SAN twice":     {ours.Issue(web, identitytest.URIs("spiffe://example.org/svc/web", "spiffe://example.org/svc/web")), client, []string{"has 2 URI SANs"}},
		"a URI of another kind":      {ours.Issue(web, identitytest.URIs("https://example.org/svc/web")), client, []string{"does not begin with spiffe://"}},
		"a trust domain alone":       {ours.Issue(web, identitytest.URIs("spiffe://example.org")), client, []string{"has no path"}},
		"a path with dots":           {ours.Issue(web, identitytest.URIs("spiffe://example.org/svc/../web")), client, []string{"dots alone"}},
		"a path that ends in /":      {ours.Issue(web, identitytest.URIs("spiffe://example.org/svc/web/")), client, []string{"empty segment"}},
		"an escaped path":            {ours.Issue(web, identitytest.URIs("spiffe://example.org/svc/%77eb")), client, []string{"'%'"}},
		"a port":                     {ours.Issue(web, identitytest.URIs("spiffe://example.org:1/svc/web")), client, []string{"':'"}},
		"a user":                     {ours.Issue(web, identitytest.URIs("spiffe://me@example.org/svc/web")), client, []string{"'@'"}},
		"a query":                    {ours.Issue(web, identitytest.URIs("spiffe://example.org/svc/web?x")), client, []string{"'?'"}},
		"a trust domain in capitals": {ours.Issue(web, identitytest.URIs("spiffe://Example.org/svc/web")), client, []string{"'E'"}},
		"a CA's own":                 {&tls.Certificate{Certificate: [][]byte{ours.Root.Raw}}, client, []string{"has the SPIFFE ID spiffe://example.org, which has no path"}},
		"a CA that calls itself web": {ours.Issue(web, func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }), client, []string{"is a CA's own"}},
		"no digitalSignature":        {ours.Issue(web, without(x509.KeyUsageDigitalSignature), with(x509.KeyUsageKeyEncipherment)), client, []string{"digitalSignature"}},
		"keyCertSign":                {ours.Issue(web, with(x509.KeyUsageCertSign)), client, []string{"keyCertSign"}},
		"cRLSign":                    {ours.Issue(web, with(x509.KeyUsageCRLSign)), client, []string{"cRLSign"}},
		"a server's as a client's":   {ours.Issue(web, identitytest.Usage(server)), client, []string{"as a client's", "clientAuth"}},
		"a client's as a server's":   {ours.Issue(web, identitytest.Usage(client)), server, []string{"as a server's", "serverAuth"}},
		"for code alone":             {ours.Issue(web, identitytest.Usage(x509.ExtKeyUsageCodeSigning)), client, []string{"clientAuth"}},
		"for something unknown":      {ours.Issue(web, identitytest.Usage(), unknownUsage), client, []string{"clientAuth"}},
		"none":                       {&tls.Certificate{}, client, []string{"is missing"}},
		"too many":                   {&tls.Certificate{Certificate: manyTimes(ours.Issue(web).Certificate[0], 11)}, client, []string{"10 others", "9 are the most"}},
		"an intermediate left out":   {&tls.Certificate{Certificate: ours.Intermediate().Issue(web).Certificate[:1]}, client, []string{"does not chain"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			peer, err := state.Verify(identitytest.Chain(t, c.cert), c.usage, time.Now())
			if err == nil {
				t.Fatalf("verified as %s", peer.ID)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error does not say %q: the certificate %v", want, err)
				}
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("the error has several lines: %q", err)
			}
		})
	}
}

func unknownUsage(c *x509.Certificate) {
	c.UnknownExtKeyUsage = append(c.UnknownExtKeyUsage, asn1.ObjectIdentifier{1, 2, 3, 4})
}

func manyTimes(der []byte, n int) (list [][]byte) {
	for range n {
		list = append(list, der)
	}
	return list
}

func TestVerifyAccepts(t *testing.T) {
	t.Parallel()
	ours := identitytest.CA(t, "example.org")
	old := identitytest.CA(t, "example.org")
	other := identitytest.CA(t, "other.org")
	consul := identitytest.CA(t, "1-2-3.consul")
	state := ours.State(ours.Issue("/svc/me"), other, consul)
	for name, c := range map[string]struct {
		cert *tls.Certificate
		want identity.Peer
	}{
		"a client":                {ours.Issue("/svc/web", identitytest.Usage(client)), identity.Peer{}},
		"for both":                {ours.Issue("/svc/web"), identity.Peer{}},
		"for any use":             {ours.Issue("/svc/web", identitytest.Usage()), identity.Peer{}},
		"of a federated domain":   {other.Issue("/web"), identity.Peer{}},
		"by an intermediate":      {ours.Intermediate().Issue("/svc/web"), identity.Peer{}},
		"by two intermediates":    {ours.Intermediate().Intermediate().Issue("/svc/web"), identity.Peer{}},
		"with DNS names as well":  {ours.Issue("/svc/web", identitytest.DNS("web")), identity.Peer{}},
		"by a cross-signed root":  {ours.CrossSigned(old).Issue("/svc/web"), identity.Peer{}},
		"Consul's":                {consul.Issue("/ns/default/dc/dc1/svc/web"), identity.Peer{Service: "web", Namespace: "default", Partition: "default", Datacenter: "dc1"}},
		"Consul's of a partition": {consul.Issue("/ap/p/ns/n/dc/dc1/svc/web"), identity.Peer{Service: "web", Namespace: "n", Partition: "p", Datacenter: "dc1"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			chain := identitytest.Chain(t, c.cert)
			peer, err := state.Verify(chain, client, time.Now())
			if err != nil {
				t.Fatalf("the certificate %v", err)
			}
			if peer.ID.String() != c.cert.Leaf.URIs[0].String() || !peer.Leaf.Equal(c.cert.Leaf) || len(peer.Chain) != len(chain) {
				t.Errorf("verified as %+v", peer)
			}
			if !peer.NotAfter.Equal(c.cert.Leaf.NotAfter) {
				t.Errorf("it ends at %v, and not with the leaf at %v", peer.NotAfter, c.cert.Leaf.NotAfter)
			}
			if peer.Service != c.want.Service || peer.Namespace != c.want.Namespace || peer.Partition != c.want.Partition || peer.Datacenter != c.want.Datacenter {
				t.Errorf("verified as %q of namespace %q, partition %q, datacenter %q", peer.Service, peer.Namespace, peer.Partition, peer.Datacenter)
			}
		})
	}
}

// What was proven ends with the first certificate of the chain that does, unless
// another chain lasts longer.
func TestVerifySaysWhenItEnds(t *testing.T) {
	t.Parallel()
	now := time.Now()
	long := identitytest.CA(t, "example.org")
	short := identitytest.CA(t, "example.org", identitytest.TTL(time.Hour))
	middle := long.Intermediate(identitytest.TTL(2 * time.Hour))
	for name, c := range map[string]struct {
		cert *tls.Certificate
		ends time.Duration
	}{
		"the leaf":                          {long.Issue("/svc/web", identitytest.TTL(time.Minute)), time.Minute},
		"the root":                          {short.Issue("/svc/web"), time.Hour},
		"the intermediate":                  {middle.Issue("/svc/web"), 2 * time.Hour},
		"the leaf, by the chain that lasts": {short.CrossSigned(long).Issue("/svc/web"), 24 * time.Hour},
		"the root, whoever signed it":       {long.CrossSigned(short).Issue("/svc/web"), time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			peer, err := long.State(nil, short).Verify(identitytest.Chain(t, c.cert), client, now)
			if err != nil {
				t.Fatalf("the certificate %v", err)
			}
			if left := peer.NotAfter.Sub(now); left < c.ends-5*time.Second || left > c.ends+5*time.Second {
				t.Errorf("it ends in %v, want %v", left, c.ends)
			}
			if _, err := long.State(nil, short).Verify(peer.Chain, client, peer.NotAfter.Add(2*time.Second)); err == nil {
				t.Error("it can still be verified after its end")
			}
		})
	}
}

func TestVerifyAfterARootIsGone(t *testing.T) {
	t.Parallel()
	old, next := identitytest.CA(t, "example.org"), identitytest.CA(t, "example.org")
	cross := old.CrossSigned(next)
	for name, c := range map[string]struct {
		cert         *tls.Certificate
		before, both bool
		after        bool
	}{
		"the old root's":          {old.Issue("/svc/web"), true, true, false},
		"the new root's":          {next.Issue("/svc/web"), false, true, true},
		"the cross-signed root's": {cross.Issue("/svc/web"), true, true, true},
	} {
		for when, w := range map[string]struct {
			state *identity.State
			want  bool
		}{
			"before": {old.State(nil), c.before}, "during": {old.State(nil, next), c.both}, "after": {next.State(nil), c.after},
		} {
			if _, err := w.state.Verify(identitytest.Chain(t, c.cert), client, time.Now()); (err == nil) != w.want {
				t.Errorf("%s, %s the rotation: %v", name, when, err)
			}
		}
	}
}

func BenchmarkVerify(b *testing.B) {
	ca := identitytest.CA(b, "example.org")
	state, chain := ca.State(nil), identitytest.Chain(b, ca.Issue("/svc/web"))
	now := time.Now()
	for b.Loop() {
		if _, err := state.Verify(chain, client, now); err != nil {
			b.Fatal(err)
		}
	}
}

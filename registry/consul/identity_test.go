package consul

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/pillion-proxy/pillion/identity"
	"github.com/pillion-proxy/pillion/identity/identitytest"
)

func TestIdentityIsObtainedAndRenewed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ca := identitytest.CA(t, clusterDomain)
		first, second := ca.Issue(greeterPath), ca.Issue(greeterPath)
		fake := newFakeAgent()
		fake.connect.roots = rootList(ca)
		fake.connect.leaf = leafOf(t, first)
		// Where services are looked for is not where the agent is.
		source, _ := newFakeSource(t, fake, Config{Datacenter: "dc2"})
		book := watchIdentity(t, source, "greeter")
		after(time.Second)

		if !book.presents(first) {
			t.Fatalf("handed over: %+v", book.last())
		}
		state := book.last()
		want(t, "id", state.ID.String(), "spiffe://"+clusterDomain+greeterPath)
		want(t, "trust domain", state.TrustDomain.Name(), clusterDomain)
		want(t, "roots", len(state.Bundles[state.TrustDomain].Roots), 1)
		for _, request := range fake.asked("/v1/agent/connect") {
			if len(request.query["dc"]) > 0 {
				t.Errorf("%s was asked about another datacentre", request.path)
			}
		}
		status := book.source.Status()
		want(t, "status", fmt.Sprint(status.Kind, status.Err, status.RenewsBy), "consul<nil> 0.9")

		// News about something else wakes the queries, but says nothing new.
		before := book.count()
		fake.change(func() {})
		after(time.Second)
		want(t, "states", book.count(), before)

		fake.change(func() { fake.connect.leaf = leafOf(t, second) })
		after(time.Second)
		if !book.presents(second) {
			t.Error("the new certificate was not handed over")
		}
		book.stop()
		after(2 * longWait)
		want(t, "queries at the end", source.Status().Queries, 0)
	})
}

// An agent makes short-lived certificates anew at each question: it must not be asked
// all the time, but soon after the root has changed.
func TestShortLivedCertificatesAreRenewedHalfWay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		old := identitytest.CA(t, clusterDomain)
		ca := old
		fake := newFakeAgent()
		fake.connect.roots = rootList(old)
		fake.connect.fresh = func() *api.LeafCert {
			return leafOf(t, ca.Issue(greeterPath, identitytest.TTL(2*time.Minute)))
		}
		source, _ := newFakeSource(t, fake, Config{})
		book := watchIdentity(t, source, "greeter")
		made := func() int {
			fake.mu.Lock()
			defer fake.mu.Unlock()

			return fake.connect.made
		}
		after(30 * time.Second)
		want(t, "certificates at first", made(), 1)
		after(35 * time.Second)
		want(t, "certificates after half of the lifetime", made(), 2)
		for range 20 {
			after(time.Minute)
			if left := time.Until(book.last().Expiry()); left < 40*time.Second {
				t.Fatalf("only %v left", left)
			}
		}
		if n := made(); n < 20 || n > 24 {
			t.Errorf("%d certificates in 21 minutes", n)
		}

		fresh := identitytest.CA(t, clusterDomain)
		before := made()
		fake.change(func() {
			ca = old.CrossSigned(fresh)
			fake.connect.roots = rootList(old, fresh)
		})
		after(5 * time.Second)
		want(t, "certificates after the root has changed", made()-before, 1)
		state := book.last()
		want(t, "roots", len(state.Bundles[state.TrustDomain].Roots), 2)
		if _, err := fresh.State(nil).Verify(identitytest.Chain(t, state.Certificate), 2, time.Now()); err != nil {
			t.Errorf("not of the new root: %v", err)
		}
		book.stop()
	})
}

// The two queries are answered at different moments.
func TestCertificateOfARootThatIsNotKnownYetWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		old, fresh := identitytest.CA(t, clusterDomain), identitytest.CA(t, clusterDomain)
		first, second, crossed := old.Issue(greeterPath), fresh.Issue(greeterPath), old.CrossSigned(fresh).Issue(greeterPath)
		fake := newFakeAgent()
		fake.connect.roots = rootList(old)
		fake.connect.leaf = leafOf(t, first)
		source, log := newFakeSource(t, fake, Config{})
		book := watchIdentity(t, source, "greeter")
		after(time.Second)

		fake.change(func() { fake.connect.leaf = leafOf(t, second) })
		after(time.Minute)
		if !book.presents(first) {
			t.Error("a certificate was handed over that nobody believes")
		}
		if err := book.source.Status().Err; err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("status: %v", err)
		}
		want(t, "lines", len(log.with("is not used yet")), 1)

		fake.change(func() { fake.connect.roots = rootList(old, fresh) })
		after(time.Second)
		if !book.presents(second) || book.source.Status().Err != nil {
			t.Errorf("not handed over once the root is known: %v", book.source.Status().Err)
		}

		// Signed by the old root too, it need not wait.
		fake.change(func() { fake.connect.roots = rootList(old); fake.connect.leaf = leafOf(t, crossed) })
		after(time.Second)
		if !book.presents(crossed) {
			t.Errorf("a cross-signed certificate had to wait: %v", book.source.Status().Err)
		}
		book.stop()
	})
}

// A cluster that is set up anew has a trust domain of its own.
func TestCertificateOfAClusterThatIsNoMore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ca := identitytest.CA(t, clusterDomain)
		fake := newFakeAgent()
		fake.connect.roots = rootList(ca)
		fake.connect.leaf = leafOf(t, ca.Issue(greeterPath))
		source, _ := newFakeSource(t, fake, Config{})
		book := watchIdentity(t, source, "greeter")
		after(time.Second)

		other := identitytest.CA(t, "99999999-2222-3333-4444-555555555555.consul")
		roots := rootList(other)
		roots.TrustDomain = other.TrustDomain.Name()
		fake.change(func() { fake.connect.roots = roots })
		after(time.Second)
		if state := book.last(); state.Certificate != nil || state.TrustDomain != other.TrustDomain {
			t.Errorf("handed over: %+v", state)
		}
		next := other.Issue(greeterPath)
		fake.change(func() { fake.connect.leaf = leafOf(t, next) })
		after(time.Second)
		if !book.presents(next) {
			t.Errorf("handed over: %+v", book.last())
		}
		book.stop()
	})
}

func TestBadCertificatesAndRootsAreRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ca := identitytest.CA(t, clusterDomain)
		good := ca.Issue(greeterPath)
		fake := newFakeAgent()
		fake.connect.roots = rootList(ca)
		fake.connect.leaf = leafOf(t, good)
		source, log := newFakeSource(t, fake, Config{})
		book := watchIdentity(t, source, "greeter")
		after(time.Second)
		count := book.count()

		issued := func(id string, options ...identitytest.Option) *api.LeafCert {
			return leafOf(t, ca.Issue(id, options...))
		}
		mixed := leafOf(t, good)
		mixed.PrivateKeyPEM = issued(greeterPath).PrivateKeyPEM
		for name, bad := range map[string]*api.LeafCert{
			"nothing":             nil,
			"empty":               {},
			"another's key":       mixed,
			"half a key":          {CertPEM: leafOf(t, good).CertPEM, PrivateKeyPEM: leafOf(t, good).PrivateKeyPEM[:60]},
			"no certificate":      {CertPEM: "hello", PrivateKeyPEM: leafOf(t, good).PrivateKeyPEM},
			"another service":     issued("/ns/default/dc/dc1/svc/farewell"),
			"no service":          issued("/agent/client/dc/dc1/id/x"),
			"expired":             issued(greeterPath, identitytest.From(-2*time.Hour), identitytest.TTL(-time.Hour)),
			"not valid yet":       issued(greeterPath, identitytest.From(time.Hour)),
			"no SPIFFE ID":        issued("https://example.org/greeter"),
			"another domain":      leafOf(t, identitytest.CA(t, "example.org").Issue(greeterPath)),
			"of an unknown root":  leafOf(t, identitytest.CA(t, clusterDomain).Issue(greeterPath)),
			"not for servers":     issued(greeterPath, identitytest.Usage(2)),
			"for several at once": issued(greeterPath, identitytest.URIs("spiffe://"+clusterDomain+greeterPath, "spiffe://"+clusterDomain+"/x")),
		} {
			fake.change(func() { fake.connect.leaf = bad })
			after(2 * failureMost)
			if book.count() != count || !book.presents(good) {
				t.Errorf("%s: was taken", name)
			}
			err := book.source.Status().Err
			if err == nil || strings.Contains(err.Error(), "\n") || !strings.HasPrefix(err.Error(), "consul: ") || name == "expired" && !strings.Contains(err.Error(), "has expired at") {
				t.Errorf("%s: status: %v", name, err)
			}
			fake.change(func() { fake.connect.leaf = leafOf(t, good) })
			after(2 * failureMost)
			if err := book.source.Status().Err; err != nil {
				t.Errorf("%s: over, but %v", name, err)
			}
		}

		for name, bad := range map[string]*api.CARootList{
			"nothing":      nil,
			"no domain":    {Roots: rootList(ca).Roots},
			"an odd one":   {TrustDomain: "a b", Roots: rootList(ca).Roots},
			"no roots":     {TrustDomain: clusterDomain},
			"a null root":  {TrustDomain: clusterDomain, Roots: []*api.CARoot{nil}},
			"no PEM":       {TrustDomain: clusterDomain, Roots: []*api.CARoot{{RootCertPEM: "x"}}},
			"far too many": rootList(make([]*identitytest.Authority, 0)...),
		} {
			if name == "far too many" {
				for range maxRoots + 1 {
					bad.Roots = append(bad.Roots, rootList(ca).Roots...)
				}
			}
			fake.change(func() { fake.connect.roots = bad })
			after(2 * failureMost)
			if err := book.source.Status().Err; book.count() != count || err == nil {
				t.Errorf("roots: %s: was taken (%v)", name, err)
			}
		}
		for _, line := range log.with("") {
			if strings.Contains(line, "PRIVATE KEY") {
				t.Errorf("the log holds a key: %s", line)
			}
		}
		book.stop()
	})
}

func TestIdentityWhileTheAgentIsAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ca := identitytest.CA(t, clusterDomain)
		first, second := ca.Issue(greeterPath), ca.Issue(greeterPath)
		fake := newFakeAgent()
		fake.connect.roots = rootList(ca)
		fake.connect.leaf = leafOf(t, first)
		source, log := newFakeSource(t, fake, Config{})
		book := watchIdentity(t, source, "greeter")
		after(time.Second)
		count := book.count()

		fake.failWith(refuse)
		after(time.Hour)
		want(t, "states", book.count(), count)
		status := book.source.Status()
		if status.Err == nil || time.Since(status.Since) < 50*time.Minute {
			t.Errorf("status: %+v", status)
		}
		want(t, "lines", len(log.with("level=WARN")), 1)
		if asked := len(fake.asked("/v1/agent/connect")); asked > 2*3600/2 {
			t.Errorf("asked %d times", asked)
		}

		fake.change(func() { fake.fault = nil; fake.index = 3; fake.connect.leaf = leafOf(t, second) })
		after(2 * failureMost)
		if !book.presents(second) || book.source.Status().Err != nil {
			t.Errorf("not renewed once it is back: %v", book.source.Status().Err)
		}
		book.stop()
	})
}

func TestIdentityNamesThePermissionThatIsMissing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ca := identitytest.CA(t, clusterDomain)
		file := filepath.Join(t.TempDir(), "token")
		write := func(token string) {
			if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write("weak")
		fake := newFakeAgent()
		fake.connect.roots = rootList(ca)
		fake.connect.leaf = leafOf(t, ca.Issue(greeterPath))
		fake.failWith(func(req *http.Request) (*http.Response, error) {
			if strings.Contains(req.URL.Path, "/leaf/") && req.Header.Get("X-Consul-Token") != "strong" {
				return respond(403, nil, `Permission denied: token with AccessorID 'x' lacks permission 'service:write' on "greeter"`), nil
			}

			return nil, errPass
		})
		source, log := newFakeSource(t, fake, Config{TokenFile: file})
		book := watchIdentity(t, source, "greeter")
		after(time.Minute)
		wanted := `the ACL token may not get a certificate for service "greeter"`
		if err := book.source.Status().Err; err == nil || !strings.Contains(err.Error(), wanted) || !strings.HasSuffix(err.Error(), `add to its policy: service "greeter" { policy = "write" }`) {
			t.Errorf("status: %v", err)
		}
		want(t, "lines", len(log.with("the ACL token may not get a certificate")), 1)
		// Others can be verified without a certificate of one's own.
		if state := book.last(); state == nil || state.Certificate != nil || state.Bundles[ca.TrustDomain] == nil {
			t.Errorf("handed over: %+v", state)
		}

		write("strong")
		after(tokenLook + 2*failureMost)
		if book.last().Certificate == nil {
			t.Error("no certificate with the new token")
		}
		book.stop()
	})
}

func TestIdentityWithoutConnect(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := newFakeAgent()
		fake.failWith(answerWith(500, "rpc error making call: Connect must be enabled in order to use this endpoint"))
		source, _ := newFakeSource(t, fake, Config{})
		book := watchIdentity(t, source, "greeter")
		after(time.Minute)
		if err := book.source.Status().Err; err == nil || !strings.Contains(err.Error(), "connect { enabled = true }") {
			t.Errorf("status: %v", err)
		}
		want(t, "states", book.count(), 0)
		book.stop()

		odd := watchIdentity(t, source, "../roots")
		after(time.Second)
		if err := odd.source.Status().Err; err == nil {
			t.Error("a name that is none was asked for")
		}
		odd.stop()
	})
}

func TestRestOfCertificates(t *testing.T) {
	t.Parallel()
	ca := identitytest.CA(t, clusterDomain)
	for _, test := range []struct {
		ttl      time.Duration
		min, max time.Duration
	}{
		{72 * time.Hour, 0, 0},
		{10 * time.Minute, 0, 0},
		{8 * time.Minute, 200 * time.Second, 280 * time.Second},
		{10 * time.Second, 4 * time.Second, 6 * time.Second},
		{-time.Second, 0, 0},
	} {
		pair := ca.Issue(greeterPath, identitytest.TTL(test.ttl))
		made := &certificate{pair: pair, chain: identitytest.Chain(t, pair), obtained: time.Now()}
		for _, random := range []float64{0, 0.5, 0.999} {
			if rest := made.rest(random); rest < test.min || rest > test.max {
				t.Errorf("%v: rest of %v", test.ttl, rest)
			}
		}
	}
}

var _ identity.Source = (*connectIdentity)(nil)

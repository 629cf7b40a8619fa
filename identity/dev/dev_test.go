package dev

import (
	"bytes"
	"context"
	"crypto/x509"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/goleak"

	"github.com/pillion-proxy/pillion/identity"
	"github.com/pillion-proxy/pillion/identity/files"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	td  = spiffeid.RequireTrustDomainFromString("example.org")
	web = spiffeid.RequireFromString("spiffe://example.org/svc/web")
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestFolder(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(t.TempDir(), "a", "ca")
	made, err := Create(folder, td)
	must(t, err)
	info, err := os.Stat(filepath.Join(folder, KeyFile))
	must(t, err)
	if mode := info.Mode().Perm(); mode != 0o600 {
		t.Errorf("the key's mode is %04o", mode)
	}
	if _, err := Create(folder, td); err == nil || !strings.Contains(err.Error(), "is there already, and no CA is overwritten") {
		t.Errorf("made again: %v", err)
	}
	ca, err := Open(folder)
	must(t, err)
	if ca.TrustDomain() != td || !ca.Root().Equal(made.Root()) {
		t.Errorf("opened a CA of %q", ca.TrustDomain())
	}
	// What either issues, the other's roots verify.
	now := time.Now()
	cert, err := ca.Issue(web, time.Hour, now)
	must(t, err)
	state := &identity.State{TrustDomain: td, Bundles: map[spiffeid.TrustDomain]*identity.Bundle{td: made.Bundle()}}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth} {
		peer, err := state.Verify([]*x509.Certificate{cert.Leaf}, usage, now)
		if err != nil || peer.ID != web {
			t.Errorf("issued %v, the certificate %v", peer, err)
		}
	}
	if life := cert.Leaf.NotAfter.Sub(now); life < time.Hour || life > time.Hour+time.Second || cert.Leaf.NotBefore.After(now) {
		t.Errorf("it is valid from %v until %v", cert.Leaf.NotBefore, cert.Leaf.NotAfter)
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	other := filepath.Join(t.TempDir(), "other")
	_, err := Create(other, td)
	must(t, err)
	for name, c := range map[string]struct {
		spoil func(t *testing.T, folder string) error
		want  string
	}{
		"nothing there": {func(_ *testing.T, folder string) error { return os.RemoveAll(folder) }, "no CA is in FOLDER, for FOLDER/roots.pem is missing: pillion ca init FOLDER makes one"},
		"no key":        {func(_ *testing.T, folder string) error { return os.Remove(folder + "/ca-key.pem") }, "CA's key FOLDER/ca-key.pem cannot be read"},
		"a key for all": {func(_ *testing.T, folder string) error { return os.Chmod(folder+"/ca-key.pem", 0o644) }, "CA's key FOLDER/ca-key.pem has mode 0644"},
		"another's key": {func(_ *testing.T, folder string) error {
			return os.Rename(copied(t, other+"/ca-key.pem"), folder+"/ca-key.pem")
		}, "CA in FOLDER: private key does not match"},
		"no CA": {func(t *testing.T, folder string) error {
			t.Helper()
			ca, err := Open(folder)
			must(t, err)
			cert, err := ca.Issue(web, time.Hour, time.Now())
			must(t, err)
			return Save(cert, folder+"/roots.pem", folder+"/ca-key.pem", true)
		}, "CA in FOLDER: the certificate of"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			folder := filepath.Join(t.TempDir(), "ca")
			_, err := Create(folder, td)
			must(t, err)
			must(t, c.spoil(t, folder))
			_, err = Open(folder)
			if err == nil || !strings.Contains(strings.ReplaceAll(err.Error(), folder, "FOLDER"), c.want) {
				t.Errorf("opened: %v, want %q", err, c.want)
			}
		})
	}
}

// copied returns the path of a copy.
func copied(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	must(t, err)
	to := filepath.Join(t.TempDir(), "copy")
	must(t, os.WriteFile(to, text, 0o600))
	return to
}

func TestIssueRefuses(t *testing.T) {
	t.Parallel()
	ca, err := NewCA(td)
	must(t, err)
	for name, c := range map[string]struct {
		id   string
		ttl  time.Duration
		now  time.Time
		want string
	}{
		"another trust domain": {"spiffe://other.org/svc/web", time.Hour, time.Now(), `not of the CA's trust domain, which is "example.org"`},
		"nobody":               {"spiffe://example.org", time.Hour, time.Now(), "nobody in it"},
		"no time":              {"spiffe://example.org/x", -time.Hour, time.Now(), "cannot be valid for -1h0m0s"},
		"after the CA's end":   {"spiffe://example.org/x", time.Hour, time.Now().Add(life + time.Hour), "the CA itself has expired"},
	} {
		if cert, err := ca.Issue(spiffeid.RequireFromString(c.id), c.ttl, c.now); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, %v", name, cert, err)
		}
		if _, err := ca.Source(spiffeid.RequireFromString(c.id), Options{TTL: c.ttl, Now: func() time.Time { return c.now }}); err == nil {
			t.Errorf("%s: there is a source of it", name)
		}
	}
	cert, err := ca.Issue(web, 2*life, time.Now())
	if err != nil || cert.Leaf.NotAfter.After(ca.Root().NotAfter) {
		t.Errorf("a certificate outlives its CA: %v", err)
	}
}

// What is saved is what the source "files" reads.
func TestSave(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	ca, err := Create(folder, td)
	must(t, err)
	certificate, key := filepath.Join(folder, "web.pem"), filepath.Join(folder, "web-key.pem")
	for _, overwrite := range []bool{false, true} {
		cert, err := ca.Issue(web, time.Hour, time.Now())
		must(t, err)
		if overwrite {
			if err := Save(cert, certificate, key, false); err == nil || !strings.Contains(err.Error(), "is not overwritten") {
				t.Errorf("saved over another one: %v", err)
			}
		}
		must(t, Save(cert, certificate, key, overwrite))
		source, err := files.Open(files.Options{Certificate: certificate, Key: key, Roots: filepath.Join(folder, RootsFile)})
		must(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		source.Watch(ctx, func(s *identity.State) {
			cancel()
			if !s.Certificate.Leaf.Equal(cert.Leaf) || s.ID != web {
				t.Errorf("read as %v", s)
			}
		})
	}
	left, err := filepath.Glob(folder + "/*.new")
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// Each certificate is renewed between 0.4 and 0.5 of its lifetime; a little later where
// that is about a second, because it begins and ends with whole ones.
func TestSourceRenews(t *testing.T) {
	t.Parallel()
	for _, ttl := range []time.Duration{0, time.Second, 10 * time.Second, time.Hour} {
		t.Run(ttl.String(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ca, err := NewCA(td)
				must(t, err)
				var log bytes.Buffer
				source, err := ca.Source(web, Options{TTL: ttl, Logger: slog.New(slog.NewTextHandler(&log, nil))})
				must(t, err)
				keeper := identity.Keep(source, identity.Options{})
				ctx, cancel := context.WithCancel(t.Context())
				var watching sync.WaitGroup
				states := make(chan *identity.State, 100)
				watching.Go(func() { source.Watch(ctx, func(s *identity.State) { states <- s }) })
				const many = 30
				var last *identity.State
				pauses := make(map[time.Duration]bool)
				for range many {
					s := <-states
					synctest.Wait()
					if err := keeper.Stalled(); err != nil {
						t.Error(err)
					}
					if last != nil {
						leaf := last.Certificate.Leaf
						share := float64(time.Since(leaf.NotBefore)) / float64(leaf.NotAfter.Sub(leaf.NotBefore))
						if share < 0.39 || share > 0.51 && ttl != time.Second || share > 0.6 {
							t.Errorf("renewed at %.3f of its lifetime", share)
						}
						pauses[time.Since(last.Obtained)] = true
					}
					last = s
				}
				if len(pauses) < many/2 {
					t.Errorf("renewed after %d different times only", len(pauses))
				}
				cancel()
				keeper.Close()
				watching.Wait()
				if n := strings.Count(log.String(), "not for production"); n != 2 { // there were two watches
					t.Errorf("warned %d times: %s", n, &log)
				}
				if s := source.Status(); s.Kind != "dev" || s.Err != nil {
					t.Errorf("status %+v", s)
				}
			})
		})
	}
}

// A CA that has expired is told of, and the certificate stays.
func TestSourceFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ca, err := NewCA(td)
		must(t, err)
		time.Sleep(life - time.Hour)
		source, err := ca.Source(web, Options{})
		must(t, err)
		keeper := identity.Keep(source, identity.Options{})
		defer keeper.Close()
		if _, err := keeper.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Hour)
		if s := source.Status(); s.Err == nil || !strings.Contains(s.Err.Error(), "the CA itself has expired") || s.Since.IsZero() {
			t.Errorf("status %+v", s)
		}
		if err := keeper.Stalled(); err == nil || keeper.Current() == nil {
			t.Errorf("stalled: %v", err)
		}
	})
}

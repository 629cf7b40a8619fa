package files

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pillion-proxy/pillion/identity"
	"github.com/pillion-proxy/pillion/identity/identitytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// in are the files in a folder as identitytest writes them.
func in(folder string) Options {
	return Options{
		Certificate: filepath.Join(folder, "leaf.pem"), Key: filepath.Join(folder, "key.pem"), Roots: filepath.Join(folder, "roots.pem"),
	}
}

// lines is a log that sends each line.
type lines chan string

func (l lines) Write(p []byte) (int, error) {
	l <- string(bytes.TrimSpace(p))
	return len(p), nil
}

// fixture is a source that is watched.
type fixture struct {
	*Source
	states chan *identity.State
	log    lines
}

func watch(t *testing.T, o Options) *fixture {
	t.Helper()
	f := &fixture{states: make(chan *identity.State, 100), log: make(lines, 1000)}
	o.Logger = slog.New(slog.NewTextHandler(f.log, nil))
	source, err := Open(o)
	must(t, err)
	f.Source = source
	ctx, cancel := context.WithCancel(context.Background())
	var watching sync.WaitGroup
	watching.Go(func() { source.Watch(ctx, func(s *identity.State) { f.states <- s }) })
	t.Cleanup(func() {
		cancel()
		watching.Wait()
	})
	return f
}

// next is the next state, which has this leaf.
func (f *fixture) next(t *testing.T, cert *tls.Certificate) *identity.State {
	t.Helper()
	select {
	case s := <-f.states:
		if !s.Certificate.Leaf.Equal(cert.Leaf) {
			t.Fatalf("the next state has another certificate: %v", s)
		}
		return s
	case <-time.After(30 * time.Second):
		t.Fatalf("no state is handed over; status: %+v", f.Status())
	}
	return nil
}

// logged waits for a line with a text.
func (f *fixture) logged(t *testing.T, text string) string {
	t.Helper()
	for timeout := time.After(30 * time.Second); ; {
		select {
		case line := <-f.log:
			if strings.Contains(line, text) {
				return line
			}
		case <-timeout:
			t.Fatalf("nothing with %q is logged", text)
		}
	}
}

func TestOpen(t *testing.T) {
	t.Parallel()
	ca, other := identitytest.CA(t, "example.org"), identitytest.CA(t, "other.org")
	folder := t.TempDir()
	cert := ca.Intermediate().Issue("/svc/web")
	ca.Write(folder, cert, identitytest.CA(t, "example.org"))
	must(t, os.WriteFile(folder+"/other.pem", identitytest.RootsPEM(other), 0o600))
	o := in(folder)
	o.Federated = map[string]string{"other.org": folder + "/other.pem"}
	f := watch(t, o)
	state := f.next(t, cert)
	if state.ID.String() != "spiffe://example.org/svc/web" || state.TrustDomain != ca.TrustDomain || len(state.Certificate.Certificate) != 2 {
		t.Errorf("the state is %v", state)
	}
	if len(state.Bundles[ca.TrustDomain].Roots) != 2 || len(state.Bundles[other.TrustDomain].Roots) != 1 || len(state.Bundles) != 2 {
		t.Errorf("the roots are %v", state.Bundles)
	}
	if s := f.Status(); s.Kind != "files" || s.Location != o.Certificate || s.Err != nil {
		t.Errorf("status %+v", s)
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	ca := identitytest.CA(t, "example.org")
	for name, c := range map[string]struct {
		spoil func(t *testing.T, folder string, o *Options)
		want  string
	}{
		"a key that everybody reads": {func(t *testing.T, folder string, _ *Options) {
			must(t, os.Chmod(folder+"/key.pem", 0o644))
		}, "key file FOLDER/key.pem has mode 0644, so it can be read or changed by others than its owner and group: chmod 0600 FOLDER/key.pem"},
		"a key that its group changes": {func(t *testing.T, folder string, _ *Options) {
			must(t, os.Chmod(folder+"/key.pem", 0o660))
		}, "key file FOLDER/key.pem has mode 0660, so it can be changed by its group"},
		"a missing certificate": {func(_ *testing.T, folder string, o *Options) { o.Certificate = folder + "/not.pem" },
			"certificate file FOLDER/not.pem cannot be read: no such file or directory"},
		"a missing key":   {func(_ *testing.T, folder string, o *Options) { o.Key = folder + "/not.pem" }, "key file FOLDER/not.pem cannot be read"},
		"missing roots":   {func(_ *testing.T, folder string, o *Options) { o.Roots = folder + "/not.pem" }, "roots file FOLDER/not.pem cannot be read"},
		"a leaf as roots": {func(_ *testing.T, folder string, o *Options) { o.Roots = folder + "/leaf.pem" }, `roots file FOLDER/leaf.pem: the certificate of "CN=test leaf" is no CA's`},
		"no certificate":  {func(_ *testing.T, folder string, o *Options) { o.Certificate = folder + "/key.pem" }, "certificate file FOLDER/key.pem with key file FOLDER/key.pem: no certificate is in it"},
		"the key of another": {func(t *testing.T, folder string, _ *Options) {
			must(t, os.WriteFile(folder+"/key.pem", identitytest.KeyPEM(t, ca.Issue("/svc/web")), 0o600))
		}, "certificate file FOLDER/leaf.pem with key file FOLDER/key.pem: private key does not match"},
		"no SPIFFE ID": {func(_ *testing.T, folder string, _ *Options) {
			ca.Write(folder, ca.Issue("/svc/web", identitytest.URIs(), identitytest.DNS("web")))
		}, `certificate file FOLDER/leaf.pem: the certificate has no SPIFFE ID (a URI SAN), only the DNS name "web"`},
		"missing federated roots": {func(_ *testing.T, folder string, o *Options) {
			o.Federated = map[string]string{"other.org": folder + "/not.pem"}
		},
			`roots file of federated trust domain "other.org" FOLDER/not.pem cannot be read`},
		"the own domain as federated": {func(_ *testing.T, folder string, o *Options) {
			o.Federated = map[string]string{"example.org": folder + "/roots.pem"}
		}, `federated trust domain "example.org" is the own one: put its roots into FOLDER/roots.pem`},
		"a federated domain that is none": {func(_ *testing.T, folder string, o *Options) {
			o.Federated = map[string]string{"A b": folder + "/roots.pem"}
		}, `federated trust domain "A b"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			folder := t.TempDir()
			ca.Write(folder, ca.Issue("/svc/web"))
			o := in(folder)
			c.spoil(t, folder, &o)
			_, err := Open(o)
			if err == nil {
				t.Fatal("opened")
			}
			if got := strings.ReplaceAll(err.Error(), folder, "FOLDER"); !strings.Contains(got, c.want) || strings.Contains(got, "\n") {
				t.Errorf("the error is %q, want %q", got, c.want)
			}
		})
	}
}

// Each way in which certificates are renewed. Each step hands over one new state.
func TestRenewal(t *testing.T) {
	t.Parallel()
	ca := identitytest.CA(t, "example.org")
	for name, way := range map[string]struct {
		prepare func(t *testing.T, folder string, cert *tls.Certificate)
		renew   func(t *testing.T, folder string, n int, cert *tls.Certificate)
	}{
		"replaced by renaming": {
			func(_ *testing.T, folder string, cert *tls.Certificate) { ca.Write(folder, cert) },
			func(_ *testing.T, folder string, _ int, cert *tls.Certificate) { ca.Write(folder, cert) },
		},
		"written in place": {
			func(_ *testing.T, folder string, cert *tls.Certificate) { ca.Write(folder, cert) },
			func(t *testing.T, folder string, _ int, cert *tls.Certificate) {
				t.Helper()
				must(t, os.WriteFile(folder+"/key.pem", identitytest.KeyPEM(t, cert), 0o600))
				must(t, os.WriteFile(folder+"/leaf.pem", identitytest.ChainPEM(cert), 0o600))
			},
		},
		"Kubernetes' links": {
			func(t *testing.T, folder string, cert *tls.Certificate) {
				t.Helper()
				must(t, os.Mkdir(folder+"/..0", 0o700))
				ca.Write(folder+"/..0", cert)
				must(t, os.Symlink("..0", folder+"/..data"))
				for _, name := range []string{"leaf.pem", "key.pem", "roots.pem"} {
					must(t, os.Symlink("..data/"+name, folder+"/"+name))
				}
			},
			func(t *testing.T, folder string, n int, cert *tls.Certificate) {
				t.Helper()
				data := fmt.Sprintf("..%d", n)
				must(t, os.Mkdir(filepath.Join(folder, data), 0o700))
				ca.Write(filepath.Join(folder, data), cert)
				must(t, os.Symlink(data, folder+"/..data_tmp"))
				must(t, os.Rename(folder+"/..data_tmp", folder+"/..data"))
				must(t, os.RemoveAll(filepath.Join(folder, fmt.Sprintf("..%d", n-1))))
			},
		},
		"certbot's links": {
			func(t *testing.T, folder string, cert *tls.Certificate) {
				t.Helper()
				must(t, os.MkdirAll(folder+"/archive/0", 0o700))
				ca.Write(folder+"/archive/0", cert)
				for _, name := range []string{"leaf.pem", "key.pem", "roots.pem"} {
					must(t, os.Symlink("archive/0/"+name, folder+"/"+name))
				}
			},
			func(t *testing.T, folder string, n int, cert *tls.Certificate) {
				t.Helper()
				archive := fmt.Sprintf("archive/%d/", n)
				must(t, os.MkdirAll(folder+"/"+archive, 0o700))
				ca.Write(folder+"/"+archive, cert)
				for _, name := range []string{"leaf.pem", "key.pem", "roots.pem"} {
					must(t, os.Symlink(archive+name, folder+"/new"))
					must(t, os.Rename(folder+"/new", folder+"/"+name))
				}
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			folder := t.TempDir()
			cert := ca.Issue("/svc/web")
			way.prepare(t, folder, cert)
			f := watch(t, in(folder))
			f.next(t, cert)
			for n := range 2 {
				cert = ca.Issue("/svc/web")
				way.renew(t, folder, n+1, cert)
				f.next(t, cert)
			}
			if err := f.Status().Err; err != nil {
				t.Errorf("status: %v", err)
			}
		})
	}
}

// Roots come and go without a new certificate.
func TestRoots(t *testing.T) {
	t.Parallel()
	ca, next := identitytest.CA(t, "example.org"), identitytest.CA(t, "example.org")
	folder := t.TempDir()
	cert := ca.Issue("/svc/web")
	ca.Write(folder, cert)
	f := watch(t, in(folder))
	f.next(t, cert)
	for _, authorities := range [][]*identitytest.Authority{{ca, next}, {next}, {ca}} {
		must(t, os.WriteFile(folder+"/roots.new", identitytest.RootsPEM(authorities...), 0o600))
		must(t, os.Rename(folder+"/roots.new", folder+"/roots.pem"))
		if state := f.next(t, cert); !state.SameRoots(&identity.State{Bundles: authorities[0].Bundles(authorities...)}) {
			t.Errorf("the roots are %v", state.Bundles[ca.TrustDomain].Roots)
		}
	}
}

// Half of a renewal is not taken over, and neither is what nobody may read.
func TestTornRenewal(t *testing.T) {
	t.Parallel()
	ca := identitytest.CA(t, "example.org")
	folder := t.TempDir()
	first, second := ca.Issue("/svc/web"), ca.Issue("/svc/web")
	ca.Write(folder, first)
	f := watch(t, in(folder))
	f.next(t, first)

	must(t, os.WriteFile(folder+"/leaf.pem", identitytest.ChainPEM(second), 0o600))
	line := f.logged(t, "does not match")
	if s := f.Status(); !strings.Contains(line, "level=WARN") || s.Err == nil || s.Since.IsZero() || strings.Contains(s.Err.Error(), "\n") {
		t.Errorf("logged %q, the status is %+v", line, s)
	}
	since := f.Status().Since
	must(t, os.Chmod(folder+"/key.pem", 0o644))
	f.logged(t, "chmod 0600")
	must(t, os.Remove(folder+"/key.pem"))
	f.logged(t, "cannot be read")
	if s := f.Status(); !s.Since.Equal(since) {
		t.Errorf("failing since %v, want %v", s.Since, since)
	}
	if n := len(f.states); n > 0 {
		t.Errorf("%d states are handed over", n)
	}
	must(t, os.WriteFile(folder+"/key.pem", identitytest.KeyPEM(t, second), 0o600))
	f.next(t, second)
	f.logged(t, "can be used again")
	if s := f.Status(); s.Err != nil || !s.Since.IsZero() {
		t.Errorf("the status is %+v", s)
	}
}

// What changes between Open and Watch is not missed.
func TestChangesBeforeTheWatch(t *testing.T) {
	t.Parallel()
	ca := identitytest.CA(t, "example.org")
	folder := t.TempDir()
	ca.Write(folder, ca.Issue("/svc/web"))
	source, err := Open(in(folder))
	must(t, err)
	second := ca.Issue("/svc/web")
	ca.Write(folder, second)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	source.Watch(ctx, func(s *identity.State) {
		if s.Certificate.Leaf.Equal(second.Leaf) {
			cancel()
		}
	})
	if context.Cause(ctx) != context.Canceled {
		t.Error("the certificate that came before the watch is not handed over")
	}
}

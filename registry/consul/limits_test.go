package consul

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/pillion-proxy/pillion/registry"
)

// standard are the limits where nothing else is said.
var standard = Limits{}.withDefaults()

func limitedSource(t *testing.T, fake *fakeAgent, limits Limits) *Source {
	t.Helper()
	source, err := New(Config{Limits: limits}, Deps{Transport: fake})
	if err != nil {
		t.Fatal(err)
	}

	return source
}

// An answer that is longer than it may be is none.
func TestAnswersAreBounded(t *testing.T) {
	for most, wantErr := range map[int]bool{0: false, 300: true} {
		fake := newFakeAgent()
		fake.failWith(func(*http.Request) (*http.Response, error) {
			return respond(http.StatusOK, nil, map[string][]string{"greeter": {strings.Repeat("x", 1000)}}), nil
		})
		_, err := limitedSource(t, fake, Limits{AnswerBytes: most}).Services(t.Context())
		if wantErr != (err != nil && strings.Contains(err.Error(), "max_answer_size")) {
			t.Errorf("with at most %d bytes: %v", most, err)
		}
	}
}

// An agent that does not answer is not waited for longer than it may take.
func TestCallsAreBounded(t *testing.T) {
	for timeout, want := range map[time.Duration]time.Duration{0: 5 * time.Second, time.Second: time.Second} {
		synctest.Test(t, func(t *testing.T) {
			fake := newFakeAgent()
			fake.failWith(func(req *http.Request) (*http.Response, error) {
				<-req.Context().Done()

				return nil, req.Context().Err()
			})
			start := time.Now()
			_, err := limitedSource(t, fake, Limits{CallTimeout: timeout}).Services(t.Context())
			if took := time.Since(start); err == nil || took != want {
				t.Errorf("the call took %v, want %v: %v", took, want, err)
			}
		})
	}
}

// Instances beyond the bound are left out.
func TestInstancesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := newFakeAgent()
		var entries []*api.ServiceEntry
		for i := range 5 {
			entries = append(entries, appEntry(fmt.Sprint("id", i), i+1))
		}
		fake.setApps("greeter", entries...)
		source := limitedSource(t, fake, Limits{Instances: 3})
		ctx, cancel := context.WithCancel(t.Context())
		var got *registry.Service
		done := make(chan struct{})
		go func() {
			defer close(done)
			source.Watch(ctx, "greeter", func(s *registry.Service) { got = s })
		}()
		synctest.Wait()
		if got == nil || len(got.Endpoints) != 3 {
			t.Errorf("taken over: %v", got)
		}
		cancel()
		<-done
	})
}

// What does not fit into the folder is not kept, and the oldest goes first.
func TestCachedServicesAreBounded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	disk := &cache{dir: dir, limits: Limits{CachedServices: 2, CacheFileBytes: 1000}.withDefaults()}
	for _, name := range []string{"a", "b", "c"} {
		if err := disk.save(name, kept()); err != nil {
			t.Fatal(err)
		}
		at := time.Now().Add(-time.Hour)
		if name == "b" {
			at = at.Add(time.Minute)
		}
		if err := os.Chtimes(disk.path(name), at, at); err != nil {
			t.Fatal(err)
		}
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"+cacheSuffix))
	if want := []string{disk.path("b"), disk.path("c")}; err != nil || !slices.Equal(slices.Sorted(slices.Values(files)), slices.Sorted(slices.Values(want))) {
		t.Errorf("kept are %v, want %v", files, want)
	}
	large := kept()
	large.GRPC = []string{strings.Repeat("x", 2000)}
	if err := disk.save("large", large); err == nil || !strings.Contains(err.Error(), "max_cache_file_size") {
		t.Errorf("a file that is too large: %v", err)
	}
}

// A host that does not answer is not waited for longer than connecting may take.
func TestConnectTimeoutIsSet(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() // nobody accepts, so a TLS handshake hangs
	resolved, err := Config{Address: "https://" + l.Addr().String()}.resolve()
	if err != nil {
		t.Fatal(err)
	}
	transport, err := newTransport(resolved, 12, 50*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	defer transport.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second) // less than the default
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+l.Addr().String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := transport.RoundTrip(req)
	if err == nil {
		_ = resp.Body.Close()
	}
	if err == nil || errors.Is(err, context.DeadlineExceeded) && ctx.Err() != nil {
		t.Errorf("the handshake was not given up: %v", err)
	}
}

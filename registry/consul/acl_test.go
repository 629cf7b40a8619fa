package consul

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestDeniedNamesTheRuleAndRecoversWithTheToken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "token")
		write := func(token string) {
			if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write("weak")
		fake := newFakeAgent()
		fake.setApps("greeter", appEntry("a", 1))
		fake.failWith(func(req *http.Request) (*http.Response, error) {
			if req.Header.Get("X-Consul-Token") != "strong" {
				return respond(403, nil, `Permission denied: token with AccessorID 'x' lacks permission 'service:read' on "greeter"`), nil
			}

			return nil, errPass
		})
		source, log := newFakeSource(t, fake, Config{TokenFile: file})
		book := watch(t, source, "greeter")
		after(time.Minute)
		want(t, "handed over", book.count(), 0)
		if lines := log.with(`service \"greeter\" { policy = \"read\" }`); len(lines) != 2 { // one for each query
			t.Fatalf("log:\n%s", strings.Join(log.with(""), "\n"))
		}

		write("strong")
		after(failureMost)
		want(t, "with the new token", book.addresses(t), []string{"10.0.0.1:1"})

		// Revoked and rotated while a query waits: the refused one is repeated.
		fake.failWith(func(req *http.Request) (*http.Response, error) {
			if req.Header.Get("X-Consul-Token") != "stronger" {
				return respond(403, nil, "ACL not found"), nil
			}

			return nil, errPass
		})
		write("stronger")
		after(failureMost)
		want(t, "states handed over", book.count(), 1)
		book.stop()
	})
}

func TestRotatedTokenIsUsedByQueriesThatWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "token")
		if err := os.WriteFile(file, []byte("first"), 0o600); err != nil {
			t.Fatal(err)
		}
		fake := newFakeAgent()
		fake.setApps("greeter", appEntry("a", 1))
		source, log := newFakeSource(t, fake, Config{TokenFile: file})
		book := watch(t, source, "greeter")
		after(10 * time.Second)

		if err := os.WriteFile(file, []byte("second"), 0o600); err != nil {
			t.Fatal(err)
		}
		before := len(fake.asked("/v1/health"))
		after(tokenLook)
		var fresh []string
		for _, request := range fake.asked("/v1/health")[before:] {
			if request.token == "second" && request.query["index"] == nil {
				fresh = append(fresh, request.path)
			}
		}
		if len(fresh) != 2 {
			t.Fatalf("asked anew: %v", fresh)
		}
		want(t, "states handed over", book.count(), 1)
		want(t, "lines", len(log.with("")), 0)
		book.stop()
	})
}

func TestHiddenByACLsIsNotEmpty(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := newFakeAgent()
		fake.setApps("greeter", appEntry("a", 1))
		source, log := newFakeSource(t, fake, Config{})
		book := watch(t, source, "greeter")
		after(time.Second)
		fake.change(func() {
			fake.apps["greeter"] = nil
			fake.headers["X-Consul-Results-Filtered-By-ACLs"] = "true"
		})
		after(time.Minute)
		want(t, "endpoints", book.addresses(t), []string{"10.0.0.1:1"})
		want(t, "stale", book.last(t).Stale, true)
		if lines := log.with(`node_prefix \"\" { policy = \"read\" }`); len(lines) == 0 {
			t.Fatalf("log:\n%s", strings.Join(log.with(""), "\n"))
		}
		book.stop()
	})
}

// A call that the agent refuses because the token has just been rotated is made
// once more, with the new one.
func TestRefusedCallIsRepeatedWithTheNewToken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "token")
		if err := os.WriteFile(file, []byte("first"), 0o600); err != nil {
			t.Fatal(err)
		}
		fake := newFakeAgent()
		fake.setApps("greeter", appEntry("a", 1))
		source, _ := newFakeSource(t, fake, Config{TokenFile: file})
		if _, err := source.Services(t.Context()); err != nil {
			t.Fatal(err)
		}

		fake.failWith(func(req *http.Request) (*http.Response, error) {
			if req.Header.Get("X-Consul-Token") != "second" {
				return respond(403, nil, "ACL not found"), nil
			}

			return nil, errPass
		})
		if _, err := source.Services(t.Context()); err != nil {
			t.Logf("what was seen last would do: %v", err)
		}
		refused := len(fake.asked("/v1/catalog/services"))
		want(t, "calls with a token that nothing replaces", refused, 2)

		if err := os.WriteFile(file, []byte("second"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := source.Services(t.Context()); err != nil {
			t.Fatal(err)
		}
		var tokens []string
		for _, request := range fake.asked("/v1/catalog/services")[refused:] {
			tokens = append(tokens, request.token)
		}
		want(t, "tokens", tokens, []string{"first", "second"})
	})
}

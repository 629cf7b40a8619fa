package consul

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// limitOf is a service-defaults entry that allows so many RPCs at a time.
func limitOf(service string, most int) any {
	return map[string]any{"Kind": "service-defaults", "Name": service, "LocalRequestTimeoutMs": 5, "UpstreamConfig": map[string]any{
		"Defaults": map[string]any{"Limits": map[string]any{"MaxConcurrentRequests": most}},
	}}
}

// grpcChain is the chain of a service for which there is nothing but a protocol.
func grpcChain(service string) any {
	return map[string]any{"Chain": map[string]any{"ServiceName": service, "Datacenter": "dc1", "Protocol": "grpc", "Default": true}}
}

// limit is what the policies handed over last allow.
func (b *entriesBook) limit() uint32 {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range b.said[len(b.said)-1].List {
		if c := p.GetCircuitBreaker(); c != nil {
			return c.GetMaxConcurrent()
		}
	}

	return 0
}

// onDefaults has questions about service-defaults alone answered so.
func onDefaults(fault func(*http.Request) (*http.Response, error)) func(*http.Request) (*http.Response, error) {
	return func(req *http.Request) (*http.Response, error) {
		if strings.HasPrefix(req.URL.Path, "/v1/config/") {
			return fault(req)
		}

		return nil, errPass
	}
}

func TestWhatTheAppsOwnDefaultsSayOfOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := newFakeAgent()
		fake.change(func() { fake.chains["greeter"], fake.chains["other"] = grpcChain("greeter"), grpcChain("other") })
		source, book := newFakeSource(t, fake, Config{})
		source.CallAs("web")
		greeter, stop := watchEntries(t, source, "greeter", nil)
		other, _ := watchEntries(t, source, "other", nil)
		after(time.Minute)
		want(t, "policies where there is no such entry", greeter.names(), "")
		want(t, "times that they were handed over", greeter.count(), 1)
		if asked := fake.asked("/v1/config/"); len(asked) > 10 || asked[0].path != "/v1/config/service-defaults/web" {
			t.Errorf("%d questions in a minute about what is not there: %+v", len(asked), asked[:1])
		}
		fake.change(func() { fake.defaults["web"] = limitOf("web", 3) })
		after(time.Second)
		want(t, "limits", fmt.Sprint(greeter.limit(), other.limit()), "3 3")
		fake.change(func() { fake.defaults["web"] = limitOf("web", 4) })
		after(time.Second)
		want(t, "limits that are others", fmt.Sprint(greeter.limit(), other.limit()), "4 4")
		want(t, "lines about what is not obeyed", len(book.with("local_request_timeout_ms")), 1)
		// Nothing is told twice, one who comes later is told too, and the question is one.
		told := greeter.count()
		fake.change(func() {})
		after(time.Minute)
		want(t, "times that it was told", greeter.count(), told)
		stop()
		greeter, _ = watchEntries(t, source, "greeter", nil)
		after(time.Second)
		want(t, "limit of who comes later", greeter.limit(), 4)
		want(t, "times that it was told", greeter.count(), 1)
		fake.change(func() { delete(fake.defaults, "web") })
		after(time.Second)
		want(t, "policies when the entry is gone", greeter.names()+other.names(), "")
	})
}

func TestOwnDefaultsThatMayNotBeRead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := newFakeAgent()
		fake.change(func() {
			fake.chains["greeter"], fake.defaults["web"] = subsetChain("greeter", "v1", "", false), limitOf("web", 3)
		})
		fake.failWith(onDefaults(answerWith(http.StatusForbidden, `Permission denied: token with AccessorID 'x' lacks permission 'service:read' on "web"`)))
		source, book := newFakeSource(t, fake, Config{})
		source.CallAs("web")
		greeter, _ := watchEntries(t, source, "greeter", nil)
		after(time.Minute)
		want(t, "policies", greeter.names(), "greeter.subsets")
		if lines := book.with("service-defaults"); len(lines) != 1 || !strings.Contains(lines[0], "not obeyed so far") || !strings.Contains(lines[0], `service \"web\" { policy = \"read\" }`) {
			t.Errorf("%q", lines)
		}
		fake.failWith(nil)
		after(time.Minute)
		want(t, "limit once it may be read", greeter.limit(), 3)
		// An answer that makes no sense counts as none.
		fake.change(func() { fake.defaults["web"] = map[string]any{"Kind": "proxy-defaults"} })
		after(time.Minute)
		want(t, "limit after nonsense", greeter.limit(), 3)
	})
}

func TestOwnDefaultsOutliveAnOutage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		fake := newFakeAgent()
		fake.change(func() { fake.chains["greeter"], fake.defaults["web"] = grpcChain("greeter"), limitOf("web", 3) })
		source, _ := newFakeSource(t, fake, Config{CacheDir: dir})
		source.CallAs("web")
		greeter, stop := watchEntries(t, source, "greeter", nil)
		after(time.Second)
		fake.failWith(refuse)
		after(time.Hour)
		want(t, "limit while Consul is away", greeter.limit(), 3)
		want(t, "times that it was told", greeter.count(), 1)
		stop()
		for name, fault := range map[string]func(*http.Request) (*http.Response, error){"refuses": refuse, "hangs": hang, "hangs in part": onDefaults(hang)} {
			fake.failWith(fault)
			again, _ := newFakeSource(t, fake, Config{CacheDir: dir})
			again.CallAs("web")
			greeter, stop := watchEntries(t, again, "greeter", nil)
			after(time.Second)
			want(t, name+": limit after a restart", greeter.limit(), 3)
			fake.change(func() { fake.fault, fake.defaults["web"] = nil, limitOf("web", 5) })
			// What hangs is given up after a while.
			after(time.Minute)
			want(t, name+": limit when Consul is back", greeter.limit(), 5)
			fake.change(func() { fake.defaults["web"] = limitOf("web", 3) })
			after(time.Second)
			stop()
		}
		// Where nothing is known, policies do not wait for longer than a moment.
		fake.failWith(onDefaults(hang))
		bare, _ := newFakeSource(t, fake, Config{})
		bare.CallAs("web")
		fake.change(func() { fake.index--; fake.chains["greeter"] = subsetChain("greeter", "v1", "", false) })
		greeter, _ = watchEntries(t, bare, "greeter", nil)
		after(cachePatience + 10*time.Millisecond)
		want(t, "policies meanwhile", greeter.names(), "greeter.subsets")
	})
}

// An answer that there is no such thing is one to what asked for it so, and to nothing else.
func TestWhatIsNotThere(t *testing.T) {
	t.Parallel()
	fake := newFakeAgent()
	source, _ := newFakeSource(t, fake, Config{})
	source.CallAs("web")
	var found []byte
	_, err := source.agent.api.Raw().Query("/v1/nothing", &found, nil)
	if err == nil || source.agent.explain(err, "ask").kind != missing {
		t.Errorf("%v", err)
	}
	if got := source.agent.askDefaults(t.Context(), "web", nil); got.err != nil || string(got.value) != "null" || got.index != 10 {
		t.Errorf("%+v", got)
	}
	fake.failWith(func(*http.Request) (*http.Response, error) { return nil, errors.New("away") })
	if got := source.agent.askDefaults(t.Context(), "web", nil); got.err == nil || got.err.kind != unreachable {
		t.Errorf("%+v", got)
	}
}

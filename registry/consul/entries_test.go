package consul

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/pillion-proxy/pillion/registry"
	"github.com/pillion-proxy/pillion/registry/consul/chain"
)

// entriesBook collects what a watch of entries hands over.
type entriesBook struct {
	mu   sync.Mutex
	said []*registry.Policies
	seen []string // what some service's endpoints were at each update
	look func() string
}

func (b *entriesBook) update(now *registry.Policies) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.said = append(b.said, now)
	if b.look != nil {
		b.seen = append(b.seen, b.look())
	}
}

// names are those of the policies handed over last.
func (b *entriesBook) names() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.said) == 0 {
		return "nothing yet"
	}
	var names []string
	for _, p := range b.said[len(b.said)-1].List {
		names = append(names, strings.TrimPrefix(p.GetName(), chain.PolicyPrefix))
	}

	return strings.Join(names, " ")
}

func (b *entriesBook) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()

	return len(b.said)
}

func watchEntries(t *testing.T, source *Source, service string, look func() string) (book *entriesBook, stop func()) {
	t.Helper()
	book = &entriesBook{look: look}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		source.WatchEntries(ctx, service, book.update)
	}()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)

	return book, stop
}

// subsetChain is the chain of a service whose default subset is told by a filter.
func subsetChain(service, subset, filter string, onlyPassing bool) any {
	return map[string]any{"Chain": map[string]any{
		"ServiceName": service, "Datacenter": "dc1", "Protocol": "grpc", "StartNode": "resolver:x",
		"Nodes":   map[string]any{"resolver:x": map[string]any{"Type": "resolver", "Resolver": map[string]any{"Target": "x"}}},
		"Targets": map[string]any{"x": map[string]any{"Service": service, "ServiceSubset": subset, "Datacenter": "dc1", "Subset": map[string]any{"Filter": filter, "OnlyPassing": onlyPassing}}},
	}}
}

// plainChain is the chain of a service for which there are no entries.
func plainChain(service string) any {
	return map[string]any{"Chain": map[string]any{"ServiceName": service, "Datacenter": "dc1", "Protocol": "tcp", "Default": true}}
}

func version(entry *api.ServiceEntry, v string) *api.ServiceEntry {
	entry.Service.Meta = map[string]string{"version": v}

	return entry
}

// marks are the endpoints' subsets: "a:v1 b:".
func marks(service *registry.Service) string {
	var all []string
	for _, e := range service.Endpoints {
		var in []string
		for _, key := range slices.Sorted(maps.Keys(e.Meta)) {
			if subset, is := strings.CutPrefix(key, chain.MetaOfSubset("")); is {
				in = append(in, subset+"="+e.Meta[key])
			}
		}
		all = append(all, filepath.Base(e.ID)+":"+strings.Join(in, ","))
	}

	return strings.Join(all, " ")
}

func TestInstancesAreKnownByTheirSubsetsBeforeThePolicies(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := newFakeAgent()
		fake.setApps("greeter", version(appEntry("a", 1), "v1"), version(appEntry("b", 2), "v2"))
		fake.change(func() { fake.chains["greeter"] = plainChain("greeter") })
		source, book := newFakeSource(t, fake, Config{})
		service := watch(t, source, "greeter")
		after(time.Second)
		before := service.last(t)
		entries, stop := watchEntries(t, source, "greeter", func() string { return marks(service.last(t)) })
		after(time.Second)
		want(t, "policies of no entries", entries.names(), "")
		if now := service.last(t); now != before {
			t.Errorf("there are no subsets, and the instances are told of anew: %+v", now)
		}

		fake.change(func() { fake.chains["greeter"] = subsetChain("greeter", "new", "Service.Meta.version == v2", false) })
		after(time.Second)
		want(t, "policies", entries.names(), "greeter.subsets")
		want(t, "instances when the policies came", entries.seen[len(entries.seen)-1], "a: b:new=yes")
		// Others now, by the same name; and an instance that comes is known too.
		fake.change(func() { fake.chains["greeter"] = subsetChain("greeter", "new", "Service.Meta.version != v2", false) })
		after(time.Second)
		want(t, "instances", marks(service.last(t)), "a:new=yes b:")
		// A subset that is not spoken of any more has its instances for as long as RPCs may
		// still be sent there.
		fake.change(func() { fake.chains["greeter"] = subsetChain("greeter", "newer", "Service.Meta.version == v2", false) })
		after(time.Second)
		want(t, "instances for a while", marks(service.last(t)), "a:new=yes b:newer=yes")
		want(t, "subsets of the policies", len(entries.said[len(entries.said)-1].List[0].GetSubsets().GetSubsets()), 1)
		after(lingerFor)
		want(t, "instances after that", marks(service.last(t)), "a: b:newer=yes")
		fake.change(func() { fake.chains["greeter"] = subsetChain("greeter", "new", "Service.Meta.version != v2", false) })
		after(2 * lingerFor)
		fake.setApps("greeter", version(appEntry("a", 1), "v1"), version(appEntry("b", 2), "v2"), version(appEntry("c", 3), "v3"))
		after(time.Second)
		want(t, "instances", marks(service.last(t)), "a:new=yes b: c:new=yes")
		// Nothing is told twice.
		told := entries.count()
		fake.change(func() {})
		after(time.Minute)
		want(t, "times that policies were handed over", entries.count(), told)

		stop()
		after(time.Second)
		want(t, "instances when nobody asks for entries any more", marks(service.last(t)), "a: b: c:")
		want(t, "lines logged", book.with("WARN"), []string{})
	})
}

func TestSubsetsOfThoseThatPass(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := newFakeAgent()
		warns := with(appEntry("b", 2), func(e *api.ServiceEntry) { e.Checks = api.HealthChecks{checkOf("b", api.HealthWarning, "hm")} })
		forged := with(appEntry("c", 3), func(e *api.ServiceEntry) {
			e.Service.Meta = map[string]string{chain.MetaOfSubset("well"): "yes", chain.MetaOfSubset("other"): "yes"}
			e.Checks = warns.Checks
		})
		fake.setApps("greeter", appEntry("a", 1), warns, forged)
		// Of an instance with a sidecar, the sidecar is looked at.
		fake.setApps("next", version(appEntry("a", 1), "v1"))
		fake.setSidecars("next", version(sidecarEntry("a", 2), "v2"))
		fake.change(func() {
			fake.chains["greeter"] = subsetChain("greeter", "well", "", true)
			fake.chains["next"] = subsetChain("next", "v2", "Service.Meta.version == v2", false)
		})
		for _, entry := range fake.sidecars["next"] {
			entry.Service.Meta[metaPillion] = speaksPlain
		}
		source, _ := newFakeSource(t, fake, Config{})
		watchEntries(t, source, "greeter", nil)
		watchEntries(t, source, "next", nil)
		service, next := watch(t, source, "greeter"), watch(t, source, "next")
		after(3 * time.Second)
		want(t, "instances", marks(service.last(t)), "a:well=yes b: c:")
		want(t, "instances beside a sidecar", marks(next.last(t)), "a:v2=yes")
	})
}

// Two services lead to one: its instances are known by the subsets of both.
func TestSubsetsThatSeveralSpeakOf(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := newFakeAgent()
		fake.setApps("greeter", version(appEntry("a", 1), "v1"), version(appEntry("b", 2), "v2"))
		fake.change(func() {
			fake.chains["x"] = subsetChain("greeter", "v1", "Service.Meta.version == v1", false)
			fake.chains["y"] = subsetChain("greeter", "v2", "Service.Meta.version == v2", false)
		})
		source, _ := newFakeSource(t, fake, Config{})
		service := watch(t, source, "greeter")
		x, stopX := watchEntries(t, source, "x", nil)
		watchEntries(t, source, "y", nil)
		after(time.Second)
		want(t, "instances", marks(service.last(t)), "a:v1=yes b:v2=yes")
		want(t, "policies of x", x.names(), "greeter.subsets x.route")
		stopX()
		after(time.Second)
		want(t, "instances", marks(service.last(t)), "a: b:v2=yes")
	})
}

func TestEntriesOutliveAnOutage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		fake := newFakeAgent()
		fake.change(func() { fake.chains["greeter"] = subsetChain("greeter", "v1", "Service.Meta.version == v1", false) })
		source, book := newFakeSource(t, fake, Config{CacheDir: dir})
		entries, stop := watchEntries(t, source, "greeter", nil)
		after(time.Second)
		fake.failWith(refuse)
		after(time.Hour)
		want(t, "policies while Consul is away", entries.names(), "greeter.subsets")
		want(t, "times that they were handed over", entries.count(), 1)
		if n := len(fake.asked("/v1/discovery-chain/")); n > 1000 {
			t.Errorf("%d questions in an hour", n)
		}
		stop()

		// A restart meanwhile goes on with what the disk holds, at once or after a while.
		for name, fault := range map[string]func(*http.Request) (*http.Response, error){"refuses": refuse, "hangs": hang} {
			fake.failWith(fault)
			again, _ := newFakeSource(t, fake, Config{CacheDir: dir})
			entries, stop := watchEntries(t, again, "greeter", nil)
			after(time.Second)
			want(t, name+": policies after a restart", entries.names(), "greeter.subsets")
			other, stopOther := watchEntries(t, again, "other", nil)
			after(time.Second)
			want(t, name+": policies of which nothing is known", other.names(), "")
			// And they hold to what Consul says once it is back.
			fake.change(func() {
				fake.fault, fake.chains["greeter"], fake.chains["other"] = nil, plainChain("greeter"), subsetChain("other", "x", "", true)
			})
			after(10 * time.Second)
			want(t, name+": policies when Consul is back", entries.names()+", "+other.names(), ", other.subsets")
			stop()
			stopOther()
			fake.change(func() { fake.chains["greeter"] = subsetChain("greeter", "v1", "Service.Meta.version == v1", false) })
			once, _ := newFakeSource(t, fake, Config{CacheDir: dir})
			_, stop = watchEntries(t, once, "greeter", nil)
			after(time.Second)
			stop()
			if err := os.Remove(once.cache.pathOf("other", chainSuffix)); err != nil {
				t.Error(err)
			}
		}
		want(t, "lines about the disk", book.with("on disk"), []string{})
	})
}

// hang answers nothing.
func hang(req *http.Request) (*http.Response, error) {
	<-req.Context().Done()

	return nil, req.Context().Err()
}

func TestEntriesThatCannotBeRead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := newFakeAgent()
		fake.failWith(answerWith(http.StatusForbidden, `Permission denied: token with AccessorID 'x' lacks permission 'service:read' on "greeter"`))
		source, book := newFakeSource(t, fake, Config{CacheDir: t.TempDir()})
		entries, _ := watchEntries(t, source, "greeter", nil)
		after(time.Minute)
		want(t, "policies", entries.names(), "")
		if lines := book.with("discovery chain"); len(lines) != 1 || !strings.Contains(lines[0], `service \"greeter\" { policy = \"read\" }`) {
			t.Errorf("%q", lines)
		}
		// What is no chain counts as no answer.
		fake.change(func() {
			fake.fault, fake.chains["greeter"] = nil, map[string]any{"Chain": map[string]any{"StartNode": "x"}}
		})
		after(time.Minute)
		want(t, "policies of nonsense", fmt.Sprint(entries.names(), entries.count()), "1")
		fake.change(func() { fake.chains["greeter"] = subsetChain("greeter", "v1", "", true) })
		after(time.Minute)
		want(t, "policies", entries.names(), "greeter.subsets")
		// A name that no service can have has no entries, and costs no question.
		odd, _ := watchEntries(t, source, "no/service", nil)
		after(time.Second)
		want(t, "policies of no service", odd.names(), "")
		if n := len(fake.asked("/v1/discovery-chain/no")); n > 0 {
			t.Errorf("%d questions about what is no name", n)
		}
	})
}

func TestEntriesOfAnotherDatacentre(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := newFakeAgent()
		fake.change(func() { fake.chains["greeter"] = subsetChain("greeter", "v1", "", false) })
		source, _ := newFakeSource(t, fake, Config{})
		entries, _ := watchEntries(t, source, "greeter.dc1", nil)
		after(time.Second)
		want(t, "policies", entries.names(), "greeter.dc1.subsets")
		if asked := fake.asked("/v1/discovery-chain/greeter"); len(asked) == 0 || asked[0].query["dc"][0] != "dc1" {
			t.Errorf("%+v", asked)
		}
	})
}

func TestKeptEntriesBelieveNothingUnchecked(t *testing.T) {
	t.Parallel()
	disk := &cache{limits: standard, dir: t.TempDir()}
	if err := disk.saveAnswer("greeter", chainSuffix, []byte(`{"Chain":{}}`)); err != nil {
		t.Fatal(err)
	}
	path := disk.pathOf("greeter", chainSuffix)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if found, err := disk.loadAnswer("greeter", chainSuffix); err != nil || string(found) != `{"Chain":{}}` {
		t.Fatalf("%s, %v", found, err)
	}
	if found, err := disk.loadAnswer("other", chainSuffix); found != nil || err != nil {
		t.Fatalf("%s, %v", found, err)
	}
	for _, bad := range []string{"", "{", strings.Replace(string(good), `"version":1`, `"version":9`, 1), strings.Replace(string(good), "greeter", "other", 1)} {
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if found, err := disk.loadAnswer("greeter", chainSuffix); found != nil || err == nil {
			t.Errorf("%q: %s, %v", bad, found, err)
		}
	}
	// They are none of the services that are kept beside them.
	if all := disk.all(); len(all) != 0 {
		t.Errorf("%+v", all)
	}
	small := &cache{limits: Limits{CacheFileBytes: 10}.withDefaults(), dir: disk.dir}
	if err := small.saveAnswer("greeter", chainSuffix, good); err == nil {
		t.Error("what is too long is kept")
	}
}

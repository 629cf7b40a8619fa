package consul

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/consul/api"
)

// Consul is back after an outage and has lost what it knew, as an agent in
// development mode does at each restart. Who was known keeps its place until it has
// registered again, or is known to be ill, or long enough.
func TestConsulHasLostWhatItKnew(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := newFakeAgent()
		fake.index = 1000
		greeters := []*api.ServiceEntry{appEntry("a", 1), appEntry("b", 2), appEntry("c", 3)}
		for _, entry := range greeters {
			entry.Service.Meta = map[string]string{metaGRPC: "helloworld.Greeter"}
		}
		fake.setApps("greeter", greeters...)
		source, _ := newFakeSource(t, fake, Config{})
		book := watch(t, source, "greeter")
		after(time.Second)
		all := []string{"10.0.0.1:1", "10.0.0.1:2", "10.0.0.1:3"}
		want(t, "before", book.addresses(t), all)

		fake.failWith(refuse)
		after(time.Minute)
		fake.change(func() {
			fake.fault = nil
			fake.index = 5
			fake.apps = map[string][]*api.ServiceEntry{}
		})
		answering := func() {
			t.Helper()
			names, err := source.Answering(t.Context(), "helloworld.Greeter")
			if err != nil {
				t.Error(err)
			}
			want(t, "who answers", names, []string{"greeter"})
		}
		after(relearnFor / 4)
		want(t, "with nobody registered", book.addresses(t), all)
		answering()
		status := source.Status().Services[0]
		if !status.Stale || status.Error == "" {
			t.Errorf("status: %+v", status)
		}

		// One is back, with a check that has not run, and one is ill.
		ill := with(appEntry("b", 2), func(e *api.ServiceEntry) {
			e.Checks = api.HealthChecks{checkOf("b", api.HealthCritical, "rpc error: refused")}
		})
		fresh := with(appEntry("a", 1), func(e *api.ServiceEntry) {
			e.Service.Meta = map[string]string{metaGRPC: "helloworld.Greeter"}
			e.Checks = api.HealthChecks{checkOf("a", api.HealthCritical, "")}
		})
		fake.setApps("greeter", fresh, ill)
		after(relearnFor / 4)
		want(t, "with two registered", book.addresses(t), []string{"10.0.0.1:1", "10.0.0.1:3"})
		answering()

		// The other does not come back, and the first one's check passes.
		fake.setApps("greeter", greeters[0], ill)
		after(relearnFor)
		want(t, "in the end", book.addresses(t), []string{"10.0.0.1:1"})
		if status := source.Status().Services[0]; status.Stale || status.Error != "" {
			t.Errorf("status in the end: %+v", status)
		}
		book.stop()
	})
}

// Nobody comes back: that is believed in the end, after a consistent read.
func TestConsulHasLostWhatItKnewForGood(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := newFakeAgent()
		fake.setApps("greeter", appEntry("a", 1))
		source, _ := newFakeSource(t, fake, Config{})
		book := watch(t, source, "greeter")
		after(time.Second)
		fake.change(func() {
			fake.index = 5
			fake.apps = map[string][]*api.ServiceEntry{}
		})
		after(relearnFor - time.Second)
		want(t, "at first", book.addresses(t), []string{"10.0.0.1:1"})
		after(confirmGoneAfter + 2*time.Second)
		if service := book.last(t); service != nil {
			t.Errorf("in the end: %+v", service)
		}
		book.stop()
	})
}

// An instance that is registered anew under another id, or on a node of another
// name, is not there twice.
func TestWhoIsBackIsNotThereTwice(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := newFakeAgent()
		fake.setApps("greeter", appEntry("a", 1))
		source, _ := newFakeSource(t, fake, Config{})
		book := watch(t, source, "greeter")
		after(time.Second)
		fake.change(func() {
			fake.index = 5
			fake.apps["greeter"] = []*api.ServiceEntry{with(appEntry("renamed", 1), func(*api.ServiceEntry) {})}
		})
		after(time.Second)
		want(t, "after it is back", book.addresses(t), []string{"10.0.0.1:1"})
		book.stop()
	})
}

// Consul has lost what it knew, and counts no lower than before: all are gone, and come
// back one by one. Nobody loses his place before it would be believed that all are gone.
func TestInstancesComeBackOneByOne(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := newFakeAgent()
		fake.setApps("greeter", appEntry("a", 1), appEntry("b", 2), appEntry("c", 3))
		source, _ := newFakeSource(t, fake, Config{})
		book := watch(t, source, "greeter")
		after(time.Second)
		all := []string{"10.0.0.1:1", "10.0.0.1:2", "10.0.0.1:3"}
		fake.change(func() { fake.apps = map[string][]*api.ServiceEntry{} })
		after(time.Second)
		want(t, "with nobody", book.addresses(t), all)
		fake.setApps("greeter", appEntry("a", 1))
		after(time.Second)
		want(t, "with one", book.addresses(t), all)
		fake.setApps("greeter", appEntry("a", 1), appEntry("b", 2))
		after(time.Second)
		want(t, "with two", book.addresses(t), all)
		after(confirmGoneAfter)
		want(t, "in the end", book.addresses(t), all[:2])
		if status := source.Status().Services[0]; status.Stale || status.Error != "" {
			t.Errorf("status in the end: %+v", status)
		}
		// Who goes alone goes at once.
		fake.setApps("greeter", appEntry("b", 2))
		after(time.Second)
		want(t, "one has left", book.addresses(t), all[1:2])
		book.stop()
	})
}

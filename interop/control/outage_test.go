package control

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/kv"
	agents "github.com/pillion-proxy/pillion/interop/consul"
	"github.com/pillion-proxy/pillion/interop/harness"
	"github.com/pillion-proxy/pillion/interop/load"
)

// guarded is routes with an access policy for the callers' own app, which refuses RPCs
// that say so.
func guarded(version string) string {
	return routes(version) + `
- name: SERVICE-web-guard
  service: SERVICE-web
  access: {rules: [{action: deny, metadata: [{key: x-refuse, present: true}]}]}
`
}

// may says what becomes of an RPC that arrives at a caller's own app, one to be refused
// or another.
func (c *caller) may(t *testing.T, refused bool) codes.Code {
	t.Helper()

	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if refused {
		ctx = metadata.AppendToOutgoingContext(ctx, "x-refuse", "yes")
	}
	_, err := load.Who(ctx, load.Dial(t, c.Inbound))

	return status.Code(err)
}

// guards checks that the access policy of the callers' app holds.
func (c *caller) guards(t *testing.T, when string) {
	t.Helper()

	if is, not := c.may(t, false), c.may(t, true); is != codes.OK || not != codes.PermissionDenied {
		t.Errorf("%s: %s answers with %v, and where it is to refuse with %v", when, c.id, is, not)
	}
}

// TestSidecarsInAnOutage takes Consul away at every stage. Nothing that held is lost, and
// no RPC fails.
func TestSidecarsInAnOutage(t *testing.T) {
	t.Parallel()

	agent := agents.Start(t)
	r := newRig(t, agent, "outage")
	r.apply(guarded("v1"))
	r.ready(2)
	first, second := r.sidecars[0], r.sidecars[1]
	all := r.loads(first)
	r.answers(first, "v1")
	r.answers(second, "v1")
	first.guards(t, "at first")
	// A revision that is wrong, so that the last good one is not the newest.
	bad := strings.ReplaceAll(`{"revision":"2","policy":{"name":"SERVICE-versions","service":"SERVICE","subsets":{"default":"v3"}}}`, "SERVICE", r.service)
	must(t, r.store().Commit(t.Context(), kv.Op{Key: control.DocumentKey(control.Policy, r.service, r.service+"-versions"), Value: []byte(bad), Any: true}))
	if m := r.settle(1); m.Refused() != 2 {
		t.Errorf("refused by %d", m.Refused())
	}

	agent.Kill()
	agents.Eventually(t, "the sidecar says that what it obeys may be out of date", func() bool {
		return first.Metric(t, "pillion_control_stale") == 1
	})
	for _, args := range [][]string{{"apply", "-f", r.file(routes("v2"))}, {"status"}, {"plan", "-f", r.file(routes("v2"))}, {"status", "--wait", "--timeout", "1s"}} {
		if said := r.pillion(1, args...); strings.Contains(said, "\n") {
			t.Errorf("%v: %s", args, said)
		}
	}
	all.more(t, "Consul is away")
	first.upgrade(t)
	all.more(t, "upgraded without Consul")
	began := time.Now()
	r.restart(second)
	second.AwaitReady(t)
	t.Logf("restarted without Consul, ready after %v", time.Since(began).Round(time.Millisecond))
	for _, c := range []*caller{first, second} {
		r.answers(c, "v1")
		c.guards(t, "without Consul")
	}
	// One that knows nothing lets nobody in whom it might have to refuse.
	fresh := r.start("")
	agents.Eventually(t, "a fresh sidecar answers", func() bool {
		code, _ := page(t, fresh.Admin, "/live")

		return code == http.StatusOK
	})
	if code := fresh.may(t, false); code != codes.PermissionDenied {
		t.Errorf("a sidecar that does not know the policies of its app answers with %v", code)
	}
	if code, said := page(t, fresh.Admin, "/ready"); code != http.StatusServiceUnavailable || !strings.Contains(said, "documents: access policies for the app are not known") {
		t.Errorf("it does not say so: /ready %d %s", code, said)
	}
	// Its successor would know no more, so there is none.
	fresh.Signal(t, hangup)
	fresh.Await(t, "the upgrade failed.*access policy .*not known")

	agent.Start(t)
	began = time.Now()
	fresh.AwaitReady(t)
	agents.Eventually(t, "it knows instances", func() bool {
		_, err := load.Who(t.Context(), load.Dial(t, fresh.Outbound))

		return err == nil
	})
	r.answers(fresh, "v1", "v2") // the good version is nowhere that it could have seen
	fresh.guards(t, "Consul is back")
	t.Logf("a sidecar that was started without Consul obeys %v after it is back", time.Since(began).Round(time.Millisecond))
	freshly := r.loads(fresh)
	all.more(t, "Consul is back")

	// It goes in the middle of what people do.
	ended := make(chan int)
	go func() {
		written := 0
		for version := "v1"; ; written++ {
			if code, _ := command(t, r.where, "apply", "-f", r.file(routes(version))); code != 0 {
				ended <- written

				return
			}
			version = map[string]string{"v1": "v2", "v2": "v1"}[version]
		}
	}()
	time.Sleep(700 * time.Millisecond)
	agent.Kill()
	t.Logf("Consul was killed after %d changes", <-ended)
	all.more(t, "Consul went during a change")
	// It keeps nothing on disk, but hands over what it knows by now.
	fresh.upgrade(t)
	fresh.guards(t, "upgraded without Consul and without a folder")
	freshly.more(t, "upgraded without Consul and without a folder")
	agent.Start(t)
	began = time.Now()
	r.pillion(0, "apply", "-f", r.file(guarded("v2")))
	for _, c := range r.sidecars {
		r.answers(c, "v2")
	}
	t.Logf("all obey what is applied after an outage %v after it is back", time.Since(began).Round(time.Millisecond))
	freshly.end(t)
	m := r.settle(0)
	revision := m.Documents[0].Revision

	// It comes back without what it knew.
	agent.Kill()
	agent.Forget(t)
	agent.Start(t)
	r.register()
	agents.Eventually(t, "the status says what was lost", func() bool {
		_, said := command(t, r.where, "status")

		return strings.Count(said, "keeps 2 lost") == 3 && strings.Contains(said, "the store has lost it")
	})
	all.more(t, "Consul has lost its data")
	for _, c := range r.sidecars {
		r.answers(c, "v2")
		c.guards(t, "Consul has lost its data")
	}
	r.restart(second)
	second.AwaitReady(t)
	r.answers(second, "v2")
	second.guards(t, "Consul has lost its data, and the sidecar was restarted")
	r.pillion(0, "apply", "-f", r.file(guarded("v1")))
	for _, c := range r.sidecars {
		r.answers(c, "v1")
		c.guards(t, "applied anew")
	}
	m = r.settle(0)
	if m.Lost() != 0 || m.Documents[0].Revision != 1 || revision < 3 {
		t.Errorf("applied anew: %+v; the revision before was %d", m.Documents[0], revision)
	}
	r.pillion(0, "delete", "policy/"+r.service+"-versions", "policy/"+r.service+"-web-guard")
	for _, c := range r.sidecars {
		r.answers(c, "v1", "v2")
	}
	all.end(t)
}

// TestFolderAway is an outage of a folder: it is taken away, and comes back, or a new one
// does.
func TestFolderAway(t *testing.T) {
	t.Parallel()

	r := newRig(t, nil, "folder")
	r.apply(guarded("v1"))
	r.ready(2)
	first, second := r.sidecars[0], r.sidecars[1]
	all := r.loads(first)
	r.answers(first, "v1")
	must(t, os.Rename(r.dir, r.dir+".away"))
	agents.Eventually(t, "the sidecar says that what it obeys may be out of date", func() bool {
		return first.Metric(t, "pillion_control_stale") == 1
	})
	r.restart(second)
	second.AwaitReady(t)
	for _, c := range r.sidecars {
		r.answers(c, "v1")
		c.guards(t, "without the folder")
	}
	// The one that was restarted has made a folder, in which there is nothing.
	agents.Eventually(t, "the folder is back", func() bool {
		return os.RemoveAll(r.dir) == nil && os.Rename(r.dir+".away", r.dir) == nil
	})
	r.apply(guarded("v2"))
	for _, c := range r.sidecars {
		r.answers(c, "v2")
	}
	// All that was written goes.
	must(t, os.RemoveAll(filepath.Join(r.dir, "pillion", "v1", "services")))
	must(t, os.RemoveAll(filepath.Join(r.dir, "pillion", "v1", "history")))
	agents.Eventually(t, "the status says what was lost", func() bool {
		_, said := command(t, r.where, "status")

		return strings.Contains(said, "the store has lost it")
	})
	for _, c := range r.sidecars {
		r.answers(c, "v2")
		c.guards(t, "the folder is empty")
	}
	r.apply(guarded("v1"))
	for _, c := range r.sidecars {
		r.answers(c, "v1")
	}
	r.settle(0)
	all.end(t)
}

// page asks an admin port for a page, whatever the answer; 0: there is none.
func page(t *testing.T, admin, path string) (code int, body string) {
	t.Helper()

	s := &harness.Sidecar{Admin: admin}

	return s.Ask(t, path)
}

package control

import (
	"encoding/json"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/kv"
	"github.com/pillion-proxy/pillion/control/status"
	agents "github.com/pillion-proxy/pillion/interop/consul"
	"github.com/pillion-proxy/pillion/interop/harness"
)

// hangup has a sidecar replace itself.
const hangup = syscall.SIGHUP

// TestSidecarsObeyDocuments is of sidecars that run, with a Consul and with a folder.
func TestSidecarsObeyDocuments(t *testing.T) {
	t.Parallel()

	agent := agents.Start(t)
	everywhere(t, agent, "obeyed", documentsAreObeyed)
	everywhere(t, agent, "refused", badDocumentsAreRefusedAlone)
	everywhere(t, agent, "upgraded", upgradeWithARunningCanary)
}

// What is applied holds at once on sidecars that run; commands say so, and say before
// what it would do.
func documentsAreObeyed(t *testing.T, r *rig) {
	r.ready(2)
	all := r.loads(r.sidecars...)
	r.answers(r.sidecars[0], "v1", "v2")

	r.apply(routes("v1"))
	for _, c := range r.sidecars {
		t.Logf("%s obeys %v after pillion apply has ended", c.id, r.answers(c, "v1"))
	}
	m := r.settle(0)
	if len(m.Sidecars) != 2 || len(m.Documents) != 1 || m.Documents[0].InForce != 2 || m.Documents[0].Revision != 1 {
		t.Errorf("status: %+v", m)
	}
	for _, s := range m.Sidecars {
		if s.InForce != 1 || len(s.Problems) > 0 || s.Policies != m.Sidecars[0].Policies || s.Policies == "" {
			t.Errorf("sidecar: %+v", s)
		}
	}
	watch := harness.Start(t, harness.Command{Path: harness.PlainPillion(t), Args: append([]string{"status", "--service", r.service, "--watch"}, r.where...)})
	watch.Await(t, r.service+`-versions +`+r.service+` +1 +2 of 2 +0 +0`)
	all.more(t, "policies are applied")

	// What a change would do to RPCs that were made.
	changed := r.file(routes("v2"))
	args := []string{"plan", "-f", changed}
	for _, c := range r.sidecars {
		args = append(args, "--admin", c.Admin)
	}
	said := r.pillion(3, args...)
	for _, want := range []string{`subsets.default: "v1" -> "v2"`, "for 2 sidecars (", "would fare otherwise", "default v1 -> subsets v1"} {
		if !strings.Contains(said, want) {
			t.Errorf("plan does not say %q:\n%s", want, said)
		}
	}
	var plan struct{ Replayed, Moved int }
	if err := json.Unmarshal([]byte(r.pillion(3, append(args, "-o", "json")...)), &plan); err != nil || plan.Moved == 0 || plan.Moved > plan.Replayed {
		t.Errorf("plan as JSON: %+v, %v", plan, err)
	}
	r.pillion(0, "plan", "-f", r.file(routes("v1")), "--admin", r.sidecars[0].Admin)

	r.pillion(0, "apply", "-f", changed)
	for _, c := range r.sidecars {
		t.Logf("%s obeys a change %v after pillion apply has ended", c.id, r.answers(c, "v2"))
	}
	watch.Await(t, r.service+`-versions +`+r.service+` +2 +2 of 2 +0 +0`)
	watch.Kill()
	r.pillion(0, "rollback", "policy/"+r.service+"-versions")
	for _, c := range r.sidecars {
		r.answers(c, "v1")
	}
	if m := r.settle(0); m.Documents[0].Revision != 3 {
		t.Errorf("after the rollback: %+v", m.Documents[0])
	}
	r.pillion(0, "delete", "policy/"+r.service+"-versions")
	for _, c := range r.sidecars {
		r.answers(c, "v1", "v2")
	}
	if m := r.settle(0); len(m.Documents) != 0 || m.Lost() != 0 {
		t.Errorf("after it was deleted: %+v", m)
	}
	all.end(t)
}

// Whatever somebody writes past all checks, it is refused alone.
func badDocumentsAreRefusedAlone(t *testing.T, r *rig) {
	r.apply(routes("v1") + "- {name: SERVICE-broken, service: SERVICE, methods: [a.B/*], timeout: {default: 7s}}\n")
	r.ready(2)
	r.settle(0)
	all := r.loads(r.sidecars...)
	all.more(t, "nothing was written")

	bad := map[string]string{
		"broken":  `{"revision":"2","policy":{"name":`,
		"unknown": `{"revision":"2","policy":{"name":"SERVICE-unknown","service":"SERVICE","timeout":{"default":"1s","moreover":true}}}`,
		"schema":  `{"revision":"2","policy":{"name":"SERVICE-schema","service":"SERVICE","timeout":{"default":"-1s"}}}`,
		"compile": `{"revision":"2","policy":{"name":"SERVICE-compile","service":"SERVICE","methods":["c.D/*"],"route":{"rules":[{"name":"x","to":{"subset":"v3"}}]}}}`,
		"key":     `{"revision":"2","policy":{"name":"SERVICE-another","service":"SERVICE","timeout":{"default":"1s"}}}`,
	}
	store := r.store()
	for name, text := range bad {
		text = strings.ReplaceAll(text, "SERVICE", r.service)
		must(t, store.Commit(t.Context(), kv.Op{Key: control.DocumentKey(control.Policy, r.service, r.service+"-"+name), Value: []byte(text), Any: true}))
	}
	// The good one among them, which comes last, holds.
	good := strings.ReplaceAll(`{"revision":"2","policy":{"name":"SERVICE-versions","service":"SERVICE","subsets":{"default":"v2","subsets":{"v1":{"meta":{"version":"v1"}},"v2":{"meta":{"version":"v2"}}}}}}`, "SERVICE", r.service)
	must(t, store.Commit(t.Context(), kv.Op{Key: control.DocumentKey(control.Policy, r.service, r.service+"-versions"), Value: []byte(good), Any: true}))
	for _, c := range r.sidecars {
		r.answers(c, "v2")
	}
	said := r.pillion(1, "status", "--service", r.service, "--wait", "--timeout", "30s")
	if !strings.Contains(said, "refused 5") || !strings.Contains(said, "pillion: some sidecars have refused documents") || !strings.Contains(said, "(revision 1 stays in force)") {
		t.Errorf("status: %s", said)
	}
	m := r.mesh(r.pillion(0, "status", "--service", r.service, "-o", "json"))
	for _, s := range m.Sidecars {
		refused := map[string]status.Refusal{}
		for _, one := range s.Refused {
			refused[strings.TrimPrefix(one.Document, "policy/"+r.service+"-")] = one
		}
		for name := range bad {
			one, is := refused[name]
			inForce := uint64(0)
			if name == "broken" {
				inForce = 1 // what it had been before
			}
			if !is || one.Problem == "" || one.InForce != inForce || strings.Contains(one.Problem, "\n") || !strings.Contains(one.Problem, r.service+"-"+name) {
				t.Errorf("%s about %s: %+v", s.ID, name, one)
			}
		}
		if len(refused) != len(bad) || len(s.Behind) > 0 {
			t.Errorf("%s: %+v", s.ID, s)
		}
	}
	if kept := r.sidecars[0].Metric(t, "pillion_control_documents", `state="kept"`); kept != 1 {
		t.Errorf("%v documents are kept, says the sidecar's metric", kept)
	}
	all.more(t, "bad documents were written")

	// Also after a restart, which reads the bad ones before anything else.
	r.restart(r.sidecars[0])
	r.sidecars[0].AwaitReady(t)
	r.answers(r.sidecars[0], "v2")
	agents.Eventually(t, "what was good before the restart holds after it", func() bool {
		m = r.mesh(r.pillion(0, "status", "--service", r.service, "-o", "json"))
		for _, s := range m.Sidecars {
			for _, one := range s.Refused {
				if s.ID == r.sidecars[0].id && one.Document == "policy/"+r.service+"-broken" {
					return one.InForce == 1
				}
			}
		}

		return false
	})
	all[1].End(t)
}

// A sidecar that is replaced in place, while a canary runs of which it may be the elected
// one, changes nothing about it.
func upgradeWithARunningCanary(t *testing.T, r *rig) {
	r.apply(routes("v1") + `
canaries:
- name: SERVICE
  service: SERVICE
  stable: v1
  canary: v2
  steps: [{weight: 5000, hold: 300s}]
`)
	r.ready(2)
	all := r.loads(r.sidecars...)
	r.pillion(0, "canary", "start", r.service)
	for _, c := range r.sidecars {
		r.answers(c, "v1", "v2")
	}
	before := r.settle(0)
	store := r.store()
	missing, began := []string{}, time.Now()
	watching(func() {
		for _, c := range r.sidecars {
			if _, err := store.Get(t.Context(), control.StatusKey(c.app, c.id)); err != nil {
				missing = append(missing, fmt.Sprint(time.Since(began).Round(time.Millisecond), " ", c.id, ": ", err))
			}
		}
	}, func() {
		for _, c := range r.sidecars {
			c.upgrade(t)
			all.more(t, c.id+" was upgraded")
		}
		for _, c := range r.sidecars {
			agents.Eventually(t, c.id+"'s old process has gone", func() bool { return strings.Contains(c.Output(), `"msg":"stopped"`) })
		}
		all.more(t, "both were upgraded")
	})
	if len(missing) > 0 {
		t.Errorf("%d times a sidecar's status was not there while it was upgraded: %q", len(missing), missing)
	}
	after := r.settle(0)
	if len(after.Sidecars) != 2 || len(after.Runs) != 1 || len(before.Runs) != 1 {
		t.Fatalf("before %+v, after %+v", before, after)
	}
	if a, b := before.Runs[0], after.Runs[0]; a.Phase != "running" || b.Phase != a.Phase || !b.Since.Equal(a.Since) || b.Reason != a.Reason {
		t.Errorf("the canary stood at %+v, and stands at %+v", a, b)
	}
	for _, s := range after.Sidecars {
		if len(s.Problems) > 0 {
			t.Errorf("%s: %v", s.ID, s.Problems)
		}
	}
	asked := time.Now()
	r.pillion(0, "canary", "abort", r.service)
	for _, c := range r.sidecars {
		r.answers(c, "v1")
	}
	t.Logf("a request after the upgrades is done %v after it was made; elected before: %q, after: %q",
		time.Since(asked).Round(time.Millisecond), before.Runs[0].Elected, after.Runs[0].Elected)
	all.end(t)
	if fmt.Sprint(r.transitions(store)) != "[PHASE_RUNNING PHASE_ABORTED]" {
		t.Errorf("transitions: %v", r.transitions(store))
	}
}

// transitions are the phases that the canary went through.
func (r *rig) transitions(store kv.Store) (phases []string) {
	r.t.Helper()

	all, err := store.List(r.t.Context(), control.TransitionsPrefix(control.Canary, r.service, r.service))
	must(r.t, err)
	for _, e := range all {
		var one struct{ State struct{ Phase string } }
		must(r.t, json.Unmarshal(e.Value, &one))
		phases = append(phases, one.State.Phase)
	}

	return phases
}

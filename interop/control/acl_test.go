package control

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/kv"
	agents "github.com/pillion-proxy/pillion/interop/consul"
	"github.com/pillion-proxy/pillion/registry/consul"
)

// aclRules are those that docs/control.md shows for a role.
func aclRules(t testing.TB, role string) string {
	t.Helper()

	rules, err := os.ReadFile(filepath.Join("testdata", "acl", role+".hcl"))
	must(t, err)

	return string(rules)
}

// Each role can do what it is for, and nothing else.
func TestWhoMay(t *testing.T) {
	t.Parallel()

	agent := agents.Start(t, agents.WithACLs())
	roles := map[string]*consul.Store{}
	for _, role := range []string{"sidecar", "operator", "viewer"} {
		roles[role], _ = openStore(t, agent, consul.Config{Token: agent.Token(t, aclRules(t, role))}, nil)
	}
	roles["nobody"], _ = openStore(t, agent, consul.Config{Token: agent.Token(t, `node_prefix "" { policy = "read" }`)}, nil)
	roles["without a token"], _ = openStore(t, agent, consul.Config{}, nil)
	all, _ := openStore(t, agent, consul.Config{Token: agents.ManagementToken}, nil)

	const reads, writes, hidden = "reads", "writes", "hidden"
	for _, c := range []struct {
		key                       string
		sidecar, operator, viewer string
	}{
		{control.DocumentKey(control.Policy, "greeter", "timeouts"), reads, writes, reads},
		{control.DocumentKey(control.Canary, "*", "all"), reads, writes, reads},
		{control.RequestKey(control.Canary, "greeter", "next"), reads, writes, reads},
		{control.HistoryKey(control.Policy, "timeouts", 1), reads, writes, reads},
		{control.StateKey(control.Canary, "greeter", "next"), writes, reads, reads},
		{control.StateKey(control.Experiment, "orders", "button"), writes, reads, reads},
		{control.TransitionKey(control.Canary, "greeter", "next", 1), writes, reads, reads},
		{control.LeaderKey("greeter"), writes, reads, reads},
		{control.StatusKey("greeter", "one"), writes, reads, reads},
		{control.StatusKey("orders", "one"), hidden, reads, reads},
		{control.StatusKey("", "one"), hidden, reads, reads},
		{"pillion/v2/services/greeter/policy/x", hidden, hidden, hidden},
		{"somebody/else", hidden, hidden, hidden},
	} {
		must(t, all.Commit(t.Context(), kv.Op{Key: c.key, Value: []byte("before"), Any: true}))
		for role, may := range map[string]string{"sidecar": c.sidecar, "operator": c.operator, "viewer": c.viewer, "nobody": hidden, "without a token": hidden} {
			store := roles[role]
			entry, err := store.Get(t.Context(), c.key)
			if may == hidden {
				denied(t, role+" reads "+c.key, err, `key "`+c.key+`" { policy = "read" }`)
			} else if err != nil {
				t.Errorf("%s reads %s: %v", role, c.key, err)
			}
			_, err = store.List(t.Context(), c.key)
			if may == hidden {
				denied(t, role+" lists "+c.key, err, `{ policy = "read" }`)
			} else if err != nil {
				t.Errorf("%s lists %s: %v", role, c.key, err)
			}
			// By itself, and with another that may be written.
			one := kv.Op{Key: c.key, Value: []byte("after " + role), Version: entry.Version, Any: may == hidden}
			other := kv.Op{Key: map[string]string{"sidecar": control.StateKey(control.Canary, "greeter", "x"), "operator": control.DocumentKey(control.Policy, "greeter", "x")}[role], Value: []byte(c.key), Any: true}
			for _, more := range []bool{false, true} {
				ops := []kv.Op{one}
				if more && other.Key != "" {
					ops = append(ops, other)
				}
				err = store.Commit(t.Context(), ops...)
				if may != writes {
					denied(t, role+" writes "+c.key, err, `key "`+c.key+`" { policy = "write" }`)
				} else if err != nil {
					t.Errorf("%s writes %s: %v", role, c.key, err)
				}
				if entry, err := all.Get(t.Context(), other.Key); len(ops) > 1 && may != writes && err == nil && string(entry.Value) == c.key {
					t.Errorf("%s may not write %s, and half of the commit was done", role, c.key)
				}
				if entry, err := all.Get(t.Context(), c.key); err != nil {
					t.Error(err)
				} else {
					one.Version = entry.Version
				}
			}
			entry, err = all.Get(t.Context(), c.key)
			must(t, err)
			if wrote := string(entry.Value) == "after "+role; wrote != (may == writes) {
				t.Errorf("%s has written %s: %v", role, c.key, wrote)
			}
		}
	}

	for role, store := range roles {
		session, err := store.Session(t.Context(), kv.SessionOptions{Name: role})
		if role != "sidecar" {
			denied(t, role+" begins a session", err, `session "node1" { policy = "write" }`)

			continue
		}
		must(t, err)
		must(t, session.Put(t.Context(), control.StatusKey("greeter", "session"), []byte("{}")))
		denied(t, "sidecar puts another's status", session.Put(t.Context(), control.StatusKey("orders", "session"), []byte("{}")), `key "pillion/v1/reports/orders/session" { policy = "write" }`)
		if got, err := session.TryLock(t.Context(), control.LeaderKey("orders"), []byte("{}")); !got || err != nil {
			t.Errorf("sidecar is elected: %v, %v", got, err)
		}
		must(t, session.Close(t.Context()))
	}
}

// What docs/control.md has people copy is what is tested here.
func TestWhoMayIsDocumented(t *testing.T) {
	t.Parallel()

	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "control.md"))
	must(t, err)
	if !strings.Contains(string(page), "\n## Who may\n") {
		t.Fatal("docs/control.md has no section \"Who may\"")
	}
	for _, role := range []string{"sidecar", "operator", "viewer"} {
		if !strings.Contains(string(page), "```hcl\n"+aclRules(t, role)+"```\n") {
			t.Errorf("docs/control.md does not show testdata/acl/%s.hcl as it is", role)
		}
	}
}

// denied checks that an error says, in one line, that a rule is missing.
func denied(t *testing.T, what string, err error, rule string) {
	t.Helper()

	if !errors.Is(err, kv.ErrDenied) || !strings.Contains(err.Error(), rule) || strings.Contains(err.Error(), "\n") {
		t.Errorf("%s: %v, want it to name the rule %s", what, err, rule)
	}
}

// What a token may not see is not taken for missing, neither at first nor when the token is
// replaced; and a better one is used without a restart.
func TestWatchWithTokensThatMayTooLittle(t *testing.T) {
	t.Parallel()

	agent := agents.Start(t, agents.WithACLs())
	poor, viewer := agent.Token(t, `node_prefix "" { policy = "read" }`), agent.Token(t, aclRules(t, "viewer"))
	file := filepath.Join(t.TempDir(), "token")
	use := func(token string) {
		t.Helper()
		must(t, os.WriteFile(file+".new", []byte(token+"\n"), 0o600))
		must(t, os.Rename(file+".new", file))
	}
	use(poor)
	store, log := openStore(t, agent, consul.Config{TokenFile: file}, nil)
	all, _ := openStore(t, agent, consul.Config{Token: agents.ManagementToken}, nil)
	key, empty := control.DocumentKey(control.Policy, "greeter", "timeouts"), control.ServicePrefix("nobody")
	must(t, all.Commit(t.Context(), kv.Op{Key: key, Value: []byte("1")}))

	documents, nothing := watchStore(t, store, control.ServicePrefix("greeter")), watchStore(t, store, empty)
	for prefix, w := range map[string]*storeWatch{control.ServicePrefix("greeter"): documents, empty: nothing} {
		state := w.await(t, "it is denied", func(s kv.State) bool { return s.Err != nil })
		denied(t, "the watch of "+prefix, state.Err, `key_prefix "`+prefix+`" { policy = "read" }`)
		if state.Known {
			t.Errorf("hidden, and taken for missing: %+v", state)
		}
	}
	rotated := time.Now()
	use(viewer)
	known := func(s kv.State) bool { return s.Known && s.Err == nil && valueIn(s, key) == "1" }
	documents.await(t, "the document is seen", known)
	nothing.await(t, "there is nothing", func(s kv.State) bool { return s.Known && s.Err == nil && len(s.Entries) == 0 })
	t.Logf("seen %v after the token was replaced", time.Since(rotated).Round(time.Millisecond))

	use(poor)
	state := documents.await(t, "it is denied again", func(s kv.State) bool { return s.Err != nil })
	if valueIn(state, key) != "1" || !state.Known {
		t.Errorf("what was known went with the permission: %+v", state)
	}
	use(viewer)
	documents.await(t, "the document is fresh", known)
	if lines := log.lines("level=WARN"); len(lines) > 4 {
		t.Errorf("%d warnings:\n%s", len(lines), strings.Join(lines, ""))
	}
}

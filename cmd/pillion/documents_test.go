package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/pillion-proxy/pillion/control"
)

const someDocuments = `policies:
- name: parts
  service: checkout
  subsets: {subsets: {v1: {meta: {version: v1}}, v2: {meta: {version: v2}}}}
- {name: slow, service: checkout, timeout: {default: 2s}}
- {name: bills, service: billing, retry: {max_attempts: 3, retryable_status_codes: [UNAVAILABLE]}}
canaries:
- name: release
  service: checkout
  stable: v1
  canary: v2
  steps: [{weight: 1000}, {weight: 5000}]
experiments:
- name: prices
  service: checkout
  unit: {metadata: user}
  variants: [{name: old, weight: 5000}, {name: new, weight: 5000, subset: v2}]
`

// mesh is a store in a folder, and a folder with files for it.
type mesh struct {
	store, dir string
}

func newMesh(t *testing.T, files ...string) *mesh {
	t.Helper()
	return &mesh{filepath.Join(t.TempDir(), "store"), folder(t, files...)}
}

// says runs a command on the store, and returns what it says and its exit code, times and
// paths left out.
func (m *mesh) says(t *testing.T, line string, args ...string) string {
	t.Helper()
	words := append(strings.Fields(line), args...)
	for i, word := range words {
		if strings.HasSuffix(word, ".yaml") || word == "." {
			words[i] = filepath.Join(m.dir, word)
		}
	}
	code, stdout, stderr := pillion(t, append(words, "--control", m.store)...)
	text := "$ pillion " + strings.Join(append(strings.Fields(line), args...), " ") + "\n" + stdout + stderr
	if code != 0 {
		text += "exit code " + string(rune('0'+code)) + "\n"
	}
	text = regexp.MustCompile(`(?m)^\w+ \S+: waiting for .*\n`).ReplaceAllString(text, "") // where the machine is slow
	text = strings.NewReplacer(m.dir+"/", "", m.store, "STORE").Replace(text)
	text = regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d`).ReplaceAllString(text, "2026-01-31 12:00:00")
	return regexp.MustCompile(`\d{4}-\d\d-\d\dT[0-9:.]+Z`).ReplaceAllString(text, "2026-01-31T12:00:00Z")
}

func (m *mesh) write(t *testing.T, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(m.dir, name), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// What commands say on the way of documents from a file to their deletion.
func TestDocuments(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "d.yaml", someDocuments)
	var all strings.Builder
	run := func(line string, args ...string) {
		t.Helper()
		all.WriteString(m.says(t, line, args...) + "\n")
	}
	run("get")
	run("apply -f d.yaml --dry-run --author alice")
	run("apply -f d.yaml --author alice", "-m", "first release")
	run("get")
	run("get canaries")
	run("get policies --service billing -o yaml")
	run("get policy slow -o json")
	run("diff -f d.yaml")
	m.write(t, "d.yaml", strings.Replace(someDocuments, "default: 2s", "default: 3s", 1))
	run("diff -f d.yaml")
	run("apply -f d.yaml --author bob --expect policy/slow=2")
	run("apply -f d.yaml --author bob --expect policy/slow=1", "-m", "slower")
	run("history policy/slow")
	run("rollback policy/slow --author carol", "-m", "too slow")
	run("history policies/slow --diff")
	run("get policy/slow --revision 2 -o yaml")
	run("delete policy/parts --author bob")
	run("delete policy/bills --author bob --dry-run")
	run("delete policy/bills --author bob")
	run("get policy/bills")
	run("history policy/bills")
	run("rollback policy/bills --author bob")
	m.write(t, "few.yaml", "policies:\n- {name: slow, service: checkout, timeout: {default: 2s}}\n")
	run("history prune --keep 2 --dry-run")
	run("history prune policy/bills --keep 1")
	run("history policy/bills")
	run("history prune --older-than 1h")
	run("diff -f few.yaml --prune")
	run("apply -f few.yaml --prune --author dave")
	run("get")
	golden(t, "documents", all.String())
}

func TestWrongDocumentFiles(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "d.yaml", someDocuments, "e.yaml", "canaries:\n- {name: slow, service: checkout, stable: v1, canary: v2, steps: [{weight: 1}]}\n",
		"field.yaml", "policies:\n- {name: x, service: checkout, timeuot: {default: 1s}}\n", "mesh.yaml", "services: {a: {endpoints: []}}\n",
		"subset.yaml", strings.Replace(someDocuments, "canary: v2", "canary: v3", 1), "twice.yaml", "policies:\n- {name: s2, service: checkout, timeout: {default: 1s}}\n")
	m.says(t, "apply -f d.yaml")
	var all strings.Builder
	for _, line := range []string{
		"apply", "apply -f none.yaml", "apply -f d.yaml -f e.yaml", "apply -f e.yaml", "apply -f field.yaml", "apply -f mesh.yaml", "apply -f subset.yaml", "apply -f twice.yaml",
		"apply -f d.yaml --expect policy/slow", "apply -f d.yaml --expect slow=1", "apply -f d.yaml --expect policy/slow=x", "diff", "diff -f field.yaml",
		"get nothing", "get policy none", "get -o xml", "get policy --revision 2", "get policy/slow --revision 9", "get a b c",
		"history", "history slow", "history policy/none", "history policy/slow -o yaml", "rollback policy/slow", "rollback policy/none", "rollback policy/slow --to 9",
		"history prune --keep 0", "history prune --older-than -1h", "history prune slow", "history prune policy/none",
		"delete", "delete policy/none", "delete policies", "delete policy/a/b", "apply -f d.yaml --consul 127.0.0.1:1",
	} {
		all.WriteString(m.says(t, line) + "\n")
	}
	golden(t, "documents_wrong", all.String())
}

// What get says as YAML can be applied again, from standard input too.
func TestGetAndApplyAgain(t *testing.T) {
	t.Parallel()
	odd := strings.Replace(someDocuments, "variants:", "forced: {\"<<\": new, \"a b\\u0085\": old, \"- x\": new}, variants:", 1)
	odd = strings.Replace(odd, "}, variants:", "}\n  variants:", 1)
	m := newMesh(t, "d.yaml", odd)
	if said := m.says(t, "apply -f d.yaml"); !strings.Contains(said, "ok: 5 documents, 0 unchanged") {
		t.Fatal(said)
	}
	code, yaml, stderr := pillion(t, "get", "-o", "yaml", "--control", m.store)
	if code != 0 {
		t.Fatal(stderr)
	}
	root := newRoot()
	var out bytes.Buffer
	root.SetArgs([]string{"apply", "-f", "-", "--control", m.store})
	root.SetIn(strings.NewReader(yaml))
	root.SetOut(&out)
	if err := root.ExecuteContext(t.Context()); err != nil || out.String() != "ok: 5 documents, 5 unchanged\n" {
		t.Errorf("%v\n%s\n%s", err, out.String(), yaml)
	}
}

// What lies in the store and cannot be read is shown, and in the way of nothing.
func TestHostileStore(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "d.yaml", someDocuments)
	m.says(t, "apply -f d.yaml --author alice")
	bad := filepath.Join(m.store, filepath.FromSlash(control.DocumentKey(control.Policy, "checkout", "slow"))+".json")
	if err := os.WriteFile(bad, []byte(`{"revision": "7", "author": "\u001b[2Jmallory\nrow", "policy": {"nonsense": 1}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	said := m.says(t, "get")
	for _, want := range []string{"policy/slow        -                    checkout  7         -                    [2Jmallory row", "policy/slow: cannot be read (", "canary/release"} {
		if !strings.Contains(said, want) {
			t.Errorf("it says, without %q:\n%s", want, said)
		}
	}
	if strings.ContainsRune(said, '\x1b') {
		t.Error("the terminal is sent what the store says")
	}
	said = m.says(t, "get -o yaml")
	if !strings.Contains(said, "pillion: warning: policy/slow: is left out: cannot be read (") || !strings.Contains(said, "name: release") {
		t.Error(said)
	}
	if said = m.says(t, "apply -f d.yaml"); !strings.Contains(said, "policy/slow changed (revision 2)") {
		t.Error(said)
	}
}

func TestCompletionOfDocuments(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "d.yaml", someDocuments)
	m.says(t, "apply -f d.yaml")
	for line, want := range map[string]string{
		"history":  "policy/\ncanary/\nexperiment/\n",
		"rollback": "policy/\ncanary/\nexperiment/\n",
		"delete":   "policy/\ncanary/\nexperiment/\n",
		"get":      "policies\ncanaries\nexperiments\npolicy/\ncanary/\nexperiment/\n",
	} {
		if _, out, _ := pillion(t, "__complete", line, "--control", m.store, ""); !strings.HasPrefix(out, want) {
			t.Errorf("%s: %q", line, out)
		}
		if _, out, _ := pillion(t, "__complete", line, "--control", m.store, "policy/"); !strings.HasPrefix(out, "policy/bills\npolicy/parts\npolicy/slow\n") {
			t.Errorf("%s: %q", line, out)
		}
	}
}

func TestAuthor(t *testing.T) {
	t.Parallel()
	of := func(args ...string) string {
		cmd := &cobra.Command{}
		addAuthorFlags(cmd)
		if err := cmd.ParseFlags(args); err != nil {
			t.Fatal(err)
		}
		return author(cmd)
	}
	if got := of("--author", " Al \n ice "); got != "Al ice" {
		t.Errorf("%q", got)
	}
	if got := of(); !regexp.MustCompile(`^\S+@\S+$`).MatchString(got) {
		t.Errorf("%q is not user@host", got)
	}
}

// Files for pillion apply are checked as those with policies alone are.
func TestCheckDocuments(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "d.yaml", someDocuments, "p.yaml", "policies:\n- {name: more, service: checkout, fault: {delay: {for: 1s}}}\n")
	code, stdout, stderr := pillion(t, "check", "--policies", m.dir)
	if code != 0 || stdout != "ok: "+m.dir+"/d.yaml (3 policies, 1 canaries, 1 experiments), "+m.dir+"/p.yaml (1 policies)\n" {
		t.Errorf("%d %s %s", code, stdout, stderr)
	}
	m.write(t, "d.yaml", strings.Replace(someDocuments, "canary: v2", "canary: v3", 1))
	code, _, stderr = pillion(t, "check", "-f", m.dir)
	if want := "pillion: " + m.dir + `/d.yaml:11:11: canaries[0].canary: service "checkout" has no subset "v3": policy "parts" has v1, v2` + "\n"; code != 1 || stderr != want {
		t.Errorf("%d\n got %s\nwant %s", code, stderr, want)
	}
	m.write(t, "d.yaml", strings.Replace(someDocuments, "steps: [{weight: 1000}", "steps: [{weight: 9000}", 1))
	code, _, stderr = pillion(t, "check", "-f", m.dir)
	if want := "pillion: " + m.dir + "/d.yaml:12:36: canaries[0].steps[1].weight: 5000 is less than the step's before, 9000: a canary's share only rises\n"; code != 1 || stderr != want {
		t.Errorf("%d\n got %s\nwant %s", code, stderr, want)
	}
	m.write(t, "p.yaml", "policies:\n- {name: release, service: checkout, fault: {delay: {for: 1s}}}\n")
	m.write(t, "d.yaml", someDocuments)
	code, _, stderr = pillion(t, "check", "-f", m.dir)
	if want := "pillion: " + m.dir + "/p.yaml:2:10: policies[0].name: there is one of this name in " + m.dir + "/d.yaml already: give it another name\n"; code != 1 || stderr != want {
		t.Errorf("%d\n got %s\nwant %s", code, stderr, want)
	}
}

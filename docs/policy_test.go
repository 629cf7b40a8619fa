package docs_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/pillion-proxy/pillion/proto/configyaml"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
	"github.com/pillion-proxy/pillion/proxy/policy"
	"github.com/pillion-proxy/pillion/proxy/wire"
)

// example is one of a page's mesh files, with the tables that follow it before the next
// one.
type example struct {
	heading string // the one above it
	yaml    string
	mesh    *configv1.MeshFile
	set     *policy.Set
	text    string // from its end to the next example
}

// examples returns the mesh files of docs/policy.md.
func examples(t *testing.T) []example {
	t.Helper()
	const begin = "```yaml\n# mesh.yaml\n"
	parts := strings.Split(readPage(t, "policy.md").text, begin)
	var all []example
	heading := ""
	for i, part := range parts {
		rest := part
		if i > 0 {
			yaml, after, _ := strings.Cut(part, "\n```\n")
			e := example{heading: heading, yaml: yaml + "\n", text: after}
			var err error
			if e.mesh, err = configyaml.ParseMesh("policy.md, "+heading, []byte(yaml+"\n")); err != nil {
				t.Fatal(err)
			}
			var refusals []policy.Refusal
			e.set, refusals = policy.Compile(e.mesh.GetPolicies(), nil, policy.Env{})
			for _, r := range refusals {
				t.Errorf("%s: %v", heading, r)
			}
			all = append(all, e)
			rest = after
		}
		for line := range strings.Lines(rest) {
			if strings.HasPrefix(line, "##") {
				heading = strings.Trim(line, "# \n")
			}
		}
	}
	return all
}

// The examples of policies are in order as a whole, and nothing in them is hardly meant.
func TestPolicyExamples(t *testing.T) {
	t.Parallel()
	all := examples(t)
	shown := map[string]bool{}
	for _, e := range all {
		for _, w := range policy.Warnings(e.mesh.GetPolicies(), slices.Collect(maps.Keys(e.mesh.GetServices()))) {
			t.Errorf("%s: %v", e.heading, w)
		}
		for _, p := range e.mesh.GetPolicies() {
			m := p.ProtoReflect()
			shown[string(m.WhichOneof(m.Descriptor().Oneofs().ByName("kind")).Name())] = true
		}
	}
	kinds := (&configv1.Policy{}).ProtoReflect().Descriptor().Oneofs().ByName("kind").Fields()
	for i := range kinds.Len() {
		if name := string(kinds.Get(i).Name()); !shown[name] {
			t.Errorf("there is no example of %s", name)
		}
	}
}

// rpcOf reads how a table of docs/policy.md describes an RPC: a method, metadata as
// "key: value", and perhaps "from" a caller.
func rpcOf(t *testing.T, cell string) *policy.RPC {
	t.Helper()
	words := ticked(cell)
	rpc := &policy.RPC{Path: "/" + words[0], Authority: "localhost:15001", Random: func() uint64 { return 0 }}
	before, caller, from := strings.Cut(cell, " from ")
	if from {
		rpc.Caller = ticked(caller)[0]
		words = ticked(before)
	}
	for _, word := range words[1:] {
		key, value, ok := strings.Cut(word, ": ")
		if !ok {
			t.Fatalf("%q is no metadata", word)
		}
		if strings.HasSuffix(key, "-bin") {
			value = base64.StdEncoding.EncodeToString([]byte(value))
		}
		rpc.Fields = append(rpc.Fields, hpack.Field{Name: key, Value: value})
	}
	return rpc
}

// promise is a row of a table that says where an RPC goes.
type promise struct {
	service, rpc, goes string
}

// promises returns the rows of the table that follows an example.
func (e *example) promises() (all []promise) {
	before, table, ok := strings.Cut(e.text, "| an RPC to `")
	service, rest, goes := strings.Cut(table, "` | goes to |\n")
	if !ok || !goes || strings.Contains(before, "##") || strings.Contains(service, "\n") {
		return nil
	}
	end := strings.Index(rest, "\n\n")
	for _, row := range rows(rest[:end]) {
		all = append(all, promise{service, row[0], row[1]})
	}
	return all
}

// RPCs go where the tables of docs/policy.md say.
func TestPolicyDecisions(t *testing.T) {
	t.Parallel()
	checked := 0
	for _, e := range examples(t) {
		for _, p := range e.promises() {
			checked++
			rpc := rpcOf(t, p.rpc)
			method := e.set.Service(p.service).Outbound(rpc.Path)
			d := policy.Decision{Service: p.service}
			if method.Routes() {
				d = method.Route.Decide(rpc, p.service, nil)
			}
			if d.Rule == nil || d.Rule.Status == nil {
				e.set.Service(d.Service).Splits(rpc.Path).Decide(rpc, &d, nil, nil)
			}
			got := fmt.Sprintf("`%s`", d.Service)
			if d.Subset != "" {
				got += fmt.Sprintf(" `%s`", d.Subset)
			}
			if d.Rule != nil && d.Rule.Status != nil {
				got = fmt.Sprintf("`%s`", wire.StatusName(d.Rule.Status.Code))
			}
			if got != p.goes {
				t.Errorf("%s: an RPC %s goes to %s, and not to %s", e.heading, p.rpc, got, p.goes)
			}
		}
	}
	if checked < 14 {
		t.Errorf("only %d RPCs were found: has the form of the tables changed?", checked)
	}
}

// Methods have the timeouts that a table of docs/policy.md says.
func TestPolicyPrecedence(t *testing.T) {
	t.Parallel()
	checked := 0
	for _, e := range examples(t) {
		_, table, ok := strings.Cut(e.text, "| an RPC to | has the timeout of |\n")
		if !ok {
			continue
		}
		end := strings.Index(table, "\n\n")
		for _, row := range rows(table[:end]) {
			checked++
			to := ticked(row[0])
			method := e.set.Service(to[0]).Outbound("/" + to[1])
			if method == nil || method.Timeout == nil || method.Timeout.Policy != ticked(row[1])[0] {
				t.Errorf("an RPC to %s has the timeout %+v, and not that of %s", row[0], method, row[1])
			}
		}
	}
	if checked != 3 {
		t.Errorf("%d methods were found, not 3", checked)
	}
}

var metricName = regexp.MustCompile(`\bpillion_[a-z_]+`)

// Metrics that docs/policy.md names are those that docs/operations.md explains.
func TestPolicyMetrics(t *testing.T) {
	t.Parallel()
	operations := readPage(t, "operations.md")
	explained := section(t, operations, "Metrics")
	for _, name := range metricName.FindAllString(readPage(t, "policy.md").text, -1) {
		if !strings.Contains(explained, "| `"+name+"` |") {
			t.Errorf("operations.md does not explain %s", name)
		}
	}
}

// Each kind of policy has a section of its own.
func TestPolicyKinds(t *testing.T) {
	t.Parallel()
	text := readPage(t, "policy.md").text
	kinds := (&configv1.Policy{}).ProtoReflect().Descriptor().Oneofs().ByName("kind").Fields()
	for i := range kinds.Len() {
		title := strings.ReplaceAll(string(kinds.Get(i).Name()), "_", " ")
		if !strings.Contains(strings.ToLower(text), "\n## "+title+"\n") {
			t.Errorf("policy.md has no section on %s", title)
		}
	}
}

// The commands of docs/policy.md say what stands below them, asked about the files that
// stand above them.
func TestPolicyCommands(t *testing.T) {
	t.Parallel()
	binary, dir := pillion(t), t.TempDir()
	ran := map[string]bool{}
	for _, b := range readPage(t, "policy.md").blocks {
		if name, ok := strings.CutPrefix(b.lines[0], "# "); ok && strings.HasSuffix(name, ".yaml") {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(strings.Join(b.lines, "\n")+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			continue
		}
		line, ok := strings.CutPrefix(b.lines[0], "$ pillion ")
		if b.language != "console" || !ok {
			continue
		}
		args := strings.Fields(line)
		ran[args[0]] = true
		cmd := exec.CommandContext(t.Context(), binary, args...)
		cmd.Dir, cmd.Env = dir, environment()
		output, err := cmd.CombinedOutput()
		if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		if want := strings.Join(b.lines[1:], "\n"); strings.TrimSpace(string(output)) != strings.TrimSpace(want) {
			t.Errorf("pillion %s says:\n%s", line, output)
		}
	}
	for _, command := range []string{"check", "explain", "test"} {
		if !ran[command] {
			t.Errorf("policy.md does not show what pillion %s says", command)
		}
	}
}

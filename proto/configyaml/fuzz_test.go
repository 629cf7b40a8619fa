package configyaml

import (
	"errors"
	"os"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
)

var fuzzSeeds = []string{
	contract, contractMesh, "", "\x00", "a: &a [*a]", "? ? ?", "[[[[", "{}: {}", "!!binary x", "a: !!null x",
	"services: {<<: {a: {}}}", "- - -", "%YAML 9.9\n---\na", "service: {port: 0x10, name: \"\\u2028\"}", "outbound: {default_timeout: 1e999s}",
	"a: |\r\n  b\r\n\rc: d", "\ufeffoutbound: {}", "services: {\"\\n\": {}}", "? [a]\n: b", "services: {a: {endpoints: [null, 1, []]}}", "...", "--- |\n x\n...\n---\n",
}

func FuzzParseBootstrap(f *testing.F) {
	for _, seed := range fuzzSeeds {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := parseBootstrap("p.yaml", data)
		if err != nil {
			checkReport(t, err)
			return
		}
		if again := Effective(b); !proto.Equal(again, b) {
			t.Errorf("filling in the defaults again changed %v to %v", b, again)
		}
	})
}

func FuzzParseMesh(f *testing.F) {
	for _, seed := range fuzzSeeds {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := ParseMesh("p.yaml", data); err != nil {
			checkReport(t, err)
		}
	})
}

// checkReport checks that an error says the place and stays on its lines.
func checkReport(t *testing.T, err error) {
	t.Helper()
	problems, ok := errors.AsType[Problems](err)
	if !ok || len(problems) == 0 {
		t.Fatalf("%T %v", err, err)
	}
	if strings.Contains(err.Error(), "cannot be read") {
		t.Errorf("a library panicked: %v", err)
	}
	for _, p := range problems {
		if p.File != "p.yaml" || p.Line < 1 || p.Column < 1 || p.Message == "" {
			t.Errorf("%+v", p)
		}
		if strings.ContainsAny(p.Error(), "\n\r") {
			t.Errorf("more than one line: %q", p.Error())
		}
	}
}

// FuzzParseMeshInPart has policies left out that are wrong: what is left is in order by
// itself, and nothing is left out of a file that is in order.
func FuzzParseMeshInPart(f *testing.F) {
	wrong, err := os.ReadFile("testdata/policies_wrong.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range append(fuzzSeeds, string(wrong), "policies: [1, null, {}, {name: a}]", "policies: {a: b}",
		"policies:\n- &a {name: a, service: s, timeout: {default: 1s}}\n- *a\n- {name: b, service: s, timeout: {default: 1}}") {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		mesh, problems, err := ParseMeshInPart("p.yaml", data)
		whole, wrong := ParseMesh("p.yaml", data)
		switch {
		case err != nil:
			checkReport(t, err)
		case len(problems) == 0 && (wrong != nil || !proto.Equal(mesh, whole)):
			t.Errorf("nothing is left out, but as a whole it is %v (%v) and not %v", whole, wrong, mesh)
		case len(problems) > 0 && wrong == nil:
			t.Errorf("%v is left out of what is in order", problems)
		}
	})
}

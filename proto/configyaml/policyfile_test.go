package configyaml

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestPolicyPaths(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{"b.yaml", "a.yaml", "c.yml", "d.txt", ".hidden.yaml"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "e.yaml"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("nowhere", filepath.Join(dir, "f.yaml")); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string][]string{
		"":      {".hidden.yaml", "a.yaml", "b.yaml", "f.yaml"},
		"d.txt": {"d.txt"},
	} {
		got, err := PolicyPaths(filepath.Join(dir, path))
		for i := range got {
			got[i], _ = filepath.Rel(dir, got[i])
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %q, %v; want %q", path, got, err, want)
		}
	}
	if _, err := PolicyPaths(filepath.Join(dir, "none")); err == nil || !strings.HasSuffix(err.Error(), "none: cannot be read: file does not exist: check the path") {
		t.Error(err)
	}
	for range MaxPolicyFiles {
		f, err := os.CreateTemp(dir, "*.yaml")
		if err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
	}
	if _, err := PolicyPaths(dir); err == nil || !strings.Contains(err.Error(), "holds 1004 files that end in .yaml, but may hold 1000") {
		t.Error(err)
	}
}

func TestLocator(t *testing.T) {
	t.Parallel()
	in := NewLocator("p.yaml", []byte("policies:\n- name: a\n  timeout: {max: 1s}\n- {name: b}\n"))
	if got, want := in.Places(), []string{"p.yaml:2:3", "p.yaml:4:3"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	for field, want := range map[string]string{
		"timeout.max": "p.yaml:3:18: policies[0].timeout.max",
		"route.rules": "p.yaml:2:3: policies[0].route.rules",
		"":            "p.yaml:2:3: policies[0]",
	} {
		if got := in.Policy(0, field); got != want {
			t.Errorf("%q is %q, want %q", field, got, want)
		}
	}
	if got := NewLocator("p.yaml", []byte("a: [")).Policy(3, "x"); got != "p.yaml:1:1: policies[3].x" {
		t.Error(got)
	}
}

func FuzzParsePolicies(f *testing.F) {
	for _, seed := range append(fuzzSeeds, "policies: [{name: a}]", "policies: [{name: a, service: b, timeout: {max: 1s}}, 1]", "services:", "services: {}") {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		good, refused, err := ParsePolicies("p.yaml", data)
		if err != nil {
			checkReport(t, err)
			return
		}
		if places := NewLocator("p.yaml", data).Places(); len(places) != len(good)+len(refused) {
			t.Errorf("%d places of %d policies, %d of them refused", len(places), len(good)+len(refused), len(refused))
		}
		for _, r := range refused {
			checkReport(t, r.Problems)
		}
	})
}

func FuzzParsePolicyTest(f *testing.F) {
	for _, seed := range append(fuzzSeeds, "policies: [a]\ncases: [{service: a, method: a.B/C, expect: {timeout: 1s, shares: {a: 0.5}}}]") {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := parsePolicyTest("p.yaml", data)
		if err != nil {
			checkReport(t, err)
			return
		}
		if at := file.Place("cases[0].expect"); !strings.HasPrefix(at, "p.yaml:") || at == "p.yaml:0:0" {
			t.Error(at)
		}
	})
}

package main

import (
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestPillionTakesThePoliciesConfigurations(t *testing.T) {
	t.Parallel()
	pillion, err := findPillion()
	if err != nil {
		t.Skip("no Pillion is built: make build, or set PILLION_BIN")
	}
	for _, c := range policyCases[:2] { // the others have the second's
		dir := t.TempDir()
		s := site{bin: pillion, listen: "127.0.0.1:1001", admin: "127.0.0.1:1002", backend: "127.0.0.1:1003", workers: 1, dir: dir}
		if _, err := c.launch(s); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(pillion, "check", "-c", filepath.Join(dir, "pillion.yaml")).CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", c.name, err, out)
		}
	}
}

func TestPoliciesAreOfEachKindForEachMethodThatIsCalled(t *testing.T) {
	t.Parallel()
	mesh := policyCase{policies: true}.mesh("1")
	for _, kind := range []string{"subsets", "load_balancing", "outlier_ejection", "health_check"} {
		if !strings.Contains(mesh, "\n  "+kind+":") {
			t.Errorf("there is no policy of kind %s", kind)
		}
	}
	for _, c := range []struct {
		path  func(int) string
		again string
	}{{retriedPath, "retry"}, {hedgedPath, "hedging"}} {
		for i := range calledMethods {
			method := strings.TrimPrefix(c.path(i), "/")
			if !strings.Contains(mesh, `match: {methods: ["`+method+`"], fraction`) {
				t.Errorf("no rule is for %s", method)
			}
			for _, kind := range []string{"timeout", c.again, "circuit_breaker", "rate_limit", "fault"} {
				if n := strings.Count(mesh, `methods: ["`+method+`"], `+kind+": {"); n != 1 {
					t.Errorf("%d policies of kind %s for %s, want 1", n, kind, method)
				}
			}
			if method == strings.TrimPrefix(otherPath(i), "/") {
				t.Errorf("%s is called where no policy shall hold", method)
			}
		}
	}
	if last := strings.TrimPrefix(retriedPath(calledMethods-1), "/"); last != methodName(routes-1) {
		t.Errorf("the last method called is %s, not that of the last rule", last)
	}
}

func TestPolicyTargetsAreJudgedByRatiosOfMedians(t *testing.T) {
	t.Parallel()
	r := results{}
	at := policySettings[settings[0].name].name
	for name, cpu := range map[string]float64{bareName: 10, obeyName: 13, haproxyName: 20} {
		r.add(key{at, name, "8x32", cpuPerRPC}, cpu)
	}
	all := policyTargets(r, settings[:1])
	for _, c := range []struct{ words, says string }{
		{"8x32 with each kind", "met"},
		{"at 8x32 ÷ haproxy", "missed"},
		{"64x8 with each kind", "not measured"},
	} {
		if g := judge(t, all, c.words); !strings.Contains(g.verdict(), c.says) {
			t.Errorf("%s: %s, want %s", g.what, g.verdict(), c.says)
		}
	}
}

func TestLoadsCallAllPathsWithAllHeaders(t *testing.T) {
	t.Parallel()
	args := load{addr: "a:1", shape: shape{1, 1}, path: "/x/Y", more: []string{"/x/Z"}, headers: policyHeaders}.args("")
	for _, want := range append([]string{"http://a:1/x/Y", "http://a:1/x/Z"}, policyHeaders...) {
		if !slices.Contains(args, want) {
			t.Errorf("%v lacks %s", args, want)
		}
	}
}

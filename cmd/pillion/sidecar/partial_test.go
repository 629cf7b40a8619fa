package sidecar

import (
	"bytes"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/pillion-proxy/pillion/proxy/policy"
	"github.com/pillion-proxy/pillion/registry"
)

// A policy of which a part is not obeyed is in force, and said to be.
func TestAPartThatIsNotObeyed(t *testing.T) {
	t.Parallel()
	var lines bytes.Buffer
	p := newPolicies(policy.Env{}, "greeter", slog.New(slog.NewTextHandler(&lines, nil)))
	p.said = make([]*registry.Policies, 1)
	part := registry.RefusedPolicy{Policy: "a", Service: "g", Problem: "routes[1]: it is left out", Partial: true}
	whole := registry.RefusedPolicy{Policy: "b", Service: "g", Problem: "it is wrong"}
	p.take(0, said(t, "m", "- {name: a, service: g, timeout: {max: 1s}}\n", part, whole))
	want := []string{"a | IN_FORCE | timeout | g | m:2:3 | routes[1]: it is left out", "b | REFUSED |  |  |  | it is wrong"}
	if got := stand(p.Policies()); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if _, inForce, refused := p.count(); inForce != 1 || refused != 1 {
		t.Errorf("%d are in force and %d refused, want 1 and 1", inForce, refused)
	}
	for _, text := range []string{
		`level=WARN msg="policy is in force, but not all of it is obeyed" policy=a problem="routes[1]: it is left out"`,
		`level=ERROR msg="policy is refused, its last good version stays in force if there is one" policy=b`,
	} {
		if strings.Count(lines.String(), text) != 1 {
			t.Errorf("%s, want once %q", lines.String(), text)
		}
	}
	p.take(0, said(t, "m", "- {name: a, service: g, timeout: {max: 1s}}\n", whole))
	if got := lines.String(); strings.Count(got, "policy is in order again\" policy=a") != 1 || strings.Count(got, "policy=b") != 1 {
		t.Error(got)
	}
}

// A canary that a route leaves nothing to divide says so.
func TestACanaryThatDividesNothing(t *testing.T) {
	t.Parallel()
	p := newPolicies(policy.Env{}, "greeter", slog.New(slog.DiscardHandler))
	p.said = make([]*registry.Policies, 1)
	const canary = "- {name: v, service: g, subsets: {subsets: {v1: {}, v2: {}}}}\n" +
		"- {name: canary.c, service: g, split: {split: {destinations: [{weight: 9000, subset: v1}, {weight: 1000, subset: v2}]}}}\n" +
		"- {name: experiment.e, service: g, split: {split: {destinations: [{weight: 10000, group: a}]}}}\n"
	route := "- {name: r, service: g, route: {rules: [{to: {subset: v1}}]}}\n"
	p.take(0, said(t, "m", canary+route))
	if refused := p.refusals(); len(refused) != 1 || refused[0].Policy != "canary.c" || !refused[0].Partial || !strings.Contains(refused[0].Problem, `it divides nothing: policy "r"`) || p.obstacle("g") == "" {
		t.Errorf("%+v", refused)
	}
	p.take(0, said(t, "m", canary+strings.Replace(route, "to:", "yields: true, to:", 1)))
	if refused := p.refusals(); len(refused) != 0 || p.obstacle("g") != "" {
		t.Errorf("%+v", refused)
	}
}

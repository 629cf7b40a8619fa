package policy

import (
	"slices"
	"strings"
	"testing"
	"time"
)

const limitedRules = `
- name: r
  service: greeter
  route:
    rules:
    - {name: hello, match: {path_regex: "/helloworld[.]Greeter/Say(Hello|Bye)"}, timeouts: {max: 2s, idle: 1s}, retry: {max_attempts: 3, retryable_status_codes: [UNAVAILABLE]}}
    - {name: rest, to: {}}
- name: t
  service: greeter
  timeout: {default: 5s, max: 9s, per_attempt: 1s}
- name: h
  service: greeter
  hedging: {max_attempts: 2}
`

func TestARulesOwnTimeoutsAndRetriesGoFirst(t *testing.T) {
	t.Parallel()
	m := compiled(t, limitedRules).Service("greeter").Outbound(sayHello)
	hello := m.Decide(request(sayHello), "greeter").Rule
	if got, want := m.Times(hello), (Timeout{Policy: "r", Default: 5 * time.Second, Max: 2 * time.Second, PerAttempt: time.Second, Idle: time.Second}); got != want {
		t.Errorf("times of the rule: %+v, want %+v", got, want)
	}
	if standard, most := m.Bounds(hello, time.Hour, time.Hour); standard != 5*time.Second || most != 2*time.Second {
		t.Errorf("bounds of the rule: %v, %v", standard, most)
	}
	if r, h := m.Again(hello); r == nil || r.MaxAttempts != 3 || h != nil {
		t.Errorf("again by the rule: %+v, %+v", r, h)
	}
	rest := m.Decide(request("/helloworld.Greeter/SayByeBye"), "greeter").Rule
	if rest.Name != "rest" {
		t.Fatalf("a path that the expression matches in part goes by rule %q", rest.Name)
	}
	if got := m.Times(rest); got != *m.Timeout {
		t.Errorf("times of a rule without: %+v, want %+v", got, *m.Timeout)
	}
	if r, h := m.Again(rest); r != nil || h == nil {
		t.Errorf("again by a rule without: %+v, %+v", r, h)
	}
	var none *Method
	if got := none.Times(nil); got != (Timeout{}) {
		t.Errorf("times of nothing: %+v", got)
	}
}

// What a rule's retries may cost goes on being counted while the rest of the route changes.
func TestARulesBudgetGoesOn(t *testing.T) {
	t.Parallel()
	first := compiled(t, limitedRules)
	rule := func(s *Set) *Rule {
		return s.Service("greeter").Outbound(sayHello).Decide(request(sayHello), "greeter").Rule
	}
	second, refusals := Compile(written(t, strings.Replace(limitedRules, "name: rest", "name: others", 1)), first, Env{})
	if len(refusals) > 0 || rule(second).Retry == rule(first).Retry || rule(second).Retry.Limits != rule(first).Retry.Limits {
		t.Errorf("%v, %+v after %+v", refusals, rule(second).Retry, rule(first).Retry)
	}
	third, _ := Compile(written(t, strings.Replace(limitedRules, "max_attempts: 3", "budget: {ratio: 1}, max_attempts: 3", 1)), first, Env{})
	if rule(third).Retry.Limits == rule(first).Retry.Limits {
		t.Error("another budget is the same one")
	}
}

func TestRulesLimitsThatAreWrong(t *testing.T) {
	t.Parallel()
	got := refusalsOf(written(t, `
- name: r
  service: greeter
  route:
    rules:
    - {timeouts: {max: 1s, default: 2s}}
    - {timeout: 1s, timeouts: {default: 2s}}
    - {retry: {max_attempts: 2}}
    - {match: {path_regex: "("}, to: {}}
`))
	var fields []string
	for _, r := range got {
		fields = append(fields, r.Field)
	}
	want := []string{"route.rules[0].timeouts.default", "route.rules[1].timeouts.default", "route.rules[2].retry", "route.rules[3].match.path_regex"}
	if slices.Sort(fields); !slices.Equal(fields, want) {
		t.Errorf("%q, want %q", fields, want)
	}
}

func TestASubsetsOwnFailover(t *testing.T) {
	t.Parallel()
	v := compiled(t, `
- name: s
  service: greeter
  subsets:
    default: v1
    subsets:
      v1: {meta: {version: v1}, failover: [{service: greeter.dc2, subset: v1}]}
      v2: {meta: {version: v2}}
- name: b
  service: greeter
  load_balancing: {failover: [{service: standby}]}
`).Service("greeter")
	for subset, want := range map[string]Target{"": {"greeter.dc2", "v1"}, "v1": {"greeter.dc2", "v1"}, "v2": {Service: "standby"}} {
		if got := v.Failover(subset); len(got) != 1 || got[0] != want {
			t.Errorf("%q fails over to %+v, want %+v", subset, got, want)
		}
	}
	if !v.FailsOver() {
		t.Error("it does not fail over")
	}
	if got := refusalsOf(written(t, "- name: s\n  service: greeter\n  subsets: {subsets: {v1: {failover: [{}]}, v2: {failover: [{subset: v3}]}}}\n")); len(got) != 1 || got[0].Field != `subsets.subsets["v1"].failover[0]` {
		t.Errorf("%v", got)
	}
}

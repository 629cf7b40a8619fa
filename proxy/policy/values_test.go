package policy

import (
	"fmt"
	"strings"
	"testing"
)

// Values that stand a thousand times are joined once, however many rules ask for them.
func TestValuesAreJoinedOnce(t *testing.T) {
	var rules strings.Builder
	for i := range 200 {
		fmt.Fprintf(&rules, "- {match: {metadata: [{key: %s, prefix: x%d}]}, to: {service: s}}\n", []string{"a", "b", "c"}[i%3], i)
	}
	r := compiledRoute(t, rules.String())
	rpc := request(sayHello)
	for i := range 1000 {
		rpc.Fields = append(rpc.Fields, fields("a: 1", "b: 2", fmt.Sprintf("c: %d", i))...)
	}
	joins := func(r *Route) float64 {
		return testing.AllocsPerRun(5, func() {
			if d := r.Decide(rpc, "greeter", nil); d.Rule != nil {
				t.Fatal("a rule matches")
			}
		})
	}
	few := compiledRoute(t, strings.Join(strings.SplitAfter(rules.String(), "\n")[:3], ""))
	if of200, of3 := joins(r), joins(few); of200 != of3 || of3 == 0 {
		t.Errorf("%v allocations for 200 rules, %v for one of each key", of200, of3)
	}
}

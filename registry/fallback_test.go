package registry

import (
	"maps"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

func route(name, service string, rules ...*configv1.RouteRule) *configv1.Policy {
	return &configv1.Policy{Name: name, Service: service, Kind: &configv1.Policy_Route{Route: &configv1.RoutePolicy{Rules: rules}}}
}

func timeout(name, service string) *configv1.Policy {
	return &configv1.Policy{Name: name, Service: service, Kind: &configv1.Policy_Timeout{Timeout: &configv1.TimeoutPolicy{}}}
}

func subsets(name, service, byDefault string, of ...string) *configv1.Policy {
	s := &configv1.SubsetsPolicy{Subsets: map[string]*configv1.Subset{}, Default: byDefault}
	for _, one := range of {
		s.Subsets[one] = &configv1.Subset{Meta: map[string]string{"is": one}}
	}
	return &configv1.Policy{Name: name, Service: service, Kind: &configv1.Policy_Subsets{Subsets: s}}
}

func names(p *Policies) (names []string) {
	for _, one := range p.List {
		names = append(names, one.GetName())
	}
	return names
}

func TestOwnPoliciesGoBeforeGeneratedOnes(t *testing.T) {
	t.Parallel()
	hedging := &configv1.Policy{Name: "h", Service: "a", Kind: &configv1.Policy_Hedging{Hedging: &configv1.HedgingPolicy{}}}
	retry := &configv1.Policy{Name: "consul.a.retry", Service: "a", Kind: &configv1.Policy_Retry{Retry: &configv1.RetryPolicy{}}}
	inbound := timeout("beside", "a")
	inbound.Inbound = true
	for _, c := range []struct {
		name           string
		own, generated []*configv1.Policy
		want           []string
	}{
		{"nothing", nil, nil, nil},
		{"generated alone", nil, []*configv1.Policy{route("consul.a.route", "a")}, []string{"consul.a.route"}},
		{"the same kind", []*configv1.Policy{route("mine", "a")}, []*configv1.Policy{route("consul.a.route", "a"), timeout("consul.a.timeout", "a")}, []string{"mine", "consul.a.timeout"}},
		{"another service", []*configv1.Policy{route("mine", "b")}, []*configv1.Policy{route("consul.a.route", "a")}, []string{"mine", "consul.a.route"}},
		{"all services", []*configv1.Policy{timeout("all", "*")}, []*configv1.Policy{timeout("consul.a.timeout", "a")}, []string{"all", "consul.a.timeout"}},
		{"inbound", []*configv1.Policy{inbound}, []*configv1.Policy{timeout("consul.a.timeout", "a")}, []string{"beside", "consul.a.timeout"}},
		{"hedging for retry", []*configv1.Policy{hedging}, []*configv1.Policy{retry}, []string{"h"}},
		{"one name", []*configv1.Policy{timeout("consul.a.route", "z")}, []*configv1.Policy{route("consul.a.route", "a")}, []string{"consul.a.route"}},
	} {
		got := WithFallback(&Policies{List: c.own}, &Policies{List: c.generated})
		if !slices.Equal(names(got), c.want) {
			t.Errorf("%s: %q, want %q", c.name, names(got), c.want)
		}
	}
	if got := WithFallback(nil, nil, nil); len(got.List)+len(got.Refused) != 0 {
		t.Errorf("of nothing comes %+v", got)
	}
}

func TestGeneratedRulesGiveWay(t *testing.T) {
	t.Parallel()
	rule := func() *configv1.RouteRule {
		return &configv1.RouteRule{
			Name: "r", Action: &configv1.RouteRule_To{To: &configv1.Destination{}},
			Timeouts: &configv1.TimeoutPolicy{Max: durationpb.New(time.Second)}, Retry: &configv1.RetryPolicy{MaxAttempts: 2},
		}
	}
	generated := route("consul.a.route", "a", rule())
	before := proto.CloneOf(generated)
	got := WithFallback(&Policies{List: []*configv1.Policy{timeout("mine", "a"), timeout("other", "b")}}, &Policies{List: []*configv1.Policy{generated}})
	if r := got.List[2].GetRoute().GetRules()[0]; r.GetTimeouts() != nil || r.GetRetry() == nil {
		t.Errorf("beside an own timeout the rule is %v", r)
	}
	if !proto.Equal(before, generated) {
		t.Error("what was given was changed")
	}
}

func TestGeneratedPoliciesOfOneNameAreOne(t *testing.T) {
	t.Parallel()
	first := &Policies{
		List:    []*configv1.Policy{subsets("consul.b.subsets", "b", "", "v1"), route("consul.b.route", "b", &configv1.RouteRule{Name: "first"})},
		Refused: []RefusedPolicy{{Policy: "consul.b.route", Service: "b", Problem: "x"}, {Policy: "consul.c.load_balancing", Service: "c", Problem: "y"}},
		Places:  map[string]string{"consul.b.route": "there"}, Locate: func(policy, _ string) string { return "first: " + policy },
	}
	second := &Policies{
		List:    []*configv1.Policy{subsets("consul.b.subsets", "b", "v2", "v2", "v1"), route("consul.b.route", "b", &configv1.RouteRule{Name: "second"})},
		Refused: []RefusedPolicy{{Policy: "consul.b.route", Service: "b", Problem: "x"}},
	}
	got := WithFallback(&Policies{Where: "here"}, first, nil, second)
	if !slices.Equal(names(got), []string{"consul.b.subsets", "consul.b.route"}) {
		t.Fatalf("%q", names(got))
	}
	s := got.List[0].GetSubsets()
	if s.GetDefault() != "v2" || !slices.Equal(slices.Sorted(maps.Keys(s.GetSubsets())), []string{"v1", "v2"}) || len(first.List[0].GetSubsets().GetSubsets()) != 1 {
		t.Errorf("subsets are %v", s)
	}
	if r := got.List[1].GetRoute().GetRules()[0]; r.GetName() != "first" {
		t.Errorf("of two routes %v holds", r)
	}
	if len(got.Refused) != 2 || got.Places["consul.b.route"] != "there" || got.Place("consul.b.route", "x") != "first: consul.b.route" || got.Where != "here" {
		t.Errorf("%+v", got)
	}
	// What was made for the service itself goes first.
	second.Of = "b"
	if r := WithFallback(nil, first, second).List[1].GetRoute().GetRules()[0]; r.GetName() != "second" {
		t.Errorf("of two routes %v holds, and the other one is the service's own", r)
	}
	if first.Of = "b"; WithFallback(nil, first, second).List[1].GetRoute().GetRules()[0].GetName() != "first" {
		t.Error("of two routes that are alike the second holds")
	}
	// What is refused of what is not taken is no trouble.
	mine := WithFallback(&Policies{List: []*configv1.Policy{route("mine", "b")}}, first)
	if len(mine.Refused) != 1 || mine.Refused[0].Service != "c" {
		t.Errorf("%+v", mine.Refused)
	}
}

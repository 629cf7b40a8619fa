package configyaml

import (
	"os"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

// everyPolicy is a policy of each kind, with all the blocks that have defaults.
func everyPolicy() []*configv1.Policy {
	budget := &configv1.RetryBudget{}
	return []*configv1.Policy{
		{Kind: &configv1.Policy_Route{Route: &configv1.RoutePolicy{Rules: []*configv1.RouteRule{{
			Mirror: &configv1.Mirror{To: &configv1.Destination{Service: "x"}},
			Action: &configv1.RouteRule_Split{Split: &configv1.Split{Destinations: []*configv1.WeightedDestination{{Weight: 10000, Subset: "v1"}}}},
		}}}}},
		{Kind: &configv1.Policy_Subsets{Subsets: &configv1.SubsetsPolicy{Subsets: map[string]*configv1.Subset{"v1": {}}}}},
		{Kind: &configv1.Policy_Timeout{Timeout: &configv1.TimeoutPolicy{}}},
		{Kind: &configv1.Policy_Retry{Retry: &configv1.RetryPolicy{MaxAttempts: 2, Budget: budget}}},
		{Kind: &configv1.Policy_Hedging{Hedging: &configv1.HedgingPolicy{MaxAttempts: 2}}},
		{Kind: &configv1.Policy_CircuitBreaker{CircuitBreaker: &configv1.CircuitBreakerPolicy{Trip: &configv1.BreakerTrip{}, PerInstance: &configv1.BreakerTrip{}}}},
		{Kind: &configv1.Policy_RateLimit{RateLimit: &configv1.RateLimitPolicy{Limits: []*configv1.RateLimit{{Requests: 1}}}}},
		{Kind: &configv1.Policy_Fault{Fault: &configv1.FaultPolicy{}}},
		{Kind: &configv1.Policy_LoadBalancing{LoadBalancing: &configv1.LoadBalancingPolicy{Locality: &configv1.Locality{}, SlowStart: &configv1.SlowStart{}}}},
		{Kind: &configv1.Policy_OutlierEjection{OutlierEjection: &configv1.OutlierEjectionPolicy{
			SuccessRate: &configv1.SuccessRateEjection{}, FailurePercentage: &configv1.FailurePercentageEjection{},
		}}},
		{Kind: &configv1.Policy_HealthCheck{HealthCheck: &configv1.HealthCheckPolicy{}}},
	}
}

func TestPolicyDefaults(t *testing.T) {
	t.Parallel()
	comments := fieldComments(t)
	checked := 0
	var walk func(m protoreflect.Message)
	walk = func(m protoreflect.Message) {
		m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
			switch {
			case fd.IsMap():
				v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
					if fd.MapValue().Message() != nil {
						walk(v.Message())
					}
					return true
				})
				return true
			case fd.IsList():
				for i := range v.List().Len() {
					if fd.Message() != nil {
						walk(v.List().Get(i).Message())
					}
				}
				return true
			case fd.Message() != nil && !isDuration(fd):
				walk(v.Message())
				return true
			}
			at := documented.FindStringSubmatch(comments[string(fd.FullName())])
			if at == nil {
				return true
			}
			checked++
			if got, want := defaultText(t, v), normalDefault(t, at[1], fd); got != want {
				t.Errorf("%s is %s by default; its comment says %s (%s)", fd.FullName(), got, want, at[0])
			}
			return true
		})
	}
	for _, p := range everyPolicy() {
		effectivePolicy(p)
		before := proto.CloneOf(p)
		effectivePolicy(p)
		if !proto.Equal(p, before) {
			t.Errorf("filling in again changed %v to %v", before, p)
		}
		walk(p.ProtoReflect())
	}
	if checked < 40 {
		t.Errorf("only %d defaults were found: has the form of the comments changed?", checked)
	}
}

// A policy that is wrong costs that policy alone, whatever is wrong with it.
func TestWrongPoliciesAreLeftOut(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("testdata/policies_wrong.yaml")
	if err != nil {
		t.Fatal(err)
	}
	mesh, refused, err := ParseMeshInPart("m.yaml", data)
	if err != nil {
		t.Fatal(err)
	}
	var kept []string
	for _, p := range mesh.GetPolicies() {
		kept = append(kept, p.GetName())
	}
	if got := strings.Join(kept, " "); got != "first second last" {
		t.Errorf("kept %s", got)
	}
	if len(mesh.GetServices()["greeter"].GetEndpoints()) != 1 {
		t.Error("the services are lost")
	}
	var said []string
	for _, r := range refused {
		for _, p := range r.Problems {
			said = append(said, r.Name+" | "+p.Error())
		}
	}
	want := []string{
		`typo | m.yaml:8:5: policies[1].timeout: unknown field "defalt": did you mean "default"?`,
		`range | m.yaml:14:25: policies[3].retry.max_attempts: is 1, but must be greater than or equal to 2 and less than or equal to 10`,
		`empty | m.yaml:15:3: policies[4]: write one of route, subsets, timeout, retry, hedging, circuit_breaker, rate_limit, fault, load_balancing, outlier_ejection, health_check, access, split here`,
		`first | m.yaml:17:9: policies[5].name: "first" is policies[0] already: give it another name`,
		`number | m.yaml:23:10: policies[6].timeout.max: "soon" is not a duration: write a number with its unit (ns, us, ms, s, m, h), such as "5s"`,
	}
	if got := strings.Join(said, "\n"); got != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
	if _, err := ParseMesh("m.yaml", data); err == nil {
		t.Error("the whole file passes")
	}
}

// What is wrong beside policies refuses the whole.
func TestAWrongMeshIsRefusedAsAWhole(t *testing.T) {
	t.Parallel()
	for _, data := range []string{
		"services: {a: {endpoints: [{}]}}\npolicies: [{name: p}]\n",
		"services: {a: {}}\npolicies: {}\n",
		"policies: [\n",
	} {
		if mesh, _, err := ParseMeshInPart("m.yaml", []byte(data)); err == nil {
			t.Errorf("%q gives %v", data, mesh)
		}
	}
}

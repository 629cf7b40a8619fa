package explain

import (
	"context"
	"encoding/json"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pillion-proxy/pillion/interop/harness"
	"github.com/pillion-proxy/pillion/interop/load"
)

const rules = `policies:
- {name: versions, service: app, subsets: {subsets: {v1: {meta: {version: v1}}, v2: {meta: {version: v2}}}}}
- name: canary
  service: app
  route:
    rules:
    - {name: testers, match: {metadata: [{key: x-tester, present: true}]}, to: {subset: v2}}
    - name: users
      split:
        sticky: {key: {metadata: user}}
        destinations: [{weight: 7000, subset: v1}, {weight: 3000, subset: v2}]
- {name: calm, service: app, circuit_breaker: {trip: {consecutive_failures: 3, open_for: 600s}}}
- {name: few, service: app, rate_limit: {limits: [{match: {metadata: [{key: limited, present: true}]}, requests: 1, interval: 3600s}]}}
- {name: eject, service: app, outlier_ejection: {}}
`

// answer is what explain says, as far as it is looked at here.
type answer struct {
	Service string
	Rules   []struct {
		Rule, Where, Why string
		Decided          bool
	}
	Split    struct{ Group string }
	InForce  []struct{ Kind, Policy, State string } `json:"in_force"`
	Outcomes []struct {
		Group, Subset string
		Share         float64
		RateLimits    []string `json:"rate_limits"`
		Circuit       struct{ State, Reason string }
		Candidates    []struct {
			Address, Subset, Why string
			Usable, Would        bool
		}
	}
	Notes []string
}

const method = "grpc.testing.TestService/UnaryCall"

func explain(t *testing.T, sidecar *harness.Sidecar, args ...string) *answer {
	t.Helper()

	code, output := harness.Run(t, harness.Command{
		Path: harness.PlainPillion(t), Args: append([]string{"explain", "app", method, "--admin", sidecar.Admin, "-o", "json"}, args...),
	})
	if code != 0 {
		t.Fatalf("exit %d\n%s", code, output)
	}
	var a answer
	if err := json.Unmarshal([]byte(output), &a); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}

	return &a
}

// What explain says of users is what becomes of their RPCs, and to ask changes nothing.
func TestExplainIsWhatHappens(t *testing.T) {
	t.Parallel()

	apps := map[string]*load.App{"v1": load.StartApp(t, "v1", ""), "v2": load.StartApp(t, "v2", "")}
	var service harness.Service
	for version, app := range apps {
		service.Endpoints = append(service.Endpoints, harness.Endpoint{Address: app.Address, Meta: map[string]string{"version": version}})
	}
	mesh := harness.NewMesh(t, map[string]harness.Service{"app": service})
	folder := newPolicyFolder(t, "app.yaml", rules)
	sidecar := harness.StartSidecar(t, harness.Config{Outbound: true, Mesh: mesh, Settings: folder.settings()})

	// Before anybody has called it.
	a := explain(t, sidecar, "-H", "x-tester=1")
	if len(a.Notes) != 1 || !strings.Contains(a.Notes[0], "nobody has called") || len(a.Outcomes[0].Candidates) != 1 || a.Outcomes[0].Candidates[0].Address != apps["v2"].Address {
		t.Errorf("%+v", a)
	}

	conn := dial(t, sidecar.Outbound)
	groups := map[string]int{}
	for user := range 12 {
		pair := "user=" + strconv.Itoa(user)
		a := explain(t, sidecar, "-H", pair)
		who, err := call(t, conn, "user", strconv.Itoa(user))
		if err != nil || len(a.Outcomes) != 1 || a.Outcomes[0].Group != who || a.Split.Group != who {
			t.Fatalf("user %d: %q (%v), but explain says %+v", user, who, err, a)
		}
		groups[who]++
		for _, c := range a.Outcomes[0].Candidates {
			if c.Address == apps[who].Address && (!c.Would || !c.Usable) {
				t.Errorf("user %d: %+v", user, c)
			}
		}
	}
	if groups["v1"] == 0 || groups["v2"] == 0 {
		t.Errorf("all went one way: %v", groups)
	}
	a = explain(t, sidecar)
	if len(a.Outcomes) != 2 || a.Outcomes[0].Share+a.Outcomes[1].Share != 1 || a.Split.Group != "" || a.Rules[0].Why == "" || !strings.HasSuffix(a.Rules[1].Where, "app.yaml:8:7") {
		t.Errorf("%+v", a)
	}
	if n := sidecar.Metric(t, "pillion_attempts_total", `service="app"`); n != 12 {
		t.Errorf("there were %v attempts of 12 RPCs", n)
	}
}

// A limit, a breaker and an instance that is gone are told of.
func TestExplainSaysWhy(t *testing.T) {
	t.Parallel()

	fails := load.StartApp(t, "v1", "", grpc.UnaryInterceptor(func(context.Context, any, *grpc.UnaryServerInfo, grpc.UnaryHandler) (any, error) {
		return nil, status.Error(codes.Unavailable, "no")
	}))
	gone := harness.FreeAddress(t)
	mesh := harness.NewMesh(t, map[string]harness.Service{"app": {Endpoints: []harness.Endpoint{
		{Address: fails.Address, Meta: map[string]string{"version": "v1"}}, {Address: gone, Meta: map[string]string{"version": "v2"}},
	}}})
	folder := newPolicyFolder(t, "app.yaml", rules)
	sidecar := harness.StartSidecar(t, harness.Config{Outbound: true, Mesh: mesh, Settings: folder.settings()})
	conn := dial(t, sidecar.Outbound)
	if _, err := call(t, conn, "x-tester", "1"); status.Code(err) != codes.Unavailable {
		t.Fatalf("an RPC to nobody ended %v", err)
	}
	a := explain(t, sidecar, "-H", "x-tester=1", "-H", "limited=1")
	if o := a.Outcomes[0]; o.Candidates[0].Usable || !strings.Contains(o.Candidates[0].Why, "connection refused") || len(o.RateLimits) != 1 || o.RateLimits[0] != "few/1" {
		t.Errorf("%+v", a)
	}
	user := "0"
	for explain(t, sidecar, "-H", "user="+user).Outcomes[0].Group != "v1" {
		user += "0"
	}
	for range 4 {
		_, _ = call(t, conn, "user", user)
	}
	a = explain(t, sidecar, "-H", "user="+user)
	if o := a.Outcomes[0]; o.Circuit.State != "open" || !strings.Contains(o.Circuit.Reason, "3 failures") {
		t.Errorf("%+v", a)
	}
	if n := sidecar.Metric(t, "pillion_circuit_breaker_state", `policy="calm"`, `method="`+method+`"`); n != 2 {
		t.Errorf("the breaker's state is %v", n)
	}
	_, err := call(t, conn, "user", user)
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), `policy "calm"`) {
		t.Errorf("with an open breaker an RPC ended %v", err)
	}

	for range 3 {
		_, err = call(t, conn, "limited", "1", "x-tester", "1")
	}
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("beyond a limit an RPC ended %v", err)
	}
	a = explain(t, sidecar)
	for _, f := range a.InForce {
		if f.Kind == "rate_limit" && (f.Policy != "few" || f.State != "refused 2 by limit 1") {
			t.Errorf("%+v", f)
		}
	}
	if n := sidecar.Metric(t, "pillion_rate_limited_total", `policy="few"`, `limit="1"`); n != 2 {
		t.Errorf("%v RPCs were refused", n)
	}
}

// An instance that policies leave alone is no candidate, and it is said why.
func TestExplainSaysWhatIsEjected(t *testing.T) {
	t.Parallel()

	well := load.StartApp(t, "well", "")
	sick := load.StartApp(t, "sick", "", grpc.UnaryInterceptor(func(context.Context, any, *grpc.UnaryServerInfo, grpc.UnaryHandler) (any, error) {
		return nil, status.Error(codes.Internal, "no")
	}))
	mesh := harness.NewMesh(t, map[string]harness.Service{"app": {Endpoints: harness.Endpoints(well.Address, sick.Address)}})
	folder := newPolicyFolder(t, "app.yaml", "policies: [{name: eject, service: app, outlier_ejection: {consecutive_failures: 2, base_ejection_time: 300s}}]\n")
	sidecar := harness.StartSidecar(t, harness.Config{Outbound: true, Mesh: mesh, Settings: folder.settings()})
	conn := dial(t, sidecar.Outbound)
	for sidecar.Metric(t, "pillion_blocked_instances") == 0 {
		_, _ = call(t, conn)
	}
	a := explain(t, sidecar)
	for _, c := range a.Outcomes[0].Candidates {
		if isWell := c.Address == well.Address; c.Usable != isWell || c.Would != isWell || !isWell && !strings.Contains(c.Why, `ejected by policy "eject"`) {
			t.Errorf("%+v", c)
		}
	}
	if len(a.Outcomes[0].Candidates) != 2 {
		t.Errorf("%+v", a)
	}
}

// People see it as text, programs by grpcurl.
func TestExplainForPeopleAndPrograms(t *testing.T) {
	t.Parallel()

	mesh := harness.NewMesh(t, map[string]harness.Service{"app": {Endpoints: harness.Endpoints(harness.FreeAddress(t))}})
	folder := newPolicyFolder(t, "app.yaml", rules)
	sidecar := harness.StartSidecar(t, harness.Config{Outbound: true, Mesh: mesh, Settings: folder.settings()})
	code, output := harness.Run(t, harness.Command{Path: harness.PlainPillion(t), Args: []string{"explain", "app", method, "-H", "user=42", "--admin", sidecar.Admin}})
	if want := regexp.MustCompile(`(?s)addressed to app \(by authority\).*RULES.*canary/testers +no +metadata "x-tester" is wanted, but the RPC has none.*` +
		`canary/users +decides .*SPLIT.*bucket \d+, so v.*POLICIES.*RESULT\n  goes to +app, subset v.*circuit +closed`); code != 0 || !want.MatchString(output) {
		t.Errorf("exit %d\n%s", code, output)
	}
	code, output = harness.Run(t, harness.Command{Path: harness.Tool(t, "grpcurl"), Args: []string{
		"-plaintext", "-d", `{"authority": "app", "method": "` + method + `", "metadata": [{"key": "x-tester", "value": "1"}]}`,
		sidecar.Admin, "pillion.admin.v1.Admin/Explain",
	}})
	if code != 0 || !strings.Contains(output, `"rule": "canary/testers"`) || !strings.Contains(output, `"subset": "v2"`) {
		t.Errorf("exit %d\n%s", code, output)
	}
	code, output = harness.Run(t, harness.Command{Path: harness.Tool(t, "grpcurl"), Args: []string{
		"-plaintext", "-d", `{"authority": "app", "method": "no method"}`, sidecar.Admin, "pillion.admin.v1.Admin/Explain",
	}})
	if code == 0 || !strings.Contains(output, "InvalidArgument") {
		t.Errorf("exit %d\n%s", code, output)
	}
}

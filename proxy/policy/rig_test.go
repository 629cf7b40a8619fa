package policy

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/pillion-proxy/pillion/proto/configyaml"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
)

// written reads policies as people write them, with their defaults filled in.
func written(tb testing.TB, yaml string) []*configv1.Policy {
	tb.Helper()
	mesh, err := configyaml.ParseMesh("mesh.yaml", []byte("policies:\n"+yaml))
	if err != nil {
		tb.Fatalf("the test's own policies: %v\n%s", err, yaml)
	}
	return mesh.GetPolicies()
}

// refusalsOf says what is wrong with policies by themselves.
func refusalsOf(policies []*configv1.Policy) []Refusal {
	_, refusals := Compile(policies, nil, Env{})
	return refusals
}

// compiled compiles policies that are in order.
func compiled(tb testing.TB, yaml string) *Set {
	tb.Helper()
	set, refusals := Compile(written(tb, yaml), nil, Env{})
	for _, r := range refusals {
		tb.Errorf("refused: %v", r)
	}
	if tb.Failed() {
		tb.FailNow()
	}
	return set
}

// compiledRoute compiles the rules of a route of the service "greeter".
func compiledRoute(tb testing.TB, rules string) *Route {
	tb.Helper()
	return compiled(tb, "- name: p\n  service: greeter\n  route:\n    rules:\n"+indent(rules)).Service("greeter").Outbound("/any.Service/Method").Route
}

func indent(text string) string {
	return "    " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n    ") + "\n"
}

// request is an RPC with metadata, as "key: value".
func request(path string, metadata ...string) *RPC {
	rpc := &RPC{Path: path, Authority: "greeter", Random: rand.New(rand.NewPCG(1, 2)).Uint64}
	rpc.Fields = append(rpc.Fields,
		hpack.Field{Name: ":method", Value: "POST"},
		hpack.Field{Name: ":path", Value: path},
		hpack.Field{Name: "content-type", Value: "application/grpc"},
	)
	rpc.Fields = append(rpc.Fields, fields(metadata...)...)
	return rpc
}

func fields(metadata ...string) (list []hpack.Field) {
	for _, text := range metadata {
		key, value, _ := strings.Cut(text, ": ")
		list = append(list, hpack.Field{Name: key, Value: value})
	}
	return list
}

// asked is a request with these fields.
func asked(list []hpack.Field) *RPC { return &RPC{Fields: list} }

const sayHello = "/helloworld.Greeter/SayHello"

// fresh is what a policy "p" is compiled by.
func fresh() *problems { return &problems{policy: "p", env: &Env{}} }

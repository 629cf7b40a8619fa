package docs_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/pillion-proxy/pillion/proto/helloworld"
)

// seen is what a caller sees of an RPC.
type seen struct {
	code          codes.Code
	flag, message string // the message is the greeting, where there is one
}

// call makes an RPC to a service through the sidecar at an address.
func call(t *testing.T, conn *grpc.ClientConn, p promise) seen {
	t.Helper()
	rpc := rpcOf(t, p.rpc)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, f := range rpc.Fields {
		ctx = metadata.AppendToOutgoingContext(ctx, f.Name, f.Value)
	}
	var header, trailer metadata.MD
	reply := &helloworld.HelloReply{}
	err := conn.Invoke(ctx, rpc.Path, &helloworld.HelloRequest{Name: "you"}, reply,
		grpc.Header(&header), grpc.Trailer(&trailer))
	s := seen{status.Code(err), strings.Join(append(header.Get("pillion-flags"), trailer.Get("pillion-flags")...), ","), reply.GetMessage()}
	if err != nil {
		s.message = status.Convert(err).Message()
	}
	return s
}

var instance = regexp.MustCompile(`127\.0\.0\.1:(50\d\d\d)`)

// greeters starts an app for each port that the examples name, which says that it is
// this port.
func greeters(t *testing.T, all []example) map[string]string {
	t.Helper()
	at := map[string]string{}
	for _, e := range all {
		for _, found := range instance.FindAllStringSubmatch(e.yaml, -1) {
			if at[found[0]] == "" {
				line := start(t, "demo", "app", "--version-name", found[1], "--listen", "127.0.0.1:0").line()
				at[found[0]] = strings.TrimPrefix(line, "listening ")
			}
		}
	}
	return at
}

// The examples of docs/policy.md hold in a sidecar: RPCs arrive where the tables say,
// and callers see what the text says.
func TestPolicyExamplesRun(t *testing.T) {
	t.Parallel()
	all := examples(t)
	at := greeters(t, all)
	looked := map[string]bool{}
	for i, e := range all {
		looked[e.heading] = true
		if len(e.promises()) == 0 && len(sights[e.heading]) == 0 {
			t.Errorf("%s: nothing is known of what becomes of an RPC", e.heading)
		}
		t.Run(fmt.Sprint(i+1, " ", e.heading), func(t *testing.T) {
			dial := runExample(t, &e, at)
			for _, p := range e.promises() {
				if !strings.Contains(p.rpc, " from ") { // the sidecar is a pure client's
					arrives(t, &e, p, call(t, dial(p.service), p))
				}
			}
			for _, c := range sights[e.heading] {
				var got seen
				for range max(1, c.times) {
					got = call(t, dial(c.service), promise{rpc: c.rpc})
					if c.is(got) != (c.code == codes.OK) {
						break // one that is refused is enough, and one that fails too much
					}
				}
				if !c.is(got) {
					t.Errorf("the caller sees %+v, want %+v", got, c)
				}
			}
		})
	}
	for heading := range sights {
		if !looked[heading] {
			t.Errorf("policy.md has no example below %q", heading)
		}
	}
}

// runExample starts a sidecar with an example's mesh file, and returns what dials it for
// a service.
func runExample(t *testing.T, e *example, at map[string]string) func(service string) *grpc.ClientConn {
	t.Helper()
	dir := t.TempDir()
	mesh := instance.ReplaceAllStringFunc(e.yaml, func(port string) string { return at[port] })
	for name, content := range map[string]string{
		"pillion.yaml": "outbound: {listen: \"127.0.0.1:0\"}\nadmin: {listen: \"127.0.0.1:0\"}\nregistry: {file: {path: mesh.yaml}}\n",
		"mesh.yaml":    mesh,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	sidecar := start(t, "run", "-c", filepath.Join(dir, "pillion.yaml")).listening("outbound", "admin")
	return func(service string) *grpc.ClientConn {
		conn, err := grpc.NewClient("passthrough:///"+sidecar["outbound"],
			grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority(service), grpc.WithDisableRetry())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
}

// arrives fails where an RPC did not go where a table says.
func arrives(t *testing.T, e *example, p promise, got seen) {
	t.Helper()
	to := ticked(p.goes)
	service, known := e.mesh.GetServices()[to[0]]
	if !known { // a status
		if want := strings.ReplaceAll(strings.ToLower(got.code.String()), "_", ""); want != strings.ToLower(strings.ReplaceAll(to[0], "_", "")) || got.flag != "" {
			t.Errorf("an RPC %s ends %+v, and not %s", p.rpc, got, to[0])
		}
		return
	}
	subset := ""
	if len(to) > 1 {
		subset = to[1]
	}
	var ports []string
	for _, endpoint := range service.GetEndpoints() {
		if subset == "" || e.in(p.service, subset, endpoint.GetMeta(), endpoint.GetTags()) {
			ports = append(ports, endpoint.GetAddress())
		}
	}
	port := got.message[strings.LastIndexByte(got.message, ' ')+1:]
	if got.code != codes.OK || !strings.Contains(strings.Join(ports, " ")+" ", ":"+port+" ") {
		t.Errorf("an RPC %s meets %+v, and none of %v", p.rpc, got, ports)
	}
}

// sight is what a caller sees of all of some RPCs that are alike; or, where it is no
// success, of one of them.
type sight struct {
	service, rpc  string
	times         int // how many RPCs at most
	code          codes.Code
	flag, message string // the message has this in it
}

func (c *sight) is(s seen) bool {
	return s.code == c.code && s.flag == c.flag && strings.Contains(s.message, c.message)
}

// sayHello is for examples that have nothing done to an RPC at a greeter that is well.
var sayHello = []sight{{"greeter", "`helloworld.Greeter/SayHello`", 3, codes.OK, "", "Hello you"}}

// sights are what callers see under the policies of an example, by the heading above it.
var sights = map[string][]sight{
	"Route": {
		{"greeter", "`helloworld.Greeter/SayGoodbye`", 1, codes.Unimplemented, "", "SayGoodbye is retired: call SayHello"},
	},
	"Rate limit": {
		{"greeter", "`helloworld.Greeter/SayHello` `x-tenant: acme`", 10, codes.OK, "", "Hello you"},
		{"greeter", "`helloworld.Greeter/SayHello` `x-tenant: initech`", 200, codes.ResourceExhausted, "RL", `policy "greeter-callers", limit 2`},
	},
	"Fault": {
		{"greeter", "`helloworld.Greeter/SayHello`", 1, codes.OK, "", "Hello you"},
		{"billing", "`helloworld.Greeter/SayHello` `pillion-fault-abort: INTERNAL`", 1, codes.Internal, "FI", `policy "billing-faults"`},
		{"billing", "`helloworld.Greeter/SayHello`", 1, codes.OK, "", "Hello you"},
	},
	"Load balancing": {
		{"cache", "`helloworld.Greeter/SayHello` `x-cache-key: 7`", 2, codes.OK, "", "Hello you"},
	},
	"Timeout":            sayHello,
	"Retry":              sayHello,
	"Hedging":            sayHello,
	"Circuit breaker":    sayHello,
	"Outlier ejection":   sayHello,
	"Health check":       sayHello,
	"Access":             sayHello, // the sidecar is a client's, and access holds beside the service
	"Which policy holds": sayHello,
}

// in says whether an instance is in a subset.
func (e *example) in(service, subset string, meta map[string]string, tags []string) bool {
	for _, p := range e.mesh.GetPolicies() {
		s := p.GetSubsets().GetSubsets()[subset]
		if p.GetService() != service || s == nil {
			continue
		}
		for key, value := range s.GetMeta() {
			if meta[key] != value {
				return false
			}
		}
		for _, tag := range s.GetTags() {
			if !slices.Contains(tags, tag) {
				return false
			}
		}
		return true
	}
	return false
}

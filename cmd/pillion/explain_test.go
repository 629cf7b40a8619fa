package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"

	adminv1 "github.com/pillion-proxy/pillion/proto/pillion/admin/v1"
)

const meshWithPolicies = "testdata/policies/mesh.yaml"

func TestExplainFiles(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{
		"sticky":    {"greeter", "helloworld.Greeter/SayHello", "-H", "user-id=42", "--caller", "web"},
		"chance":    {"greeter.service.consul", "/helloworld.Greeter/SayHello"},
		"settled":   {"greeter:443", "helloworld.Greeter/SayHello", "--random", "7"},
		"tester":    {"localhost:15001", "helloworld.Greeter/SayHello", "-H", "x-tester=1", "-H", "grpc-timeout=1H", "-H", "trace-bin=AQI="},
		"fraction":  {"other", "other.Other/Read"},
		"answered":  {"other", "other.Other/Gone", "--caller", "web", "--random", "3"},
		"elsewhere": {"nobody", "other.Other/Read"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			code, stdout, stderr := pillion(t, append([]string{"explain", "-f", meshWithPolicies}, args...)...)
			if code != 0 || stderr != "" {
				t.Fatalf("exit %d: %s", code, stderr)
			}
			golden(t, "explain/"+name, stdout)
		})
	}
}

// What a bootstrap says counts: the app's name, the deadlines, and where policies are.
func TestExplainBootstrap(t *testing.T) {
	t.Parallel()
	path := folder(t, "mesh.yaml", goodMesh, "pillion.yaml", "service: {name: web, port: 1}\noutbound: {default_service: greeter, default_timeout: 7s}\n"+
		"registry: {file: {path: mesh.yaml}}\npolicies: {path: p.yaml}\n", "p.yaml",
		"policies: [{name: web, service: greeter, route: {rules: [{match: {callers: [web]}, authority: from-web}]}}]\n")
	code, stdout, stderr := pillion(t, "explain", "127.0.0.1:15001", "a.B/C", "-c", path+"/pillion.yaml", "-o", "json")
	if code != 0 {
		t.Fatal(stderr)
	}
	var answer adminv1.ExplainResponse
	if err := protojson.Unmarshal([]byte(stdout), &answer); err != nil {
		t.Fatal(err)
	}
	o := answer.GetOutcomes()[0]
	if answer.GetService() != "greeter" || answer.GetServiceBy() != "default" || o.GetRule() != "web/1" || o.GetAuthority() != "from-web" ||
		o.GetTimeout().AsDuration().String() != "7s" || len(o.GetCandidates()) != 2 || answer.GetInForce()[0].GetWhere() != path+"/p.yaml:1:12" {
		t.Error(stdout)
	}
}

// Each field is there, under its name in the schema, whatever its value.
func TestExplainJSON(t *testing.T) {
	t.Parallel()
	_, stdout, _ := pillion(t, "explain", "greeter", "helloworld.Greeter/SayHello", "-f", meshWithPolicies, "-o", "json")
	_, again, _ := pillion(t, "explain", "greeter", "helloworld.Greeter/SayHello", "-f", meshWithPolicies, "-o", "json")
	var answer map[string]any
	if err := json.NewDecoder(bytes.NewReader([]byte(stdout))).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	rules, _ := answer["rules"].([]any)
	if rule, _ := rules[0].(map[string]any); rule["matched"] != false || rule["why"] == "" {
		t.Error(stdout)
	}
	if answer["service_by"] != "authority" || stdout != again {
		t.Error(stdout)
	}
}

// Who calls decides about access, beside the service that the RPC goes to.
func TestExplainAccess(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{
		"allowed": {"greeter", "helloworld.Greeter/SayHello", "--from", "spiffe://example.org/svc/web"},
		"refused": {"greeter", "helloworld.Greeter/SayHello", "-H", "x-debug=1"},
		"audited": {"greeter", "helloworld.Greeter/Reset", "--from", "spiffe://dc.consul/ns/default/dc/dc2/svc/operator"},
		"moved":   {"old-greeter", "helloworld.Greeter/SayHello", "-H", "x-debug=1", "--from", "spiffe://example.org/svc/web"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			code, stdout, stderr := pillion(t, append([]string{"explain", "-f", "testdata/policies/access.yaml"}, args...)...)
			if code != 0 || stderr != "" {
				t.Fatalf("exit %d: %s", code, stderr)
			}
			golden(t, "explain/access-"+name, stdout)
		})
	}
}

func TestExplainErrors(t *testing.T) {
	t.Parallel()
	policies := "-f " + meshWithPolicies + " "
	for args, want := range map[string]string{
		"greeter":                                 "1 arguments are given, but a service and a method are wanted, such as: pillion explain greeter helloworld.Greeter/SayHello",
		policies + "greeter Hello":                `method "Hello": write it as pkg.Service/Method, such as helloworld.Greeter/SayHello`,
		policies + "g a.B/C -H x":                 `--header: "x" is not of the form KEY=VALUE, such as user-id=42`,
		policies + "g a.B/C -H X=1":               `--header: metadata "X": keys are in lower case on the wire: write "x"`,
		policies + "g a.B/C -H a-bin=*":           `--header: metadata "a-bin": "*" is not base64, as the values of -bin keys are on the wire`,
		policies + "g a.B/C -H grpc-timeout=soon": `metadata "grpc-timeout": grpc-timeout "soon": want 1 to 8 digits`,
		policies + "g a.B/C --random x":           `--random: "x" is not a whole number from 0 on`,
		policies + "g a.B/C --from web":           `--from: "web" is not a SPIFFE ID: it does not begin with spiffe://`,
		policies + "g a.B/C -o xml":               `--output: "xml" is not known: use text or json`,
		policies + "g a.B/C -c x":                 "--policies, --config and --admin exclude each other: give one",
		policies + "g a.B/C --admin x":            "--policies, --config and --admin exclude each other: give one",
		"g a.B/C --admin 127.0.0.1:1":             "no sidecar answers at 127.0.0.1:1: connection refused: is it running, and is this its admin.listen (--admin)? Files are asked with --policies or --config",
		"g a.B/C -f nowhere.yaml":                 "nowhere.yaml: cannot be read: file does not exist: check the path",
	} {
		t.Run(args, func(t *testing.T) {
			t.Parallel()
			code, stdout, stderr := pillion(t, append([]string{"explain"}, strings.Fields(args)...)...)
			if code != 1 || stdout != "" || !strings.HasPrefix(stderr, "pillion: "+want) || strings.Count(stderr, "\n") != 1 {
				t.Errorf("exit %d\n got %q %q\nwant %q", code, stdout, stderr, want)
			}
		})
	}
}

package docs_test

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/pillion-proxy/pillion/identity/dev"
	"github.com/pillion-proxy/pillion/proto/helloworld"
	"github.com/pillion-proxy/pillion/proxy/wire"
)

// metric is a metric as both the table and /metrics have it.
type metric struct {
	kind   string
	labels string // sorted, with commas
}

// docs/operations.md lists all metrics that a sidecar of both sides has, with
// their types and labels, and no others.
func TestMetrics(t *testing.T) {
	t.Parallel()
	documented := map[string]metric{}
	for _, row := range rows(section(t, readPage(t, "operations.md"), "Metrics")) {
		labels := ticked(row[2])
		slices.Sort(labels)
		documented[ticked(row[0])[0]] = metric{row[1], strings.Join(labels, ",")}
	}
	given := scrape(t, busySidecar(t))
	for name, m := range given {
		if documented[name] != m {
			t.Errorf("%s is %v; documented is %v", name, m, documented[name])
		}
	}
	for name := range documented {
		if given[name] == (metric{}) {
			t.Errorf("%s is documented, but is not there", name)
		}
	}
}

// busySidecar starts a sidecar of both sides in which everything that is counted
// has happened, and returns its admin address.
func busySidecar(t *testing.T) string {
	t.Helper()
	greeter := app(t)
	dir := t.TempDir()
	if _, err := dev.Create(filepath.Join(dir, "ca"), spiffeid.RequireTrustDomainFromString("example.org")); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"pillion.yaml": "service: {name: greeter, address: \"" + greeter + "\"}\n" +
			"outbound: {listen: \"127.0.0.1:0\", tls: permissive}\ninbound: {listen: \"127.0.0.1:0\", tls: permissive}\nadmin: {listen: \"127.0.0.1:0\"}\n" +
			"registry: {file: {path: mesh.yaml}}\noverload: {adaptive_concurrency: {}}\n" +
			"identity: {dev: {ca: ca}}\n",
		"mesh.yaml": "services: {greeter: {grpc: [helloworld.Greeter], endpoints: [{address: \"" + greeter + "\"}]}}\n" +
			"policies:\n" +
			"- {name: who, service: greeter, access: {rules: [{action: allow}]}}\n" +
			"- {name: eject, service: greeter, outlier_ejection: {}}\n" +
			"- {name: calm, service: greeter, circuit_breaker: {trip: {consecutive_failures: 9}, max_concurrent: 9}}\n" +
			"- {name: few, service: greeter, rate_limit: {limits: [{requests: 9}]}}\n" +
			"- {name: fault, service: greeter, fault: {delay: {for: 1ms, fraction: 0}}}\n" +
			"- {name: half, service: greeter, route: {rules: [{split: {destinations: [{weight: 10000, group: a}]}}]}}\n" +
			"- {name: again, service: greeter, retry: {max_attempts: 2, retryable_status_codes: [UNIMPLEMENTED], budget: {ratio: 0, min_per_second: 0}}}\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	at := start(t, "run", "-c", filepath.Join(dir, "pillion.yaml")).listening("outbound", "inbound", "admin")
	for _, side := range []string{"outbound", "inbound"} {
		conn, err := grpc.NewClient("passthrough:///"+at[side], grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if _, err := helloworld.NewGreeterClient(conn).SayHello(ctx, &helloworld.HelloRequest{Name: "you"}); err != nil {
			t.Fatalf("%s: %v", side, err)
		}
		if side == "outbound" {
			err = conn.Invoke(ctx, "/no.Such/Method", &helloworld.HelloRequest{}, &helloworld.HelloReply{})
			if status.Code(err) != codes.Unimplemented {
				t.Fatalf("an RPC to nowhere: %v", err)
			}
			err = conn.Invoke(ctx, "/helloworld.Greeter/None", &helloworld.HelloRequest{}, &helloworld.HelloReply{})
			if status.Code(err) != codes.Unimplemented {
				t.Fatalf("an RPC that the app does not know: %v", err)
			}
		}
	}
	return at["admin"]
}

// scrape returns the metrics at an admin address, those of the process left out.
func scrape(t *testing.T, admin string) map[string]metric {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+admin+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	given := map[string]metric{}
	for name, family := range families {
		if strings.HasPrefix(name, "go_") || strings.HasPrefix(name, "process_") {
			continue
		}
		var labels []string
		for _, label := range family.GetMetric()[0].GetLabel() {
			labels = append(labels, label.GetName())
		}
		slices.Sort(labels)
		given[name] = metric{strings.ToLower(family.GetType().String()), strings.Join(labels, ",")}
	}
	return given
}

// docs/operations.md explains each short code, in its table or among those to
// come, and docs/access-log.md names each.
func TestShortCodes(t *testing.T) {
	t.Parallel()
	explained := section(t, readPage(t, "operations.md"), "Short codes of failures")
	named := readPage(t, "access-log.md").text
	var known []string
	for flag := range wire.Flag(wire.NumFlags) {
		code := flag.String()
		if code == "" {
			continue
		}
		known = append(known, code)
		if n := strings.Count(explained, "`"+code+"`"); n != 1 {
			t.Errorf("operations.md explains %s %d times", code, n)
		}
		if !strings.Contains(named, "`"+code+"`") {
			t.Errorf("access-log.md does not name %s", code)
		}
	}
	for _, row := range rows(explained) {
		if code := ticked(row[0])[0]; !slices.Contains(known, code) {
			t.Errorf("operations.md explains %s, which does not exist", code)
		}
	}
}

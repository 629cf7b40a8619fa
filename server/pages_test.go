package server

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/pillion-proxy/pillion/proto/pillion/admin/v1"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

func TestPages(t *testing.T) {
	t.Parallel()
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "pillion_test", Help: "A test's."}))
	r := start(t, Options{Metrics: metrics})
	for _, test := range []struct {
		path, contentType string
		contains          []string
	}{
		{"/", "text/html; charset=utf-8", []string{`href="/metrics"`, `href="/debug/pprof/"`, "pillion.admin.v1.Admin"}},
		{"/live", "text/plain; charset=utf-8", []string{"live\n"}},
		{"/ready", "text/plain; charset=utf-8", []string{"ready\n"}},
		{"/metrics", "text/plain; version=0.0.4; charset=utf-8; escaping=underscores", []string{"\npillion_test 0\n", "\ngo_goroutines ", "\nprocess_resident_memory_bytes "}},
		{"/config", "application/json", []string{"{}\n"}},
		{"/endpoints", "application/json", []string{`"services": []`}},
		{"/debug/pprof/", "text/html; charset=utf-8", []string{"goroutine"}},
		{"/debug/pprof/goroutine?debug=1", "text/plain; charset=utf-8", []string{"goroutine profile"}},
		{"/debug/pprof/cmdline", "text/plain; charset=utf-8", []string{"server.test"}},
		{"/debug/pprof/profile?seconds=1", "application/octet-stream", nil},
		{"/debug/pprof/trace?seconds=0.01", "application/octet-stream", nil},
	} {
		got := r.do(t, "GET", test.path)
		if got.code != 200 || got.header.Get("Content-Type") != test.contentType {
			t.Errorf("%s: %d, %s: %s", test.path, got.code, got.header.Get("Content-Type"), got.body)
		}
		for _, part := range test.contains {
			if !strings.Contains("\n"+got.body, part) {
				t.Errorf("%s does not hold %q:\n%s", test.path, part, got.body)
			}
		}
		if got.header.Get("Cache-Control") != "no-store" || got.header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: headers %v", test.path, got.header)
		}
		if got := r.do(t, "POST", test.path); got.code != http.StatusMethodNotAllowed || !strings.Contains(got.header.Get("Allow"), "GET") {
			t.Errorf("POST %s: %d, allowed %q", test.path, got.code, got.header.Get("Allow"))
		}
	}
	for _, path := range []string{"/nothing", "/metrics/x", "/debug", "/debug/pprof/nothing"} {
		if got := r.do(t, "GET", path); got.code != http.StatusNotFound {
			t.Errorf("%s: %d", path, got.code)
		}
	}
}

func TestReadyPageSaysWhyNot(t *testing.T) {
	t.Parallel()
	ready := NewReadiness("outbound", "registry")
	r := start(t, Options{Readiness: ready})
	want := func(code int, body string) {
		t.Helper()
		if got := r.do(t, "GET", "/ready"); got.code != code || got.body != body {
			t.Errorf("%d %q, want %d %q", got.code, got.body, code, body)
		}
	}
	want(503, "not ready\noutbound: starting\nregistry: starting\n")
	ready.Set("outbound", "")
	ready.Set("registry", "consul 127.0.0.1:8500 does not answer")
	want(503, "not ready\nregistry: consul 127.0.0.1:8500 does not answer\n")
	ready.Set("registry", "")
	want(200, "ready\n")
	ready.Drain()
	want(503, "not ready\ndraining: the sidecar is shutting down\n")
	if got := r.do(t, "GET", "/live"); got.code != 200 {
		t.Errorf("/live while draining: %d", got.code)
	}
}

// TestConfigPage also shows that what the page is made of is left as it was.
func TestConfigPage(t *testing.T) {
	t.Parallel()
	config := &configv1.Bootstrap{
		Service: &configv1.Service{Name: "greeter", Port: proto.Uint32(50051), Meta: map[string]string{"version": "v1", "api-key": "hunter2"}},
		Registry: &configv1.Registry{Source: &configv1.Registry_Consul{Consul: &configv1.ConsulRegistry{
			Address:   "https://pillion:hunter2@consul.example:8501",
			TokenFile: "/run/token",
		}}},
	}
	before := proto.CloneOf(config)
	r := start(t, Options{Config: shown{config: func() *configv1.Bootstrap { return config }}, Sources: shown{sources: func() []*adminv1.Source {
		return []*adminv1.Source{{
			Kind:         "consul",
			Location:     "https://pillion:hunter2@consul.example:8501",
			LastSuccess:  timestamppb.New(time.Unix(1_800_000_000, 0)),
			Error:        "permission denied",
			FailingSince: timestamppb.New(time.Unix(1_800_000_060, 0)),
		}}
	}}})
	got := r.do(t, "GET", "/config")
	want := `{
  "bootstrap": {
    "service": {
      "name": "greeter",
      "port": 50051,
      "meta": {
        "api-key": "[redacted]",
        "version": "v1"
      }
    },
    "registry": {
      "consul": {
        "address": "https://pillion:redacted@consul.example:8501",
        "token_file": "/run/token"
      }
    }
  },
  "sources": [
    {
      "kind": "consul",
      "location": "https://pillion:redacted@consul.example:8501",
      "last_success": "2027-01-15T08:00:00Z",
      "error": "permission denied",
      "failing_since": "2027-01-15T08:01:00Z"
    }
  ]
}
`
	if got.code != 200 || got.body != want {
		t.Errorf("%d %s", got.code, got.body)
	}
	if !proto.Equal(config, before) {
		t.Errorf("showing the configuration changed it to %v", config)
	}
}

func TestEndpointsPage(t *testing.T) {
	t.Parallel()
	r := start(t, Options{Endpoints: shown{endpoints: someServices}})
	for path, names := range map[string]string{
		"/endpoints":                             "greeter routeguide greeter",
		"/endpoints?service=routeguide":          "routeguide",
		"/endpoints?service=greeter&service=no":  "greeter greeter",
		"/endpoints?service=nobody":              "",
		"/endpoints?service=" + "%00%ff&service": "",
	} {
		got := r.do(t, "GET", path)
		var list adminv1.ListEndpointsResponse
		if err := protojson.Unmarshal([]byte(got.body), &list); err != nil {
			t.Fatalf("%s: %v in %s", path, err, got.body)
		}
		var found []string
		for _, service := range list.GetServices() {
			found = append(found, service.GetName())
		}
		if got := strings.Join(found, " "); got != names {
			t.Errorf("%s shows %q, want %q", path, got, names)
		}
	}
	// What shell scripts read with jq.
	var raw struct {
		Services []struct {
			Instances []struct {
				ID, Address, State string
				InFlight           *int `json:"in_flight"`
			}
		}
	}
	body := r.do(t, "GET", "/endpoints?service=greeter").body
	if err := json.Unmarshal([]byte(body), &raw); err != nil {
		t.Fatal(err)
	}
	first := raw.Services[0].Instances[0]
	if first.ID != "a" || first.Address != "127.0.0.1:50051" || first.State != "INSTANCE_STATE_READY" || first.InFlight == nil || *first.InFlight != 0 {
		t.Errorf("the first instance is %+v in %s", first, body)
	}
}

// TestPageFailureIsAnAnswer shows what somebody sees of a message that cannot be
// JSON.
func TestPageFailureIsAnAnswer(t *testing.T) {
	t.Parallel()
	r := start(t, Options{Endpoints: shown{endpoints: func() []*adminv1.Service { return []*adminv1.Service{{Name: "\xff"}} }}})
	if got := r.do(t, "GET", "/endpoints"); got.code != 500 || !strings.Contains(got.body, "UTF-8") {
		t.Errorf("%d %s", got.code, got.body)
	}
}

func TestProfileTimeIsBounded(t *testing.T) {
	t.Parallel()
	for seconds, want := range map[string]time.Duration{
		"": 0, "0": 0, "-5": 0, "x": 0, "NaN": 0, "2.5": 2500 * time.Millisecond, "1e300": time.Hour, "Inf": time.Hour,
	} {
		request, err := http.NewRequestWithContext(t.Context(), "GET", "/?seconds="+seconds, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := profileTime(request, time.Hour); got != want {
			t.Errorf("%q: %v, want %v", seconds, got, want)
		}
	}
}

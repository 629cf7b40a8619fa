package consul

import (
	"context"
	"errors"
	"io"
	"net/url"
	"strings"
	"syscall"
	"testing"

	"github.com/hashicorp/consul/api"
)

func TestExplain(t *testing.T) {
	t.Parallel()
	source, _ := newFakeSource(t, newFakeAgent(), Config{})
	status := func(code int, body string) error { return api.StatusError{Code: code, Body: body} }
	for _, test := range []struct {
		name string
		err  error
		kind kind
		says []string
	}{
		{"refused", &url.Error{Op: "Get", URL: "http://secret", Err: syscall.ECONNREFUSED}, unreachable, []string{"no answer from the agent at http://127.0.0.1:8500: connection refused", "check that it runs"}},
		{"timeout", &url.Error{Err: context.DeadlineExceeded}, unreachable, []string{"deadline exceeded"}},
		{"cut", io.ErrUnexpectedEOF, unreachable, []string{"unexpected EOF"}},
		{"not Consul", errors.New("invalid character '<'"), failing, []string{"the answer is not Consul's", "HTTP port"}},
		{
			"a missing rule", status(403, `Permission denied: token with AccessorID '1' lacks permission 'service:write' on "web"`), denied,
			[]string{"may not do it", `service "web" { policy = "write" }`},
		},
		{"a missing general rule", status(403, `Permission denied: anonymous token lacks permission 'agent:read'`), denied, []string{`agent_prefix "" { policy = "read" }`}},
		{"no token", status(403, "Permission denied"), denied, []string{"add to its policy: the rule"}},
		{"an unknown token", status(403, "ACL not found"), denied, []string{"unknown to Consul", "the rule"}},
		{"too many", status(429, "Your IP is issuing\n too many\n"), limited, []string{"Your IP is issuing too many;", "http_max_conns_per_client"}},
		{"not found", status(404, "unknown service ID: x"), missing, []string{"do it", "unknown service ID"}},
		{"rejected", status(400, `Invalid query parameter: "ns" - Namespaces are a Consul Enterprise feature`), rejected, []string{"refuses to do it", "Enterprise"}},
		{"failing", status(500, "No cluster leader"), failing, []string{"cannot do it now", "HTTP 500: No cluster leader"}},
		{"a page", status(502, "<html>\n"+strings.Repeat("<p>x</p>\n", 1000)), failing, []string{"HTTP 502"}},
	} {
		got := source.agent.explain(test.err, "do it", "the rule")
		if got.kind != test.kind {
			t.Errorf("%s: kind %d, want %d", test.name, got.kind, test.kind)
		}
		for _, says := range test.says {
			if !strings.Contains(got.Error(), says) {
				t.Errorf("%s: %q does not say %q", test.name, got, says)
			}
		}
		if text := got.Error(); strings.ContainsAny(text, "\n\r") || len(text) > 1000 || strings.Contains(text, "secret") {
			t.Errorf("%s: not one short line: %q", test.name, text)
		}
		if !errors.Is(got, test.err) {
			t.Errorf("%s: the cause is lost", test.name)
		}
	}
}

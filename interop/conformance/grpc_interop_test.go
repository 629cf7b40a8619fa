package conformance

import (
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/pillion-proxy/pillion/interop/harness"
)

// interopCases are all cases of the official Go interop client that work with
// the official Go server directly.
var interopCases = []string{
	"empty_unary",
	"large_unary",
	"client_streaming",
	"server_streaming",
	"ping_pong",
	"empty_stream",
	"timeout_on_sleeping_server",
	"cancel_after_begin",
	"cancel_after_first_response",
	"status_code_and_message",
	"special_status_message",
	"custom_metadata",
	"unimplemented_method",
	"unimplemented_service",
	"rpc_soak",
	"channel_soak",
	"orca_per_rpc",
	"orca_oob",
}

// otherCases are those that do not: they need a cloud's credentials, TLS at the
// app, or, the last one, a server that tells its id, which Go's does not.
var otherCases = []string{
	"compute_engine_creds",
	"service_account_creds",
	"jwt_token_creds",
	"per_rpc_creds",
	"oauth2_auth_token",
	"google_default_credentials",
	"compute_engine_channel_credentials",
	"pick_first_unary",
}

// orcaPolicy is the load balancing policy of the client with which its cases
// about load reports see the reports.
const orcaPolicy = `{"loadBalancingConfig": [{"test_backend_metrics_load_balancer": {}}]}`

func TestOfficialInteropClientAndServer(t *testing.T) {
	t.Parallel()

	client := harness.Tool(t, "grpc-interop-client")
	app := startInteropServer(t)

	for _, route := range harness.Routes {
		t.Run(route.Name, func(t *testing.T) {
			t.Parallel()

			// With port 0 the client takes the host as the whole address.
			host, port := route.Open(t, app), "0"
			if !strings.HasPrefix(host, "unix:") {
				var err error
				if host, port, err = net.SplitHostPort(host); err != nil {
					t.Fatal(err)
				}
			}

			for _, testCase := range interopCases {
				t.Run(testCase, func(t *testing.T) {
					t.Parallel()

					args := []string{"-server_host", host, "-server_port", port, "-test_case", testCase}
					switch {
					case strings.HasPrefix(testCase, "orca_"):
						args = append(args, "-service_config_json", orcaPolicy)
					case strings.HasSuffix(testCase, "_soak"):
						// The machine that runs all tests at once is slow; how fast Pillion is, is measured elsewhere.
						args = append(args, "-soak_iterations", "50", "-soak_overall_timeout_seconds", "120",
							"-soak_per_iteration_max_acceptable_latency_ms", "60000")
					}

					if code, output := harness.Run(t, harness.Command{Path: client, Args: args}); code != 0 {
						t.Errorf("exit %d:\n%s", code, output)
					}
				})
			}
		})
	}
}

// A newer client may know more cases than we run; then this list must grow.
func TestEveryCaseOfTheInteropClientIsListed(t *testing.T) {
	t.Parallel()

	_, usage := harness.Run(t, harness.Command{Path: harness.Tool(t, "grpc-interop-client"), Args: []string{"-help"}})

	var known int
	for line := range strings.Lines(usage) {
		// The usage has a line "name : what it does;" for each.
		name, _, found := strings.Cut(strings.TrimSpace(line), ":")
		name = strings.TrimSpace(name)
		if !found || !strings.Contains(name, "_") || strings.ContainsAny(name, " -(") {
			continue
		}

		known++
		if !slices.Contains(interopCases, name) && !slices.Contains(otherCases, name) {
			t.Errorf("the client knows the case %q, which is not run", name)
		}
	}

	// The two soak cases stand in no usage.
	if want := len(interopCases) - 2 + len(otherCases); known != want {
		t.Errorf("the client's usage names %d cases, want %d:\n%s", known, want, usage)
	}
}

func startInteropServer(t *testing.T) string {
	t.Helper()

	server := harness.Start(t, harness.Command{
		Path: harness.Tool(t, "grpc-interop-server"),
		Args: []string{"-port", "0"},
		Env:  []string{"GRPC_GO_LOG_SEVERITY_LEVEL=info"},
	})
	port := server.Await(t, `interop server listening on .*:(\d+)$`)[1]

	return net.JoinHostPort("127.0.0.1", port)
}

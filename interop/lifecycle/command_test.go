package lifecycle

import (
	"strings"
	"testing"

	"github.com/pillion-proxy/pillion/interop/harness"
)

func TestCommandsThatNeedNoSidecar(t *testing.T) {
	t.Parallel()

	for _, command := range []struct {
		args []string
		says string
	}{
		{[]string{"version"}, "pillion"},
		{[]string{"--help"}, "run"},
		{[]string{"run", "--help"}, "--upstream"},
		{[]string{"completion", "bash"}, "pillion"},
		{[]string{"completion", "zsh"}, "pillion"},
		{[]string{"completion", "fish"}, "pillion"},
	} {
		t.Run(strings.Join(command.args, " "), func(t *testing.T) {
			t.Parallel()

			if code, output := pillion(t, command.args...); code != 0 || !strings.Contains(output, command.says) {
				t.Errorf("exit %d: %s", code, output)
			}
		})
	}
}

// The line that issue and README begin with.
func TestRunWithNothingButFlags(t *testing.T) {
	t.Parallel()

	outbound, admin := harness.FreeAddress(t), harness.FreeAddress(t)
	sidecar := &harness.Sidecar{Outbound: outbound, Admin: admin, Process: harness.Start(t, harness.Command{
		Path: harness.Pillion(t),
		Args: []string{"run", "--outbound", outbound, "--admin", admin, "--upstream", "greeter=" + startEcho(t) + "," + startEcho(t)},
	})}
	sidecar.AwaitReady(t)
	ping(t, outbound)

	if page := sidecar.Get(t, "/endpoints"); !strings.Contains(page, "greeter") {
		t.Errorf("/endpoints: %s", page)
	}
	if code, output := pillion(t, "endpoints", "--admin", admin); code != 0 || !strings.Contains(output, "greeter") {
		t.Errorf("pillion endpoints: exit %d: %s", code, output)
	}
	sidecar.Get(t, "/live")
	if count := sidecar.Metric(t, "grpc_client_handled_total", `grpc_code="OK"`); count != 1 {
		t.Errorf("grpc_client_handled_total is %v after one RPC", count)
	}
}

func TestTheAdminPortSpeaksGRPC(t *testing.T) {
	t.Parallel()

	sidecar := harness.Outbound(t, startEcho(t))
	grpcurl := harness.Tool(t, "grpcurl")

	code, output := harness.Run(t, harness.Command{Path: grpcurl, Args: []string{"-plaintext", sidecar.Admin, "list"}})
	if code != 0 {
		t.Fatalf("exit %d: %s", code, output)
	}
	for _, service := range []string{"pillion.admin.v1.", "grpc.health.v1.Health", "grpc.channelz.v1.Channelz"} {
		if !strings.Contains(output, service) {
			t.Errorf("%s is not in\n%s", service, output)
		}
	}

	code, output = harness.Run(t, harness.Command{Path: grpcurl, Args: []string{"-plaintext", sidecar.Admin, "grpc.health.v1.Health/Check"}})
	if code != 0 || !strings.Contains(output, `"SERVING"`) {
		t.Errorf("health: exit %d: %s", code, output)
	}
}

// A sidecar whose instances are all away starts, and says so per RPC.
func TestAStartNeedsNoInstance(t *testing.T) {
	t.Parallel()

	harness.Outbound(t, harness.FreeAddress(t))
}

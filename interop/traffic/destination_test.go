package traffic

import (
	"strings"
	"testing"

	"github.com/pillion-proxy/pillion/interop/harness"
	"github.com/pillion-proxy/pillion/interop/load"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const (
	testService = "grpc.testing.TestService"
	// The apps do not answer it, but the mesh file may say that they do.
	otherService = "test.Other"
)

// The order of DESIGN: the authority, then the gRPC service's name, then the default.
func TestWhereAnRPCGoes(t *testing.T) {
	t.Parallel()

	mesh := harness.NewMesh(t, map[string]harness.Service{
		"named":   {GRPC: []string{testService}, Endpoints: harness.Endpoints(load.StartApp(t, "named", "").Address)},
		"greeter": {GRPC: []string{otherService}, Endpoints: harness.Endpoints(load.StartApp(t, "greeter", "").Address)},
		"default": {Endpoints: harness.Endpoints(load.StartApp(t, "default", "").Address)},
	})
	sidecar := harness.StartSidecar(t, harness.Config{Outbound: true, Default: "default", Mesh: mesh})

	for authority, want := range map[string]string{
		"greeter":                     "greeter",
		"greeter:443":                 "greeter",
		"greeter.service.consul":      "greeter",
		"greeter.service.consul:8080": "greeter",
		"greeter.virtual.consul":      "greeter",
		"localhost:15001":             "named",
		"127.0.0.1:15001":             "named",
		"unknown.example.com":         "named",
	} {
		t.Run(authority, func(t *testing.T) {
			t.Parallel()

			conn := load.Dial(t, sidecar.Outbound, grpc.WithAuthority(authority))
			if got, err := load.Who(t.Context(), conn); err != nil || got != want {
				t.Errorf("answered by %q, %v, want %q", got, err, want)
			}
		})
	}

	t.Run("a gRPC service that nobody names goes to the default", func(t *testing.T) {
		t.Parallel()

		// The instance answers itself that it does not know the method.
		err := load.Dial(t, sidecar.Outbound).Invoke(t.Context(), "/test.Nowhere/Call", &testpb.Empty{}, &testpb.Empty{})
		if status.Code(err) != codes.Unimplemented || !strings.Contains(err.Error(), "unknown service test.Nowhere") {
			t.Errorf("got %v", err)
		}
	})
}

func TestAGRPCServiceOfTwoServicesIsNoDestination(t *testing.T) {
	t.Parallel()

	mesh := harness.NewMesh(t, map[string]harness.Service{
		"one": {GRPC: []string{testService}, Endpoints: harness.Endpoints(load.StartApp(t, "one", "").Address)},
		"two": {GRPC: []string{testService}, Endpoints: harness.Endpoints(load.StartApp(t, "two", "").Address)},
	})
	sidecar := harness.StartSidecar(t, harness.Config{Outbound: true, Mesh: mesh})

	if _, err := load.Who(t.Context(), load.Dial(t, sidecar.Outbound)); status.Code(err) != codes.Unimplemented {
		t.Errorf("got %v", err)
	}
	for _, name := range []string{"one", "two"} {
		if got, err := load.Who(t.Context(), load.Dial(t, sidecar.Outbound, grpc.WithAuthority(name))); err != nil || got != name {
			t.Errorf("answered by %q, %v, want %q", got, err, name)
		}
	}
}

// What is found nowhere is said to be, with what was looked for and what there is.
func TestNoDestination(t *testing.T) {
	t.Parallel()

	mesh := harness.NewMesh(t, map[string]harness.Service{
		"greeter": {GRPC: []string{otherService}, Endpoints: harness.Endpoints(load.StartApp(t, "greeter", "").Address)},
	})
	sidecar := harness.StartSidecar(t, harness.Config{Outbound: true, Mesh: mesh})

	var header, trailer metadata.MD
	_, err := load.Who(t.Context(), load.Dial(t, sidecar.Outbound, grpc.WithAuthority("nobody")), grpc.Header(&header), grpc.Trailer(&trailer))
	got := status.Convert(err)
	if got.Code() != codes.Unimplemented {
		t.Fatalf("got %v", err)
	}
	for _, said := range []string{"nobody", testService, "greeter"} {
		if !strings.Contains(got.Message(), said) {
			t.Errorf("%q does not name %q", got.Message(), said)
		}
	}
	if flags := trailer.Get("pillion-flags"); len(flags) != 1 || flags[0] != "NR" {
		t.Errorf("pillion-flags: %q", flags)
	}
}

// A service whose instances are all away is another error than none.
func TestNoInstance(t *testing.T) {
	t.Parallel()

	mesh := harness.NewMesh(t, map[string]harness.Service{
		"empty": {Endpoints: []harness.Endpoint{}},
		"dead":  {Endpoints: harness.Endpoints(harness.FreeAddress(t))},
	})
	sidecar := harness.StartSidecar(t, harness.Config{Outbound: true, Mesh: mesh})

	for name, flag := range map[string]string{"empty": "UH", "dead": "UF"} {
		var trailer metadata.MD
		_, err := load.Who(t.Context(), load.Dial(t, sidecar.Outbound, grpc.WithAuthority(name)), grpc.Trailer(&trailer))
		if got := status.Convert(err); got.Code() != codes.Unavailable || !strings.Contains(got.Message(), name) {
			t.Errorf("%s: got %v", name, err)
		}
		if flags := trailer.Get("pillion-flags"); len(flags) != 1 || !strings.Contains(flags[0], flag) {
			t.Errorf("%s: pillion-flags: %q, want %q", name, flags, flag)
		}
	}
}

// What a service's name means may change while a client is connected.
func TestTheMeshFileIsReloaded(t *testing.T) {
	t.Parallel()

	old, fresh := load.StartApp(t, "old", ""), load.StartApp(t, "fresh", "")
	mesh := harness.NewMesh(t, map[string]harness.Service{"app": {Endpoints: harness.Endpoints(old.Address)}})
	sidecar := harness.StartSidecar(t, harness.Config{Outbound: true, Default: "app", Mesh: mesh})
	conn := load.Dial(t, sidecar.Outbound)

	if got, err := load.Who(t.Context(), conn); err != nil || got != "old" {
		t.Fatalf("answered by %q, %v", got, err)
	}

	mesh.Set(t, "app", harness.Service{Endpoints: harness.Endpoints(fresh.Address)})
	eventually(t, "the new instance answers", func() bool {
		got, err := load.Who(t.Context(), conn)
		if err != nil {
			t.Errorf("while the file is reloaded: %v", err)
		}

		return got == "fresh"
	})
}

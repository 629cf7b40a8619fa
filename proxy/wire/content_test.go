package wire_test

import (
	"testing"

	"github.com/pillion-proxy/pillion/proxy/wire"
)

func TestIsGRPC(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]bool{
		"application/grpc":                    true,
		"application/grpc+proto":              true,
		"application/grpc;charset=utf-8":      true,
		"Application/GRPC":                    true,
		"APPLICATION/GRPC+JSON":               true,
		"application/grpc+":                   true,
		"":                                    false,
		"application/grp":                     false,
		"application/grpc-web":                false,
		"application/grpc-web+proto":          false,
		"application/grpcx":                   false,
		"application/grpc ":                   false,
		" application/grpc":                   false,
		"application/json":                    false,
		"application/x-grpc+application/grpc": false,
		"application/grp\u212a":               false, // EqualFold knows more letters than ASCII
	} {
		if got := wire.IsGRPC(in); got != want {
			t.Errorf("IsGRPC(%q) = %v", in, got)
		}
	}
}

func TestSplitPath(t *testing.T) {
	t.Parallel()
	for in, want := range map[string][2]string{
		"/helloworld.Greeter/SayHello":     {"helloworld.Greeter", "SayHello"},
		"/Greeter/SayHello":                {"Greeter", "SayHello"},
		"/prefix/helloworld.Greeter/Hello": {"prefix/helloworld.Greeter", "Hello"},
		"/s/m":                             {"s", "m"},
		"//m/x":                            {"/m", "x"},
		"":                                 {},
		"/":                                {},
		"//":                               {},
		"//m":                              {},
		"/s":                               {},
		"/s/":                              {},
		"s/m":                              {},
		"*":                                {},
		"http://x/s/m":                     {},
	} {
		service, method, ok := wire.SplitPath(in)
		if service != want[0] || method != want[1] || ok != (want[1] != "") {
			t.Errorf("SplitPath(%q) = %q, %q, %v", in, service, method, ok)
		}
	}
}

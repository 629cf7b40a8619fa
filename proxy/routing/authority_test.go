package routing

import (
	"strings"
	"testing"
)

func TestServiceName(t *testing.T) {
	t.Parallel()
	for authority, want := range map[string]string{
		"greeter":                         "greeter",
		"greeter:443":                     "greeter",
		"greeter:":                        "greeter",
		"greeter.":                        "greeter",
		"greeter.:443":                    "greeter",
		"greeter.default.svc":             "greeter.default.svc",
		"greeter2":                        "greeter2",
		"greeter.v2":                      "greeter.v2",
		"greeter.service.consul":          "greeter",
		"greeter.service.consul:8443":     "greeter",
		"greeter.virtual.consul":          "greeter",
		"greeter.connect.consul":          "greeter",
		"greeter.service.consul.":         "greeter",
		"greeter.service.dc2.consul":      "greeter.dc2",
		"greeter.service.dc2.dc.consul":   "greeter.dc2",
		"greeter.virtual.dc2.consul":      "greeter.dc2",
		"my.services.consul":              "my.services.consul",
		"":                                "",
		":443":                            "",
		"localhost":                       "",
		"localhost:15001":                 "",
		"127.0.0.1":                       "",
		"127.0.0.1:15001":                 "",
		"::1":                             "",
		"[::1]":                           "",
		"[::1]:15001":                     "",
		"[fe80::1%25eth0]:1":              "",
		"%2Frun%2Fapp.sock":               "",
		"/run/app.sock":                   "",
		"unix:///run/app.sock":            "",
		"user@greeter":                    "",
		strings.Repeat("x", maxName):      strings.Repeat("x", maxName),
		strings.Repeat("x", maxName+1):    "",
		strings.Repeat("x", 1<<16) + ":1": "",
	} {
		if got := ServiceName(authority); got != want {
			t.Errorf("ServiceName(%.60q) = %q, want %q", authority, got, want)
		}
	}
}

func FuzzServiceName(f *testing.F) {
	for _, s := range []string{"greeter:1", "a.service.b.consul", ".service.consul", "[::1]:1", ".", ".consul"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if name := ServiceName(s); len(name) > maxName+1 || strings.ContainsAny(name, ":/%@[]") {
			t.Errorf("ServiceName(%q) = %q", s, name)
		}
	})
}

func TestRPCService(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]struct {
		name    string
		telling bool
	}{
		"/helloworld.Greeter/SayHello":                                   {"helloworld.Greeter", true},
		"/grpc.health.v1.Health/Check":                                   {"grpc.health.v1.Health", false},
		"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo":      {"grpc.reflection.v1.ServerReflection", false},
		"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": {"grpc.reflection.v1alpha.ServerReflection", false},
		"/": {},
		"":  {},
		"/" + strings.Repeat("x", maxName+1) + "/M": {},
	} {
		if name, telling := rpcService(path); name != want.name || telling != want.telling {
			t.Errorf("rpcService(%.60q) = %q, %v", path, name, telling)
		}
	}
}

package routing

import (
	"strings"
	"testing"
)

// FuzzAuthority: a port, or the dot of a full name, changes nothing about which
// service is meant, and what is meant is a part of what was written.
func FuzzAuthority(f *testing.F) {
	for _, s := range []string{"greeter", "a.service.b.consul", ".service.consul", "10.0.0.1", "1.2.3", ".", ".consul", "a.service.x.dc.consul", "localhost"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, host string) {
		if strings.ContainsAny(host, ":/%@[]") || strings.HasSuffix(host, ".") {
			return
		}
		name := ServiceName(host)
		for _, same := range []string{host + ":443", host + ":", host + ".", host + ".:1"} {
			if host != "" && len(host) < maxName && ServiceName(same) != name {
				t.Fatalf("%q is %q, %q is %q", host, name, same, ServiceName(same))
			}
		}
		if rest, _, _ := strings.Cut(name, "."); !strings.Contains(host, rest) {
			t.Fatalf("%q is %q", host, name)
		}
	})
}

// FuzzRPCService: a name is a part of its path, and of bounded length.
func FuzzRPCService(f *testing.F) {
	for _, s := range []string{"/a.B/C", "/grpc.health.v1.Health/Check", "//", "/x/y/z", strings.Repeat("/x", 300)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		name, telling := rpcService(path)
		if len(name) > maxName || name == "" && telling || name != "" && !strings.HasPrefix(path, "/"+name+"/") {
			t.Fatalf("%q is %q (%v)", path, name, telling)
		}
	})
}

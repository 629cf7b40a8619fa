package routing

import (
	"net/netip"
	"strings"

	"github.com/pillion-proxy/pillion/proxy/wire"
)

// ServiceName returns the name of the service that an :authority may mean, ""
// where it can mean none: an IP address, localhost, a socket's path. The name of
// a service in another datacentre ends in a dot and the datacentre, as the
// registry's sources take it: "greeter.service.dc2.consul" is "greeter.dc2".
func ServiceName(authority string) string {
	if strings.ContainsAny(authority, "/%@[]") {
		return ""
	}
	host := authority
	if i := strings.LastIndexByte(host, ':'); i >= 0 {
		if strings.IndexByte(host, ':') != i {
			return "" // IPv6
		}
		host = host[:i]
	}
	host = strings.TrimSuffix(host, ".")
	if host == "" || host == "localhost" || len(host) > maxName {
		return ""
	}
	if c := host[len(host)-1]; c >= '0' && c <= '9' {
		if _, err := netip.ParseAddr(host); err == nil {
			return ""
		}
	}
	// <service>.service.consul, <service>.service.<datacentre>.consul, the same
	// with "virtual" and "connect"; and Consul's ".dc" and ".ns" labels.
	name, ok := strings.CutSuffix(host, ".consul")
	if !ok {
		return host
	}
	for _, kind := range []string{".service", ".virtual", ".connect"} {
		if service, rest, found := strings.Cut(name, kind); found {
			switch {
			case rest == "":
				return service
			case rest[0] == '.':
				return service + "." + strings.TrimSuffix(rest[1:], ".dc")
			}
		}
	}
	return host
}

// rpcService returns the gRPC service name of a path, and whether it tells
// services apart: health and reflection are answered by all.
func rpcService(path string) (name string, telling bool) {
	name, _, ok := wire.SplitPath(path)
	if !ok || len(name) > maxName {
		return "", false
	}
	return name, name != "grpc.health.v1.Health" && !isReflection(name)
}

func isReflection(service string) bool {
	return service == "grpc.reflection.v1.ServerReflection" || service == "grpc.reflection.v1alpha.ServerReflection"
}

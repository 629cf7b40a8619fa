package main

import (
	"net"
	"slices"
	"testing"

	"go.yaml.in/yaml/v3"
)

func TestMeshHasWhatItsCaseSays(t *testing.T) {
	t.Parallel()
	for _, c := range scaleCases {
		var mesh struct {
			Services map[string]struct {
				GRPC      []string `yaml:"grpc"`
				Endpoints []struct {
					Address string `yaml:"address"`
				} `yaml:"endpoints"`
			} `yaml:"services"`
		}
		if err := yaml.Unmarshal([]byte(c.mesh("50051")), &mesh); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if len(mesh.Services) != c.services {
			t.Errorf("%s: %d services, want %d", c.name, len(mesh.Services), c.services)
		}
		called, ok := mesh.Services[serviceName(c.called())]
		if !ok || !slices.Equal(called.GRPC, []string{grpcName(c.called())}) {
			t.Errorf("%s: the called service is not there, or answers %v", c.name, called.GRPC)
		}
		seen := map[string]bool{}
		live := 0
		for _, e := range called.Endpoints {
			host, port, err := net.SplitHostPort(e.Address)
			if err != nil || port != "50051" || !net.ParseIP(host).IsLoopback() {
				t.Fatalf("%s: an endpoint %q is no loopback address", c.name, e.Address)
			}
			if slices.Contains(liveHosts(), host) {
				live++
			}
			seen[e.Address] = true
		}
		if len(seen) != c.endpoints || live != liveEndpoints {
			t.Errorf("%s: %d different endpoints of which %d are live, want %d and %d", c.name, len(seen), live, c.endpoints, liveEndpoints)
		}
	}
}

func TestScaleCasesDifferFromTheirBaseOnlyInSize(t *testing.T) {
	t.Parallel()
	for _, c := range scaleCases {
		if c.base == "" {
			continue
		}
		i := slices.IndexFunc(scaleCases, func(b scaleCase) bool { return b.name == c.base })
		if i < 0 {
			t.Fatalf("%s is compared with %s, which is not there", c.name, c.base)
		}
		base := scaleCases[i]
		if base.balancing != c.balancing || base.byMethod != c.byMethod || base.services*base.endpoints >= c.services*c.endpoints {
			t.Errorf("%s is compared with %s, from which it does not differ in size only", c.name, c.base)
		}
	}
}

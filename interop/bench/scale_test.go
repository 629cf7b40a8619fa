package main

import (
	"net"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// meshAddress finds the endpoints of a mesh.yaml.
var meshAddress = regexp.MustCompile(`- \{address: "([^"]+)"\}`)

func TestMeshHasWhatItsCaseSays(t *testing.T) {
	t.Parallel()
	for _, c := range scaleCases {
		mesh := c.mesh("50051")
		services := strings.Split(mesh, "\n  service-")[1:]
		if len(services) != c.services {
			t.Errorf("%s: %d services, want %d", c.name, len(services), c.services)
		}
		called := services[c.called()]
		if !strings.HasPrefix("service-"+called, serviceName(c.called())+":\n") || !strings.Contains(called, "grpc: ["+grpcName(c.called())+"]") {
			t.Errorf("%s: the called service is not in its place:\n%.100s", c.name, called)
		}
		seen := map[string]bool{}
		live := 0
		for _, found := range meshAddress.FindAllStringSubmatch(called, -1) {
			host, port, err := net.SplitHostPort(found[1])
			if err != nil || port != "50051" || !net.ParseIP(host).IsLoopback() {
				t.Fatalf("%s: an endpoint %q is no loopback address", c.name, found[1])
			}
			if slices.Contains(liveHosts(), host) {
				live++
			}
			seen[found[1]] = true
		}
		if len(seen) != c.endpoints || live != liveEndpoints {
			t.Errorf("%s: %d different endpoints of which %d are live, want %d and %d", c.name, len(seen), live, c.endpoints, liveEndpoints)
		}
	}
}

func TestPillionTakesTheScalesConfigurations(t *testing.T) {
	t.Parallel()
	pillion, err := findPillion()
	if err != nil {
		t.Skip("no Pillion is built: make build, or set PILLION_BIN")
	}
	for _, c := range scaleCases {
		dir := t.TempDir()
		s := site{bin: pillion, listen: "127.0.0.1:1001", admin: "127.0.0.1:1002", backend: "127.0.0.1:1003", workers: 1, dir: dir}
		if _, err := c.launch(s); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(pillion, "check", "-c", filepath.Join(dir, "pillion.yaml")).CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", c.name, err, out)
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

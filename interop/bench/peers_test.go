package main

import (
	"os"
	"strings"
	"testing"
)

func TestConfigurationsAreFilledIn(t *testing.T) {
	t.Parallel()
	s := site{limits: usualLimits,
		bin: "/bin/x", listen: "127.0.0.1:1001", backend: "127.0.0.1:1002", admin: "127.0.0.1:1003",
		workers: 2, dir: t.TempDir(),
	}
	for name, want := range map[string][]string{
		"haproxy.cfg": {"nbthread 2", "maxconn 4000", "max-concurrent-streams 1024", "bind 127.0.0.1:1001 proto h2", "127.0.0.1:1002 proto h2"},
		"tcp.cfg":     {"nbthread 2", "mode tcp", "bind 127.0.0.1:1001", "127.0.0.1:1002"},
		"nginx.conf":  {"worker_processes 2", "listen 127.0.0.1:1001 http2", "server 127.0.0.1:1002"},
		"envoy.yaml":  {"port_value: 1001", "port_value: 1002", "port_value: 1003", "address: 127.0.0.1"},
	} {
		path, err := writeConfig(name, s)
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range want {
			if !strings.Contains(string(b), w) {
				t.Errorf("%s lacks %q:\n%s", name, w, b)
			}
		}
	}
}

func TestEveryPeerThatCanBeMissingSaysHowToInstallIt(t *testing.T) {
	t.Parallel()
	for _, p := range peers("self", "") {
		if p.install == "" && p.name != grpcgoName {
			t.Errorf("%s does not say", p.name)
		}
	}
}

func TestVersionOf(t *testing.T) {
	t.Parallel()
	p := &peer{version: []string{"-c", "echo HAProxy version 2.6.12-1+deb12u4 2026/10/17"}}
	if got := p.versionOf("/bin/sh"); got != "2.6.12" {
		t.Errorf("version %q", got)
	}
	p = &peer{version: []string{"-c", "echo /bin/sh version: 66b8/1.40.0/Clean"}}
	if got := p.versionOf("/bin/sh"); got != "1.40.0" {
		t.Errorf("version %q", got)
	}
	if got := p.versionOf("/does/not/exist"); got != "" {
		t.Errorf("version %q of nothing", got)
	}
}

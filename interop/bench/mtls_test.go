package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestPeersTakeTheSecureConfigurations(t *testing.T) {
	t.Parallel()
	certificates, err := makeCertificates(filepath.Join(t.TempDir(), "certificates"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range peers("", "") {
		pair, ok := securePairs[p.name]
		if !ok {
			continue
		}
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			bin, err := p.find()
			if err != nil {
				t.Skip("it is not installed: " + p.install)
			}
			dir := t.TempDir()
			s := secureSite{
				site: site{bin: bin, listen: "127.0.0.1:1001", admin: "127.0.0.1:1002", backend: "127.0.0.1:1003", workers: 1, limits: usualLimits, dir: dir},
				far:  "127.0.0.1:1004", farAdmin: "127.0.0.1:1005", certificates: certificates, rules: 20,
			}
			near, far, err := pair(s)
			if err != nil {
				t.Fatal(err)
			}
			for _, l := range []launch{near, far} {
				argv := l.argv
				switch p.name {
				case pillionName:
					argv[1] = "check"
				case haproxyName:
					argv = append(argv, "-c")
				case envoyName:
					argv = append(argv, "--mode", "validate")
				}
				cmd := exec.Command(argv[0], argv[1:]...)
				cmd.Dir = dir
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Errorf("%v: %v: %s", argv, err, out)
				}
			}
		})
	}
}

// The last rule alone lets the load pass, and only of the caller that it is for.
func TestAccessRulesAreAsMany(t *testing.T) {
	t.Parallel()
	for _, n := range []int{fewRules, 30} {
		rules := accessRules(n)
		if got := strings.Count(rules, "{action: "); got != n {
			t.Errorf("%d rules, want %d", got, n)
		}
		for _, kind := range []string{"action: deny, methods", "action: deny, from", "action: allow, from"} {
			if n > fewRules && !strings.Contains(rules, kind) {
				t.Errorf("of %d rules none has %q", n, kind)
			}
		}
		if last := rules[strings.LastIndex(rules, "    - "):]; !strings.Contains(last, "helloworld.Greeter/SayHello") || strings.Count(rules, "SayHello") != 1 {
			t.Errorf("the last rule is %q, want the only one for the load", last)
		}
	}
}

// listenTLS serves what the bare server of handshakes does, with more of a configuration.
func listenTLS(t *testing.T, c certificates, wanted tls.ClientAuthType) string {
	t.Helper()
	config, err := c.config(calledName)
	if err != nil {
		t.Fatal(err)
	}
	config.ClientAuth = wanted
	ln, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		t.Fatal(err)
	}
	var served sync.WaitGroup
	served.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			served.Go(func() { serveBareTLS(nc) })
		}
	})
	t.Cleanup(func() { _ = ln.Close(); served.Wait() })
	return ln.Addr().String()
}

func TestInsecurePairsAreFoundOut(t *testing.T) {
	t.Parallel()
	certificates, err := makeCertificates(filepath.Join(t.TempDir(), "certificates"))
	if err != nil {
		t.Fatal(err)
	}
	c := &contestant{proc: &process{name: "server"}}
	if err := isSecure(t.Context(), c, listenTLS(t, certificates, tls.NoClientCert)); !errors.Is(err, errInsecure) {
		t.Errorf("a server that asks for no certificate: %v", err)
	}
	if err := isSecure(t.Context(), c, listenTLS(t, certificates, tls.RequireAnyClientCert)); err != nil {
		t.Errorf("a server that asks for one: %v", err)
	}
}

func TestHandshakesAreCounted(t *testing.T) {
	t.Parallel()
	certificates, err := makeCertificates(filepath.Join(t.TempDir(), "certificates"))
	if err != nil {
		t.Fatal(err)
	}
	addr := listenTLS(t, certificates, tls.RequireAnyClientCert)
	var out bytes.Buffer
	if err := runShaking(t.Context(), []string{addr, certificates.folder, "500ms"}, &out); err != nil {
		t.Fatal(err)
	}
	if text := strings.TrimSpace(out.String()); text == "0" || text == "" {
		t.Errorf("%q handshakes", text)
	}
}

func TestTogetherEndsWithEither(t *testing.T) {
	t.Parallel()
	if err := runTogether(t.Context(), []string{"true", between, "sleep", "60"}); err == nil {
		t.Error("one of the two has ended, and nobody is told")
	}
	if err := runTogether(t.Context(), []string{"true"}); !errors.Is(err, errTogether) {
		t.Errorf("one command line alone: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := runTogether(ctx, []string{"sleep", "60", between, "sleep", "60"}); err != nil {
		t.Errorf("told to end: %v", err)
	}
}

func TestMeasuresPairs(t *testing.T) {
	if _, err := exec.LookPath("h2load"); err != nil {
		t.Skip("h2load is not installed: " + h2loadHint)
	}
	if plain := os.Getenv("PILLION_PLAIN_BIN"); plain != "" {
		t.Setenv("PILLION_BIN", plain) // ten of them have to start
	}
	if _, err := findPillion(); err != nil {
		t.Skip("no Pillion is built: make build, or set PILLION_BIN")
	}
	var out bytes.Buffer
	args := []string{"-quick", "-parts", "mtls", "-peers", "pillion", "-settings", "two", "-shapes", "2x3", "-n", "200", "-time", "50ms"}
	if err := run(t.Context(), args, &out, t.Output()); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "Two sidecars, mutual TLS between them") {
		t.Errorf("the tables say nothing of pairs:\n%s", out.String())
	}
}

package harness

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Config says which pillion a test wants. Its zero value is one that has only
// an admin port, which is not allowed: ask for an outbound or an inbound side.
type Config struct {
	// Binary is the program; the default is [Pillion].
	Binary string
	// Outbound asks for an outbound listener on a free port, unless OutboundListen says where.
	Outbound       bool
	OutboundListen string
	// Default is the default destination.
	Default string
	// Service and App name the local app and where it listens: host:port, or
	// unix:///path. They ask for an inbound listener on a free port, unless
	// InboundListen says where.
	Service       string
	App           string
	InboundListen string
	// Meta is what is known of the app, such as "zone".
	Meta map[string]string
	// AdminListen is where the admin port listens, unless on a free one.
	AdminListen string
	// Mesh is the registry, if any.
	Mesh *Mesh
	// LoadBalancing is round_robin, least_request or pick_first.
	LoadBalancing string
	// Settings are further top-level fields of the bootstrap.
	Settings map[string]any
	// Env is added to the process's environment.
	Env []string
}

// Sidecar is a running pillion. The addresses are host:port or unix:///path, and
// empty for a side that it does not have.
type Sidecar struct {
	*Process

	Outbound string
	Inbound  string
	Admin    string
}

// StartSidecar starts `pillion run -c` and waits until it is ready.
func StartSidecar(t testing.TB, config Config) *Sidecar {
	t.Helper()

	if config.Binary == "" {
		config.Binary = Pillion(t)
	}

	sidecar := &Sidecar{Admin: config.AdminListen}
	if sidecar.Admin == "" {
		sidecar.Admin = FreeAddress(t)
	}
	bootstrap := map[string]any{"admin": map[string]any{"listen": sidecar.Admin}}

	if config.Outbound {
		sidecar.Outbound = config.OutboundListen
		if sidecar.Outbound == "" {
			sidecar.Outbound = FreeAddress(t)
		}
		outbound := map[string]any{"listen": sidecar.Outbound}
		if config.Default != "" {
			outbound["default_service"] = config.Default
		}
		if config.LoadBalancing != "" {
			outbound["load_balancing"] = config.LoadBalancing
		}
		bootstrap["outbound"] = outbound
	}

	if config.App != "" {
		sidecar.Inbound = config.InboundListen
		if sidecar.Inbound == "" {
			sidecar.Inbound = FreeAddress(t)
		}
		bootstrap["inbound"] = map[string]any{"listen": sidecar.Inbound}
		app := appOf(t, config.Service, config.App)
		if config.Meta != nil {
			app["meta"] = config.Meta
		}
		bootstrap["service"] = app
	}

	if config.Mesh != nil {
		bootstrap["registry"] = map[string]any{"file": map[string]any{"path": config.Mesh.Path}}
	}
	maps.Copy(bootstrap, config.Settings)

	text, err := json.MarshalIndent(bootstrap, "", "  ")
	if err != nil {
		t.Fatalf("bootstrap: %v", err)
	}
	path := filepath.Join(t.TempDir(), "pillion.yaml")
	replaceFile(t, path, text)

	sidecar.Process = Start(t, Command{Path: config.Binary, Args: []string{"run", "-c", path}, Env: config.Env})
	sidecar.AwaitReady(t)

	return sidecar
}

func appOf(t testing.TB, name, address string) map[string]any {
	t.Helper()

	app := map[string]any{"name": name}
	host, port, err := net.SplitHostPort(address)
	if err != nil || host != "127.0.0.1" {
		app["address"] = address

		return app
	}

	app["port"], err = strconv.Atoi(port)
	if err != nil {
		t.Fatalf("app's address %q: %v", address, err)
	}

	return app
}

// AwaitReady waits until /ready says so.
func (s *Sidecar) AwaitReady(t testing.TB) {
	t.Helper()

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()

	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()

	for {
		if code, _, err := s.get(ctx, "/ready"); err == nil && code == http.StatusOK {
			return
		}

		select {
		case <-tick.C:
		case <-s.Done():
			t.Fatalf("%s ended before it was ready:\n%s", s.name, tail(s.Output(), 50))
		case <-ctx.Done():
			t.Fatalf("%s did not become ready", s.name)
		}
	}
}

// Get asks the admin port for a page and returns its text. The test fails where
// the answer is not 200.
func (s *Sidecar) Get(t testing.TB, path string) string {
	t.Helper()

	code, body, err := s.get(t.Context(), path)
	if err != nil || code != http.StatusOK {
		t.Fatalf("GET %s of %s: status %d, error %v\n%s", path, s.name, code, err, body)
	}

	return body
}

// Ask asks the admin port for a page, whatever the answer is; 0: there is none.
func (s *Sidecar) Ask(t testing.TB, path string) (code int, body string) {
	t.Helper()

	code, body, err := s.get(t.Context(), path)
	if err != nil {
		return 0, err.Error()
	}

	return code, body
}

func (s *Sidecar) get(ctx context.Context, path string) (int, string, error) {
	// A connection of its own, so that none stays open in the test or the sidecar.
	transport := &http.Transport{DisableKeepAlives: true}
	host := s.Admin
	if socket, is := strings.CutPrefix(s.Admin, "unix://"); is {
		host = "admin"
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		}
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+host+path, http.NoBody)
	if err != nil {
		return 0, "", err
	}

	client := &http.Client{Transport: transport}
	response, err := client.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = response.Body.Close() }()

	body, err := io.ReadAll(io.LimitReader(response.Body, 64<<20))

	return response.StatusCode, string(body), err
}

// Goroutines is how many goroutines the sidecar has now.
func (s *Sidecar) Goroutines(t testing.TB) int {
	t.Helper()

	var count int
	page := s.Get(t, "/debug/pprof/goroutine?debug=1")
	if _, err := fmt.Sscanf(page, "goroutine profile: total %d", &count); err != nil {
		t.Fatalf("goroutine profile: %v in %q", err, head(page, 1))
	}

	return count
}

// Metric is the sum of all series of a metric whose line contains each of labels.
func (s *Sidecar) Metric(t testing.TB, name string, labels ...string) float64 {
	t.Helper()

	var sum float64
series:
	for line := range strings.Lines(s.Get(t, "/metrics")) {
		rest, found := strings.CutPrefix(line, name)
		if !found || (!strings.HasPrefix(rest, "{") && !strings.HasPrefix(rest, " ")) {
			continue
		}
		for _, label := range labels {
			if !strings.Contains(rest, label) {
				continue series
			}
		}

		fields := strings.Fields(line)
		value, err := strconv.ParseFloat(fields[len(fields)-1], 64)
		if err != nil {
			t.Fatalf("metric line %q: %v", line, err)
		}
		sum += value
	}

	return sum
}

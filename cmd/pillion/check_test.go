package main

import (
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

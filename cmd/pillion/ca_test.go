package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// ca runs a command of pillion ca and returns what it says, with DIR for the folder.
func ca(t *testing.T, folder string, args ...string) (out, problem string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code := execute(t.Context(), append([]string{"ca"}, args...), &stdout, &stderr)
	if (code == 0) != (stderr.Len() == 0) {
		t.Errorf("%q: exit code %d with %q", args, code, &stderr)
	}
	return strings.ReplaceAll(stdout.String(), folder, "DIR"), strings.ReplaceAll(stderr.String(), folder, "DIR")
}

func TestCA(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	for _, c := range []struct {
		args      []string
		out, fail string
	}{
		{[]string{"issue", folder + "/ca", "--service", "web"}, "", "no CA is in DIR/ca, for DIR/ca/roots.pem is missing: pillion ca init DIR/ca makes one"},
		{[]string{"init", folder + "/ca", "--trust-domain", "dev.org"}, "of the trust domain dev.org", ""},
		{[]string{"init", folder + "/ca"}, "", "no CA is overwritten"},
		{[]string{"issue", folder + "/ca", "--service", "web", "--out", folder}, `files: {certificate: "DIR/web.pem", key: "DIR/web-key.pem", roots: "DIR/ca/roots.pem"}`, ""},
		{[]string{"issue", folder + "/ca", "--service", "web", "--out", folder}, "", "DIR/web.pem is there already, and is not overwritten without --overwrite"},
		{[]string{"issue", folder + "/ca", "--id", "spiffe://dev.org/ns/a/web", "--out", folder, "--overwrite", "--ttl", "1h"}, "of spiffe://dev.org/ns/a/web, until", ""},
		{[]string{"issue", folder + "/ca", "--id", "spiffe://example.org/web"}, "", `not of the CA's trust domain, which is "dev.org"`},
		{[]string{"issue", folder + "/ca", "--id", "web"}, "", `"web" is not a SPIFFE ID: it does not begin with spiffe://`},
		{[]string{"issue", folder + "/ca", "--service", "../web"}, "", `service "../web" has no SPIFFE ID`},
		{[]string{"issue", folder + "/ca", "--service", "ca", "--out", folder + "/ca", "--overwrite"}, "", "DIR/ca/ca-key.pem is the CA's own: choose another folder with --out"},
		{[]string{"issue", folder + "/ca", "--service", "roots", "--out", folder + "/ca", "--overwrite"}, "", "DIR/ca/roots.pem is the CA's own"},
		{[]string{"issue", folder + "/ca", "--service", "web", "--ttl", "-1h"}, "", "cannot be valid for -1h0m0s"},
		{[]string{"issue", folder + "/ca"}, "", "say either --id or --service"},
		{[]string{"issue", folder + "/ca", "--service", "a", "--id", "spiffe://dev.org/a"}, "", "say either --id or --service"},
		{[]string{"issue"}, "", "no folder is given, such as: pillion ca issue ca"},
		{[]string{"init", folder, "x"}, "", `unexpected argument "x"`},
		{[]string{"init", folder + "/b", "--trust-domain", "Dev.org"}, "", `--trust-domain "Dev.org"`},
		{[]string{"init", folder + "/b", "--trust-domain", "dev.org/x"}, "", "it has a path"},
		{[]string{"isue"}, "", `did you mean "issue"?`},
		{nil, "not for production", ""},
		{[]string{"init", "--help"}, "for development", ""},
		{[]string{"issue", "--help"}, "for development", ""},
	} {
		out, fail := ca(t, folder, c.args...)
		if !strings.Contains(out, c.out) || !strings.Contains(fail, c.fail) || (fail == "") != (c.fail == "") || strings.Count(fail, "\n") > 1 {
			t.Errorf("pillion ca %q\nsays %q, %q\nwant %q, %q", c.args, out, fail, c.out, c.fail)
		}
	}
	for _, path := range []string{"web-key.pem", "ca/ca-key.pem"} {
		info, err := os.Stat(filepath.Join(folder, path))
		if err != nil {
			t.Fatal(err)
		}
		if mode := info.Mode().Perm(); mode != 0o600 {
			t.Errorf("%s has mode %04o", path, mode)
		}
	}
	if _, err := os.Stat(folder + "/b"); err == nil {
		t.Error("what is refused leaves something behind")
	}
}

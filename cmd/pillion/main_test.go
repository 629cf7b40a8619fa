package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pillion runs one command line in this process.
func pillion(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = execute(t.Context(), args, &out, &errs)
	return code, out.String(), errs.String()
}

// folder returns a folder with these files, given as name and content in turn.
func folder(t *testing.T, files ...string) string {
	t.Helper()
	path := t.TempDir()
	for i := 0; i < len(files); i += 2 {
		if err := os.WriteFile(filepath.Join(path, files[i]), []byte(files[i+1]), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

func TestHelp(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args []string
		says string
	}{
		{nil, "Available Commands:"},
		{[]string{"--help"}, "Available Commands:"},
		{[]string{"help", "check"}, "-c, --config FILE"},
		{[]string{"check", "--help"}, "[$PILLION_UPSTREAM]"},
		{[]string{"run", "--help"}, "--upstream NAME=ADDRESS,..."},
		{[]string{"endpoints", "--help"}, "--admin ADDRESS"},
		{[]string{"completion", "bash"}, "bash completion V2 for pillion"},
		{[]string{"completion", "zsh"}, "#compdef pillion"},
		{[]string{"completion", "fish"}, "fish completion for pillion"},
		{[]string{"__complete", "ch"}, "check"},
		{[]string{"__complete", "check", "--load-balancing", ""}, "least_request"},
		{[]string{"__complete", "endpoints", "--output", ""}, "json"},
	} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			t.Parallel()
			code, stdout, _ := pillion(t, c.args...)
			if code != 0 || !strings.Contains(stdout, c.says) {
				t.Errorf("exit %d, without %q:\n%s", code, c.says, stdout)
			}
		})
	}
}

// Errors are one line on standard error, with exit 1 and no lesson on usage.
func TestErrors(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"chek":                       `unknown command "chek": did you mean "check"?`,
		"frobnicate":                 `unknown command "frobnicate": see pillion --help`,
		"--verbose":                  `unknown flag: --verbose: see pillion --help`,
		"check --outbond x":          `unknown flag: --outbond: see pillion check --help`,
		"check -c":                   `flag needs an argument: 'c' in -c: see pillion check --help`,
		"check pillion.yaml":         `unexpected argument "pillion.yaml": see pillion check --help`,
		"version x":                  `unexpected argument "x": see pillion version --help`,
		"check -c nowhere/none.yaml": `nowhere/none.yaml: cannot be read: file does not exist: check the path`,
		"endpoints -o xml":           `--output: "xml" is not known: use table or json`,
		"endpoints --admin x":        `--admin: address "x": want host:port (IPv6 in brackets, [::1]:80) or unix:///path`,
		"endpoints --timeout x":      `invalid argument "x" for "--timeout" flag: time: invalid duration "x": see pillion endpoints --help`,
	} {
		t.Run(args, func(t *testing.T) {
			t.Parallel()
			code, stdout, stderr := pillion(t, strings.Fields(args)...)
			if code != 1 || stdout != "" || stderr != "pillion: "+want+"\n" {
				t.Errorf("exit %d\n got %q %q\nwant %q", code, stdout, stderr, want)
			}
		})
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	code, stdout, _ := pillion(t, "version")
	if code != 0 || !strings.HasPrefix(stdout, "pillion ") || strings.Count(stdout, "\n") != 1 || !strings.Contains(stdout, build().Go) {
		t.Errorf("exit %d: %q", code, stdout)
	}
}

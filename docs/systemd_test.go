package docs_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// units are the unit files, by the names that they are installed under for a test.
func units(t *testing.T) map[string]string {
	t.Helper()
	units := map[string]string{}
	for _, pattern := range []string{"*.service", "*.socket"} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			units[strings.Replace(path, "@.", "@app.", 1)] = string(text)
		}
	}
	if len(units) != 5 {
		t.Fatalf("there are %d unit files", len(units))
	}
	return units
}

// install writes the units into a folder, with a program that there is.
func install(t *testing.T, program string) (folder string, paths []string) {
	t.Helper()
	folder = t.TempDir()
	for name, text := range units(t) {
		path := filepath.Join(folder, name)
		text = strings.ReplaceAll(text, "/usr/local/bin/pillion", program)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	return folder, paths
}

func systemdAnalyze(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not on this machine (Debian: apt-get install systemd)")
	}
	return path
}

// systemd itself understands each line.
func TestUnitsAreValid(t *testing.T) {
	t.Parallel()
	analyze := systemdAnalyze(t)
	_, paths := install(t, pillion(t))
	out, err := exec.Command(analyze, append([]string{"verify", "--man=no"}, paths...)...).CombinedOutput()
	if err != nil || len(strings.TrimSpace(string(out))) > 0 {
		t.Errorf("%v\n%s", err, out)
	}
}

// maxExposure is what docs/systemd.md promises, in tenths.
const maxExposure = 20

func TestUnitsAreHardened(t *testing.T) {
	t.Parallel()
	analyze := systemdAnalyze(t)
	folder, _ := install(t, "/usr/local/bin/pillion")
	for _, unit := range []string{"pillion.service", "pillion@app.service"} {
		cmd := exec.Command(analyze, "security", "--offline=true", fmt.Sprintf("--threshold=%d", maxExposure), filepath.Join(folder, unit))
		out, err := cmd.CombinedOutput()
		if strings.Contains(string(out), "unrecognized option") {
			t.Skip("this systemd-analyze cannot look at a file (--offline came with systemd 250)")
		}
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		t.Log(lines[len(lines)-1])
		if err != nil {
			t.Errorf("%s: %v\n%s", unit, err, out)
		}
	}
}

var directive = regexp.MustCompile(`(?m)^([A-Z][A-Za-z]+)=`)

// Each line of the units has its reason in the page, but for those that speak for
// themselves.
func TestUnitsAreExplained(t *testing.T) {
	t.Parallel()
	text := readPage(t, "systemd.md").text
	obvious := " Description Documentation Wants ExecStart WantedBy TimeoutStartSec Service Backlog NoDelay "
	for name, unit := range units(t) {
		for _, found := range directive.FindAllStringSubmatch(unit, -1) {
			if !strings.Contains(obvious, " "+found[1]+" ") && !strings.Contains(text, "`"+found[1]+"=") {
				t.Errorf("%s: %s= is not explained", name, found[1])
			}
		}
	}
}

// The template differs from the plain unit in what makes it a template, and in
// nothing else.
func TestTheTemplateIsTheUnit(t *testing.T) {
	t.Parallel()
	all := units(t)
	plain, template := all["pillion.service"], all["pillion@app.service"]
	for _, replaced := range [][2]string{
		{"/etc/pillion/%i.yaml", "/etc/pillion/pillion.yaml"}, {"=pillion/%i", "=pillion"},
		{" %i.service", ""}, {"beside %i", "of this machine"},
	} {
		template = strings.ReplaceAll(template, replaced[0], replaced[1])
	}
	settings := func(unit string) string { return unit[strings.Index(unit, "[Unit]"):] }
	if settings(plain) != settings(template) {
		t.Errorf("the plain unit is\n%s\nthe template is\n%s", settings(plain), settings(template))
	}
}

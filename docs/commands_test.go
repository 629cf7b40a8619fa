package docs_test

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// shellLines returns the commands of a page that are to be run, in order.
func shellLines(p page) (lines []string) {
	for _, b := range p.blocks {
		if b.language != "sh" {
			continue
		}
		for _, line := range b.lines {
			line, _, _ = strings.Cut(line, "   #")
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

// world is the sidecar that the README starts, with two greeters behind it, and
// where its ports are instead of those that the pages write.
type world struct {
	ports *strings.Replacer
	path  string // PATH for commands
	admin string // the admin port
	dir   string // with pillion.yaml and mesh.yaml as docs/configuration.md has them
}

func newWorld(t *testing.T) *world {
	t.Helper()
	readme := readPage(t, "../README.md")
	i := slices.IndexFunc(shellLines(readme), func(line string) bool { return strings.HasPrefix(line, "bin/pillion run ") })
	if i < 0 {
		t.Fatal("the README has no line that runs a sidecar")
	}
	args := strings.Fields(strings.NewReplacer(
		"127.0.0.1:15001", "127.0.0.1:0", "127.0.0.1:15000", "127.0.0.1:0",
		"127.0.0.1:50051", app(t), "127.0.0.1:50052", app(t),
	).Replace(shellLines(readme)[i]))
	at := start(t, args[1:]...).listening("outbound", "admin")

	w := &world{
		ports: strings.NewReplacer("localhost:15001", at["outbound"], "localhost:15000", at["admin"]),
		path:  filepath.Dir(pillion(t)) + string(filepath.ListSeparator) + os.Getenv("PILLION_TOOLS") + string(filepath.ListSeparator) + os.Getenv("PATH"),
		admin: at["admin"],
		dir:   t.TempDir(),
	}
	for _, b := range readPage(t, "configuration.md").blocks {
		if b.language == "yaml" {
			name := strings.TrimPrefix(b.lines[0], "# ")
			if err := os.WriteFile(filepath.Join(w.dir, name), []byte(strings.Join(b.lines, "\n")), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	return w
}

// The commands of the pages do what the pages say.
func TestCommands(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	// What a command says where it works, by what the command holds. Every
	// command has to be in here.
	says := []struct{ command, output string }{
		{"make ", ""},
		{"go test ", ""},
		{"pillion run ", ""},  // newWorld has run it
		{"pillion demo ", ""}, // TestDemo runs it
		{"pillion check ", "ok: pillion.yaml, mesh.yaml (2 services, 3 endpoints)"},
		{"pillion endpoints", "greeter"},
		{"pillion explain ", "helloworld.Greeter/SayHello"},
		{"/ready", "ready\n"},
		{"/live", "live\n"},
		{"/metrics", "pillion_build_info"},
		{"/config", `"load_balancing": "round_robin"`},
		{"/endpoints?service=greeter", `"name": "greeter"`},
		{"/debug/pprof/", ""},
		{"15000 list", "pillion.admin.v1.Admin"},
		{"15001 list", "helloworld.Greeter"},
		{"describe helloworld.Greeter", "rpc SayHello "},
		{"Admin/Explain", `"service": "greeter"`},
		{"Greeter/SayHello", "Hello you, says greeter v1"},
		{"Admin/GetStatus", `"ready": true`},
		{"Admin/GetConfig", `"loadBalancing": "round_robin"`},
		{"Admin/ListEndpoints", `"name": "greeter"`},
		{"Admin/SetLogLevel", `"previous": "info"`},
		{"Health/Check", `"SERVING"`},
	}
	for _, p := range pages(t) {
		for _, line := range shellLines(p) {
			t.Run(p.path+": "+line, func(t *testing.T) {
				i := slices.IndexFunc(says, func(s struct{ command, output string }) bool { return strings.Contains(line, s.command) })
				if i < 0 {
					t.Fatal("this test does not know the command")
				}
				if output := w.run(t, line); !strings.Contains(output, says[i].output) {
					t.Errorf("it says, without %q:\n%s", says[i].output, output)
				}
			})
		}
	}
}

// run runs one command and returns what it says. It must succeed.
func (w *world) run(t *testing.T, line string) string {
	t.Helper()
	program, rest, _ := strings.Cut(line, " ")
	switch filepath.Base(program) {
	case "make":
		hasTarget(t, strings.Fields(rest)[0])
		return ""
	case "go":
		hasTest(t, strings.Fields(rest)[1:])
		return ""
	case "curl":
		return w.get(t, strings.Trim(strings.TrimPrefix(rest, "-s "), "'"))
	case "grpcurl":
		if os.Getenv("PILLION_TOOLS") == "" {
			t.Skip("PILLION_TOOLS does not say where grpcurl is: make test-unit builds it and says so")
		}
	case "pillion":
		if args := strings.Fields(rest); args[0] == "run" || args[0] == "demo" {
			return ""
		}
		line = "pillion " + rest
	default:
		t.Fatalf("this test does not know the program %s", program)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", w.ports.Replace(line))
	cmd.Dir = w.dir
	cmd.Env = environment("PATH="+w.path, "PILLION_ADMIN="+w.admin)
	output, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v:\n%s", err, output)
	}
	return string(output)
}

func hasTarget(t *testing.T, target string) {
	t.Helper()
	makefile, err := os.ReadFile("../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(makefile), "\n"+target+":") {
		t.Errorf("the Makefile has no target %s", target)
	}
}

// testName is the test that go test is told to run, or to fuzz.
var testName = regexp.MustCompile(`^-(?:run|fuzz)[ =]'?\^?((?:Test|Fuzz)\w+)`)

// hasTest fails where there is no package, or no test in it, such as the arguments
// of go test name.
func hasTest(t *testing.T, args []string) {
	t.Helper()
	match := testName.FindStringSubmatch(args[1] + " " + args[2])
	if match == nil {
		match = testName.FindStringSubmatch(args[2])
	}
	if match == nil {
		t.Fatalf("it names no test: %q", args)
	}
	cmd := exec.CommandContext(t.Context(), "grep", "-rqE", `^func `+match[1]+`\(`, "--include=*_test.go", args[0])
	cmd.Dir = ".."
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("no %s in %s: %v %s", match[1], args[0], err, output)
	}
}

func (w *world) get(t *testing.T, url string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.ports.Replace(url), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s %v", url, resp.Status, err)
	}
	return string(body)
}

var number = regexp.MustCompile(`\d+(\.\d+)*`)

// shape is a line of the demo without its figures.
func shape(line string) string {
	line = number.ReplaceAllString(line, "N")
	return strings.Join(strings.Fields(line), " ")
}

// The demo says what the README shows, figures aside, and goes on to serve.
func TestDemo(t *testing.T) {
	t.Parallel()
	readme := readPage(t, "../README.md")
	lines := shellLines(readme)
	i := slices.IndexFunc(lines, func(line string) bool { return strings.HasPrefix(line, "bin/pillion demo ") })
	if i < 0 {
		t.Fatal("the README has no line that serves the demo")
	}
	args := strings.Fields(strings.NewReplacer("127.0.0.1:15001", "127.0.0.1:0", "127.0.0.1:15000", "127.0.0.1:0").Replace(lines[i]))
	demo := start(t, append(args[1:], "--duration", "3s", "--rate", "200")...)
	said := map[string]bool{}
	for line := demo.line(); !strings.HasPrefix(line, "It stays up"); line = demo.line() {
		said[shape(line)] = true
	}
	if err := demo.stop(syscall.SIGINT); err != nil {
		t.Errorf("it ended with %v", err)
	}
	shown := 0
	for _, b := range readme.blocks {
		if b.language != "text" {
			continue
		}
		for _, line := range b.lines {
			shown++
			// Whether an RPC meets the instance while it goes is a matter of luck.
			if !said[shape(line)] && !strings.Contains(line, "met an instance that was gone") {
				t.Errorf("the README shows %q, but the demo does not say %q", line, shape(line))
			}
		}
	}
	if shown == 0 {
		t.Error("the README does not show the demo")
	}
}

// helps returns what each command says of itself, those below it included.
func helps(t *testing.T) map[string]string {
	t.Helper()
	texts := map[string]string{}
	for _, command := range []string{
		"run", "check", "demo", "endpoints", "explain", "test", "version", "identity",
		"ca init", "ca issue", "report plaintext", "apply", "get", "diff", "history", "history prune", "rollback", "delete",
		"plan", "status", "canary start", "canary status", "canary promote", "canary history", "traffic shift",
		"experiment plan", "experiment start", "experiment status", "experiment report", "experiment stop", "experiment history",
	} {
		words := strings.Fields(command)
		output, err := exec.CommandContext(t.Context(), pillion(t), append(words, "--help")...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v", command, err)
		}
		texts[words[0]] += string(output)
	}
	return texts
}

var (
	flagName     = regexp.MustCompile(`--([a-z][a-z-]*)`)
	flagInProse  = regexp.MustCompile("`--([a-z][a-z-]*)[^`]*`")
	flagWithName = regexp.MustCompile(`--([a-z-]+) .*\[\$(PILLION_[A-Z_]+)\]`)
	pillionLine  = regexp.MustCompile(`(?:^|/|=)pillion (\w+)(.*)$`)
)

// Flags that the pages name exist, in the command that they are given to.
func TestFlagsExist(t *testing.T) {
	t.Parallel()
	help := helps(t)
	has := func(command, flag string) bool {
		return regexp.MustCompile(`--` + flag + `\b`).MatchString(help[command])
	}
	for _, p := range pages(t) {
		for _, b := range p.blocks {
			for _, line := range b.lines {
				command := pillionLine.FindStringSubmatch(line)
				if command == nil || b.language == "text" {
					continue
				}
				if help[command[1]] == "" {
					t.Errorf("%s: there is no command pillion %s", p.path, command[1])
				}
				for _, flag := range flagName.FindAllStringSubmatch(command[2], -1) {
					if !has(command[1], flag[1]) {
						t.Errorf("%s: pillion %s has no flag --%s", p.path, command[1], flag[1])
					}
				}
			}
		}
		for _, flag := range flagInProse.FindAllStringSubmatch(p.prose, -1) {
			known := slices.ContainsFunc(slices.Collect(maps.Keys(help)), func(command string) bool { return has(command, flag[1]) })
			if !known {
				t.Errorf("%s: no command has a flag --%s", p.path, flag[1])
			}
		}
	}
}

// docs/configuration.md lists all flags of run, which are also those of check,
// with their variables, and no others.
func TestFlagsAreDocumented(t *testing.T) {
	t.Parallel()
	help := helps(t)
	documented := map[string]string{}
	for _, row := range rows(section(t, readPage(t, "configuration.md"), "Flags and variables")) {
		flags := ticked(row[0])
		documented[strings.TrimPrefix(flags[len(flags)-1], "--")] = ticked(row[1])[0]
	}
	for _, command := range []string{"run", "check"} {
		given := map[string]string{}
		for _, flag := range flagWithName.FindAllStringSubmatch(help[command], -1) {
			given[flag[1]] = flag[2]
		}
		if want, got := fmt.Sprint(given), fmt.Sprint(documented); want != got {
			t.Errorf("pillion %s has %s\nbut documented is %s", command, want, got)
		}
	}
}

package docs_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// binaries is the folder that the binary is built into.
var binaries string

func TestMain(m *testing.M) {
	var err error
	if binaries, err = os.MkdirTemp("", "pillion-docs-"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(binaries)
		os.Exit(code)
	}))
}

// patience is how long anything may take on a busy machine.
const patience = time.Minute

// pillion returns the path of a binary as `make build` makes it.
func pillion(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("short: this builds and runs the binary")
	}
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

var build = sync.OnceValues(func() (string, error) {
	path := filepath.Join(binaries, "pillion")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", path, "../cmd/pillion")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.Stderr = os.Stderr
	return path, cmd.Run()
})

// process is one that runs until the test ends.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	out  *bufio.Scanner // its lines, output and errors together
	seen []string
	pipe *io.PipeReader
	done chan struct{} // closed when it has ended
	err  error
}

// start starts the binary. Nothing of the environment's PILLION_* variables
// reaches it.
func start(t *testing.T, args ...string) *process {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	p := &process{t: t, cmd: exec.CommandContext(ctx, pillion(t), args...), done: make(chan struct{})}
	p.cmd.Env = environment()
	p.cmd.Dir = t.TempDir()
	r, w := io.Pipe()
	p.cmd.Stdout, p.cmd.Stderr = w, w
	p.pipe, p.out = r, bufio.NewScanner(r)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer cancel()
		defer close(p.done)
		p.err = p.cmd.Wait()
		_ = w.Close()
	}()
	t.Cleanup(func() {
		p.stop(syscall.SIGTERM)
		if t.Failed() {
			t.Logf("pillion %s said:\n%s", strings.Join(args, " "), strings.Join(p.seen, "\n"))
		}
	})
	return p
}

// environment is that of the commands: Pillion's own variables are the tests' to
// set.
func environment(more ...string) []string {
	var env []string
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "PILLION_") {
			env = append(env, variable)
		}
	}
	return append(env, more...) // of two the last one counts
}

// line returns the next line that it writes.
func (p *process) line() string {
	p.t.Helper()
	if !p.out.Scan() {
		p.t.Fatalf("it ended too early: %v", p.out.Err())
	}
	p.seen = append(p.seen, p.out.Text())
	return p.out.Text()
}

// listening reads its log until it listens on these sides, and returns where.
func (p *process) listening(sides ...string) map[string]string {
	p.t.Helper()
	where := map[string]string{}
	for len(where) < len(sides) {
		var entry struct {
			Msg     string `json:"msg"`
			Side    string `json:"side"`
			Address string `json:"address"`
		}
		if err := json.Unmarshal([]byte(p.line()), &entry); err != nil || entry.Msg != "listening" {
			continue
		}
		where[entry.Side] = entry.Address
	}
	return where
}

// stop sends a signal and waits for the end.
func (p *process) stop(signal os.Signal) error {
	_ = p.cmd.Process.Signal(signal)
	return p.wait()
}

// wait waits until the process has ended.
func (p *process) wait() error {
	for p.out.Scan() {
		p.seen = append(p.seen, p.out.Text())
	}
	<-p.done
	return p.err
}

// app starts the demo's greeter and returns where it listens.
func app(t *testing.T) string {
	t.Helper()
	_, where, ok := strings.Cut(start(t, "demo", "app", "--listen", "127.0.0.1:0").line(), "listening ")
	if !ok {
		t.Fatal("the demo's greeter does not say where it listens")
	}
	return where
}

package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// patience bounds every wait for a process: generous, because a machine that
// builds and tests at the same time is slow, and a test that waits this long
// has failed.
const patience = 60 * time.Second

// Command says what to start.
type Command struct {
	// Path is the program; see [Tool] and [Pillion].
	Path string
	Args []string
	// Env is added to the test's own environment.
	Env []string
	// Dir is the folder to start in; the default is the test's own.
	Dir string
}

// Process is a program that a test started. It is killed at the test's end,
// together with the children that it started.
type Process struct {
	name   string
	cmd    *exec.Cmd
	output *output
	done   chan struct{} // closed once the process is gone and its output read
}

// Start starts a program. The test fails with its output where the race
// detector or a panic spoke in it.
func Start(t testing.TB, command Command) *Process {
	t.Helper()

	process, err := start(command)
	if err != nil {
		t.Fatalf("start %s: %v", command.Path, err)
	}

	t.Cleanup(func() {
		process.Kill()
		if crash := process.crash(); crash != "" {
			t.Errorf("%s: %s", process.name, crash)
		}
		if t.Failed() {
			t.Logf("output of %s:\n%s", process.name, tail(process.Output(), 200))
		}
	})

	return process
}

// Run starts a program, waits for its end, and returns its exit code and output.
func Run(t testing.TB, command Command) (int, string) {
	t.Helper()

	process := Start(t, command)

	return process.Wait(t), process.Output()
}

func start(command Command) (*Process, error) {
	collected := newOutput()

	cmd := exec.Command(command.Path, command.Args...)
	cmd.Dir = command.Dir
	cmd.Env = append(os.Environ(), command.Env...)
	cmd.Stdout = collected
	cmd.Stderr = collected
	// A group of its own, so that its children end with it; and it ends with the
	// test, should that be killed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = 5 * time.Second

	if err := cmd.Start(); err != nil {
		return nil, err
	}

	process := &Process{
		name:   fmt.Sprintf("%s (pid %d)", filepath.Base(command.Path), cmd.Process.Pid),
		cmd:    cmd,
		output: collected,
		done:   make(chan struct{}),
	}

	go func() {
		defer close(process.done)
		// The exit code is what tests look at; it stands in cmd.ProcessState.
		_ = cmd.Wait()
		collected.close()
	}()

	return process, nil
}

// PID is the process's id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Output is what the process wrote so far, both streams as they came.
func (p *Process) Output() string { return p.output.String() }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Signal sends one signal to the process, but not to its children.
func (p *Process) Signal(t testing.TB, signal os.Signal) {
	t.Helper()

	if err := p.cmd.Process.Signal(signal); err != nil {
		t.Fatalf("signal %v to %s: %v", signal, p.name, err)
	}
}

// Kill ends the process and its children at once and waits for it.
func (p *Process) Kill() {
	// The group is addressed also where its leader is gone already: children may be left.
	err := syscall.Kill(-p.PID(), syscall.SIGKILL)
	if err != nil && !errors.Is(err, syscall.ESRCH) {
		_ = p.cmd.Process.Kill()
	}

	<-p.done
}

// Wait waits for the process's end and returns its exit code, -1 where a signal
// ended it.
func (p *Process) Wait(t testing.TB) int {
	t.Helper()

	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(5 * patience):
		t.Fatalf("%s has not ended by itself", p.name)

		return 0
	}
}

// Await waits for a line of output and returns its submatches. The test fails
// where the process ends before it wrote one.
func (p *Process) Await(t testing.TB, pattern string) []string {
	t.Helper()

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()

	match, found := p.output.await(ctx, regexp.MustCompile(pattern))
	if !found {
		t.Fatalf("%s wrote no line that matches %q", p.name, pattern)
	}

	return match
}

// crash returns what in the output shows a defect of the program itself.
func (p *Process) crash() string {
	text := p.Output()
	for _, sign := range []string{"WARNING: DATA RACE", "panic: ", "fatal error: "} {
		if at := strings.Index(text, sign); at >= 0 {
			return head(text[at:], 100)
		}
	}

	return ""
}

func head(text string, lines int) string {
	all := strings.SplitAfterN(text, "\n", lines+1)

	return strings.Join(all[:min(lines, len(all))], "")
}

func tail(text string, lines int) string {
	all := strings.SplitAfter(text, "\n")

	return strings.Join(all[max(0, len(all)-lines):], "")
}

package harness

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// patience bounds every wait for a process: generous, because a machine that
// builds and tests at the same time is slow, and a test that waits this long
// has failed.
const patience = 60 * time.Second

// lingering is how long the end of a process's output is waited for.
const lingering = 5 * time.Second

// Command says what to start.
type Command struct {
	// Path is the program; see [Tool] and [Pillion].
	Path string
	Args []string
	// Env is added to the test's own environment.
	Env []string
	// Dir is the folder to start in; the default is the test's own.
	Dir string
	// Files are open files that the process gets, from descriptor 3 on.
	Files []*os.File
}

// Process is a program that a test started. It is killed at the test's end,
// together with the children that it started.
type Process struct {
	name   string
	cmd    *exec.Cmd
	output *output
	exited chan struct{} // closed once the process is gone
	silent chan struct{} // closed once nobody can write to its output any more
	done   chan struct{} // closed once its output is read as well
	killed atomic.Bool   // the test wanted it
}

// Start starts a program. The test fails with its output where the race
// detector or a panic spoke in it, and where somebody else has killed it.
func Start(t testing.TB, command Command) *Process {
	t.Helper()

	process, err := start(command)
	if err != nil {
		t.Fatalf("start %s: %v", command.Path, err)
	}

	t.Cleanup(func() {
		if process.wasKilled() {
			t.Errorf("%s was killed, but not by the test: by the kernel for want of memory, or with the thread that started it", process.name)
		}
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
	// A pipe of our own: exec's would be closed when the process ends, under the
	// hands of one that has taken its place.
	read, write, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer func() { _ = write.Close() }()
	cmd.Stdout = write
	cmd.Stderr = write
	cmd.ExtraFiles = command.Files
	// A group of its own, so that its children end with it; and it ends with the
	// test, should that be killed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}

	if err := cmd.Start(); err != nil {
		_ = read.Close()

		return nil, err
	}

	process := &Process{
		name:   fmt.Sprintf("%s (pid %d)", filepath.Base(command.Path), cmd.Process.Pid),
		cmd:    cmd,
		output: collected,
		exited: make(chan struct{}),
		silent: make(chan struct{}),
		done:   make(chan struct{}),
	}

	go func() {
		defer close(process.silent)
		_, _ = io.Copy(collected, read)
		_ = read.Close()
		collected.close()
	}()
	go func() {
		defer close(process.done)
		// The exit code is what tests look at; it stands in cmd.ProcessState.
		_ = cmd.Wait()
		close(process.exited)
		select {
		case <-process.silent:
		case <-time.After(lingering):
		}
	}()

	return process, nil
}

// PID is the process's id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Output is what the process wrote so far, both streams as they came.
func (p *Process) Output() string { return p.output.String() }

// Exited is closed when the process has ended, whatever it has left behind: its
// output goes on as long as a process that it started writes.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Done is closed when the process has ended and its output was read; where
// processes that it started live on, a few seconds later.
func (p *Process) Done() <-chan struct{} { return p.done }

// Signal sends one signal to the process, but not to its children.
func (p *Process) Signal(t testing.TB, signal os.Signal) {
	t.Helper()

	if signal == syscall.SIGKILL {
		p.killed.Store(true)
	}
	if err := p.cmd.Process.Signal(signal); err != nil {
		t.Fatalf("signal %v to %s: %v", signal, p.name, err)
	}
}

// Kill ends the process and its children at once and waits for it.
func (p *Process) Kill() {
	p.killed.Store(true)
	// The group is addressed also where its leader is gone already: children may be left.
	err := syscall.Kill(-p.PID(), syscall.SIGKILL)
	if err != nil && !errors.Is(err, syscall.ESRCH) {
		_ = p.cmd.Process.Kill()
	}

	<-p.done
	select {
	case <-p.silent:
	case <-time.After(lingering):
	}
}

// wasKilled says that the process has ended by SIGKILL that this test did not send.
func (p *Process) wasKilled() bool {
	select {
	case <-p.exited:
	default:
		return false
	}
	status, is := p.cmd.ProcessState.Sys().(syscall.WaitStatus)

	return is && status.Signaled() && status.Signal() == syscall.SIGKILL && !p.killed.Load()
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

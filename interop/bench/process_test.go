package main

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func start(t *testing.T, script string, core int) *process {
	t.Helper()
	p, err := startProcess(command{name: "test", argv: []string{"/bin/sh", "-c", script}, dir: t.TempDir(), core: core})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.stop)
	return p
}

func TestProcessThatEndsIsReportedWithItsLog(t *testing.T) {
	t.Parallel()
	p := start(t, "echo cannot bind; exit 3", anyCore)
	err := p.waitListening(t.Context(), "127.0.0.1:1")
	if err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "cannot bind") {
		t.Errorf("error %v, want the exit status and the log", err)
	}
}

func TestWaitListening(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if err := start(t, "cat", anyCore).waitListening(t.Context(), ln.Addr().String()); err != nil {
		t.Error(err)
	}
}

func TestStopEndsWhatTheProcessStarted(t *testing.T) {
	t.Parallel()
	// The pipe ends when the last process that writes to it does.
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	p := start(t, "exec >'"+pipe+"'; sleep 1000 & echo $!; wait", anyCore)
	f, err := os.Open(pipe)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewReader(f)
	line, err := lines.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	child, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	all, err := family(p.pid())
	if err != nil || len(all) != 2 || all[1] != child {
		t.Errorf("the family of %d is %v (%v), want its child %d too", p.pid(), all, err, child)
	}
	p.stop()
	if _, err := lines.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("reading from what it started: %v, want the end", err)
	}
}

func TestChildRunsOnItsCore(t *testing.T) {
	t.Parallel()
	where, err := pinned()
	if err != nil {
		t.Skip(err)
	}
	allowed := func(core int) string {
		cmd := exec.Command("/bin/sh", "-c", "exec cat /proc/self/status")
		var b strings.Builder
		cmd.Stdout = &b
		if err := onCore(core, cmd.Start); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(b.String(), "Cpus_allowed_list:")
		list, _, _ := strings.Cut(rest, "\n")
		return strings.TrimSpace(list)
	}
	before := allowed(anyCore)
	if got := allowed(where.load); got != strconv.Itoa(where.load) {
		t.Errorf("the child may run on %s, want %d", got, where.load)
	}
	if got := allowed(anyCore); got != before {
		t.Errorf("the next child may run on %s, want %s as before", got, before)
	}
}

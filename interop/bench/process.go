package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// startTimeout bounds the wait for a process to listen.
	startTimeout = 20 * time.Second
	// stopTimeout bounds the wait for a process that was asked to end.
	stopTimeout = 5 * time.Second
	// logTail is how many of a process's last lines an error shows.
	logTail = 12
)

// process is a child that runs until it is stopped. It has a process group of
// its own, so that the terminal's signals reach this program only, which then
// ends its children itself.
type process struct {
	name    string
	cmd     *exec.Cmd
	logPath string
	ended   chan struct{}
	stopped sync.Once
}

// command is what to run as a child.
type command struct {
	name string
	argv []string
	// env is added to this program's environment.
	env []string
	// dir is the working directory, where the log is written too.
	dir  string
	core int
}

// startProcess starts c with its output in a log file.
func startProcess(c command) (*process, error) {
	p := &process{
		name:    c.name,
		logPath: filepath.Join(c.dir, c.name+".log"),
		ended:   make(chan struct{}),
	}
	log, err := os.Create(p.logPath)
	if err != nil {
		return nil, fmt.Errorf("%s: log: %w", c.name, err)
	}
	defer func() { _ = log.Close() }()
	p.cmd = exec.Command(c.argv[0], c.argv[1:]...)
	p.cmd.Env = append(os.Environ(), c.env...)
	p.cmd.Dir = c.dir
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := onCore(c.core, p.cmd.Start); err != nil {
		return nil, fmt.Errorf("%s: starting %s: %w", c.name, c.argv[0], err)
	}
	go func() {
		defer close(p.ended)
		_ = p.cmd.Wait() // how it ended only matters where nobody asked for it
	}()
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// stop ends the process: politely, then by force.
func (p *process) stop() {
	p.stopped.Do(func() {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-p.ended:
		case <-time.After(stopTimeout):
		}
		// What it started and left behind shares its group.
		_ = syscall.Kill(-p.pid(), syscall.SIGKILL)
		<-p.ended
	})
}

// failed is an error about the process, with the end of its log.
func (p *process) failed(format string, args ...any) error {
	return fmt.Errorf("%s: %w%s", p.name, fmt.Errorf(format, args...), p.tail())
}

func (p *process) tail() string {
	b, err := os.ReadFile(p.logPath)
	if err != nil || len(b) == 0 {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	lines = lines[max(0, len(lines)-logTail):]
	return "\n    " + strings.Join(lines, "\n    ")
}

// waitListening returns once addr accepts connections.
func (p *process) waitListening(ctx context.Context, addr string) error {
	return p.poll(ctx, "listen on "+addr, func(ctx context.Context) bool {
		c, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
		if err != nil {
			return false
		}
		_ = c.Close()
		return true
	})
}

// poll asks ready until it is true, the process ends or the time is up.
// Processes that we did not write have no other way to tell.
func (p *process) poll(ctx context.Context, what string, ready func(context.Context) bool) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if ready(ctx) {
			return nil
		}
		select {
		case <-tick.C:
		case <-p.ended:
			return p.failed("ended before it could %s (%v)", what, p.cmd.ProcessState)
		case <-ctx.Done():
			return p.failed("did not %s within %v", what, startTimeout)
		}
	}
}

// firstLine returns the first line of the process's log once it is whole.
func (p *process) firstLine(ctx context.Context) (string, error) {
	var line string
	err := p.poll(ctx, "print a line", func(context.Context) bool {
		f, err := os.Open(p.logPath)
		if err != nil {
			return false
		}
		defer func() { _ = f.Close() }()
		line, err = bufio.NewReader(f).ReadString('\n')
		return err == nil
	})
	return strings.TrimSpace(line), err
}

// freeAddresses returns n loopback addresses that nobody listens on.
func freeAddresses(n int) ([]string, error) {
	addresses := make([]string, n)
	for i := range n {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("looking for a free port: %w", err)
		}
		// All are held to the end, so that they differ.
		defer func() { _ = ln.Close() }()
		addresses[i] = ln.Addr().String()
	}
	return addresses, nil
}

var errNotFound = errors.New("not found")

package demo

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is one program of the demo's.
type process struct {
	name string
	cmd  *exec.Cmd
	// said are the addresses that it said it listens on: by side for a sidecar,
	// under "app" for the app.
	said   chan said
	exited chan struct{}

	mu   sync.Mutex
	last string // its last line, for when it dies early
}

type said struct{ side, address string }

// start starts the pillion binary with args.
func start(executable, name string, args ...string) (*process, error) {
	p := &process{name: name, said: make(chan said, 8), exited: make(chan struct{})}
	p.cmd = exec.Command(executable, args...)
	p.cmd.SysProcAttr = childAttributes()
	out, in := io.Pipe()
	p.cmd.Stdout, p.cmd.Stderr = in, in
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	go p.read(out)
	go func() {
		_ = p.cmd.Wait() // how it ended does not matter
		_ = in.Close()
		close(p.exited)
	}()
	return p, nil
}

// read looks for addresses in what the process says.
func (p *process) read(out io.Reader) {
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		line := lines.Text()
		p.mu.Lock()
		p.last = line
		p.mu.Unlock()
		if s, ok := parseSaid(line); ok {
			select {
			case p.said <- s:
			default: // nobody waits for so many
			}
		}
	}
	_, _ = io.Copy(io.Discard, out)
}

// parseSaid reads the app's "listening ADDRESS" and a sidecar's log line.
func parseSaid(line string) (said, bool) {
	if addr, ok := strings.CutPrefix(line, "listening "); ok {
		return said{"app", addr}, true
	}
	var entry struct{ Msg, Side, Address string }
	if !bytes.HasPrefix([]byte(line), []byte("{")) || json.Unmarshal([]byte(line), &entry) != nil {
		return said{}, false
	}
	return said{entry.Side, entry.Address}, entry.Msg == "listening"
}

// startTimeout bounds how long a process of the demo's may take to listen.
const startTimeout = 20 * time.Second

// listening waits until the process listens on all of the sides.
func (p *process) listening(ctx context.Context, sides ...string) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	at := map[string]string{}
	for len(at) < len(sides) {
		select {
		case s := <-p.said:
			at[s.side] = s.address
		case <-p.exited:
			p.mu.Lock()
			defer p.mu.Unlock()
			return nil, fmt.Errorf("%s ended at once: %s", p.name, p.last)
		case <-ctx.Done():
			return nil, fmt.Errorf("%s does not listen: %w", p.name, ctx.Err())
		}
	}
	return at, nil
}

// endTimeout is how long a process may take to end by itself.
const endTimeout = 5 * time.Second

// end asks the process to end, and waits until it has.
func (p *process) end() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended already
	select {
	case <-p.exited:
		return nil
	case <-time.After(endTimeout):
		_ = p.cmd.Process.Kill()
		<-p.exited
		return fmt.Errorf("%s did not end within %v and was killed", p.name, endTimeout)
	}
}

package demo

import (
	"bufio"
	"context"
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
	in   io.WriteCloser // its standard input
	// said are the addresses that it said it listens on: by side for a sidecar,
	// under "app" for the app.
	said   chan said
	told   chan struct{} // a sidecar has taken over its mesh file, or an app its behaviour
	exited chan struct{}

	mu      sync.Mutex
	last    string   // its last line, for when it dies early
	stories []string // what its policies did that nobody has asked for yet
	trips   []entry  // how it took its own RPCs off canaries
}

type said struct{ side, address string }

// start starts the pillion binary with args.
func start(executable, name string, args ...string) (*process, error) {
	p := &process{name: name, said: make(chan said, 8), told: make(chan struct{}, 8), exited: make(chan struct{})}
	p.cmd = exec.Command(executable, args...)
	p.cmd.SysProcAttr = childAttributes()
	out, in := io.Pipe()
	p.cmd.Stdout, p.cmd.Stderr = in, in
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
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

// read listens to what the process says.
func (p *process) read(out io.Reader) {
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		p.hear(lines.Text())
	}
	_, _ = io.Copy(io.Discard, out)
}

// maxStories bounds what is remembered until somebody asks.
const maxStories = 100

// hear takes note of one line: the app's "listening ADDRESS" or a sidecar's log.
func (p *process) hear(line string) {
	e, isEntry := parseEntry([]byte(line))
	address, isApp := strings.CutPrefix(line, "listening ")
	story := e.story()
	p.mu.Lock()
	p.last = line
	if story != "" && len(p.stories) < maxStories {
		p.stories = append(p.stories, story)
	}
	if e.Msg == tripped && len(p.trips) < maxStories {
		p.trips = append(p.trips, e)
	}
	p.mu.Unlock()
	switch {
	case isApp:
		p.listens(said{"app", address})
	case isEntry && e.Msg == "listening":
		p.listens(said{e.Side, e.Address})
	case isEntry && e.Msg == inForce, strings.HasPrefix(line, behaves):
		select {
		case p.told <- struct{}{}:
		default: // nobody waits for so many
		}
	}
}

func (p *process) listens(at said) {
	select {
	case p.said <- at:
	default: // nobody waits for so many
	}
}

// tripsOf are the times when it took its own RPCs off a canary in a run.
func (p *process) tripsOf(canary string, run uint64) (all []entry) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range p.trips {
		if e.Canary == canary && e.Run == run {
			e.Side = p.name
			all = append(all, e)
		}
	}
	return all
}

// kill ends the process at once, without a chance to say good-bye.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended already
	<-p.exited
}

// news returns what the process' policies did since it was last asked.
func (p *process) news() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	news := p.stories
	p.stories = nil
	return news
}

// forget has later waits of taken be about what comes from now on.
func (p *process) forget() {
	for {
		select {
		case <-p.told:
		default:
			return
		}
	}
}

// takeTimeout bounds how long a process may take to do as it is told.
const takeTimeout = 10 * time.Second

// taken waits until the process says that it does what it was told.
func (p *process) taken(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, takeTimeout)
	defer cancel()
	select {
	case <-p.told:
		return nil
	case <-p.exited:
		return fmt.Errorf("%s has ended: %s", p.name, p.lastLine())
	case <-ctx.Done():
		return fmt.Errorf("%s does not say that it does as it was told: %w: %s", p.name, ctx.Err(), p.lastLine())
	}
}

func (p *process) lastLine() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last
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
			return nil, fmt.Errorf("%s ended at once: %s", p.name, p.lastLine())
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

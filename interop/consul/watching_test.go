package consul

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/registry"
	"github.com/pillion-proxy/pillion/registry/consul"
)

// soon is how long news from Consul may take, on a machine that is busy with other
// things.
const soon = 5 * time.Second

// log collects what a source logs.
type log struct {
	mu    sync.Mutex
	lines []string
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()

	l.lines = append(l.lines, strings.TrimSpace(string(p)))

	return len(p), nil
}

// with are the lines that contain text.
func (l *log) with(text string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()

	return slices.DeleteFunc(slices.Clone(l.lines), func(line string) bool { return !strings.Contains(line, text) })
}

func newSource(t *testing.T, agent *Agent, cfg consul.Config) (*consul.Source, *log) {
	t.Helper()

	book := &log{}
	cfg.Address = agent.Address
	source, err := consul.New(cfg, consul.Deps{Log: slog.New(slog.NewTextHandler(book, nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the source logged:\n%s", strings.Join(book.with(""), "\n"))
		}
	})
	t.Cleanup(source.CloseIdleConnections)

	return source, book
}

// watching is a watch and the states that it was handed.
type watching struct {
	states chan *registry.Service
	last   *registry.Service
	known  bool
	stop   func()
}

func watch(t *testing.T, source *consul.Source, service string) *watching {
	t.Helper()

	w := &watching{states: make(chan *registry.Service, 1000)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		source.Watch(ctx, service, func(s *registry.Service) { w.states <- s })
	}()
	w.stop = func() { cancel(); <-done }
	t.Cleanup(w.stop)

	return w
}

// await waits for a state that holds, and returns how long it took.
func (w *watching) await(t *testing.T, what string, holds func(*registry.Service) bool) time.Duration {
	t.Helper()

	start := time.Now()
	timeout := time.After(patience)
	for !w.known || !holds(w.last) {
		select {
		case w.last = <-w.states:
			w.known = true
		case <-timeout:
			t.Fatalf("never: %s; the last state is %+v", what, w.last)
		}
	}

	return time.Since(start)
}

// drain takes the states that were handed over so far, and tells of each.
func (w *watching) drain(look func(*registry.Service)) {
	for {
		select {
		case w.last = <-w.states:
			w.known = true
			look(w.last)
		default:
			return
		}
	}
}

// has says whether a state is fresh and has just these ports, with 127.0.0.1.
func has(ports ...int) func(*registry.Service) bool {
	return func(s *registry.Service) bool { return s != nil && !s.Stale && slices.Equal(portsOf(s), ports) }
}

func portsOf(s *registry.Service) []int {
	var ports []int
	for _, endpoint := range s.Endpoints {
		var port int
		if _, err := fmt.Sscanf(endpoint.Address, "127.0.0.1:%d", &port); err == nil {
			ports = append(ports, port)
		}
	}
	slices.Sort(ports)

	return ports
}

func isStale(ports ...int) func(*registry.Service) bool {
	return func(s *registry.Service) bool { return s != nil && s.Stale && slices.Equal(portsOf(s), ports) }
}

func isNil(s *registry.Service) bool { return s == nil }

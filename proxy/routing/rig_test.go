package routing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/pillion-proxy/pillion/proxy/balance"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
	"github.com/pillion-proxy/pillion/proxy/upstream"
	"github.com/pillion-proxy/pillion/registry"
)

// source is a registry that says what the test tells it to, when it tells it to.
type source struct {
	mu        sync.Mutex
	updates   map[string]func(*registry.Service)
	watched   map[string]int // how often
	answering map[string][]string
	asked     map[string]int
	all       []string
	err       error
	hold      chan struct{} // Answering waits for it, unless nil
}

func newSource() *source {
	return &source{
		updates: map[string]func(*registry.Service){}, watched: map[string]int{},
		answering: map[string][]string{}, asked: map[string]int{},
	}
}

func (s *source) Watch(ctx context.Context, service string, update func(*registry.Service)) {
	s.mu.Lock()
	s.updates[service] = update
	s.watched[service]++
	s.mu.Unlock()
	<-ctx.Done()
	s.mu.Lock()
	delete(s.updates, service)
	s.mu.Unlock()
}

func (s *source) Answering(ctx context.Context, name string) ([]string, error) {
	s.mu.Lock()
	s.asked[name]++
	hold := s.hold
	s.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.answering[name], s.err
}

func (s *source) Services(context.Context) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all, s.err
}

// set changes what the source says.
func (s *source) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// tell hands a state of a service over: with one endpoint, or that there is none.
func (s *source) tell(t testing.TB, service string, exists bool) {
	t.Helper()
	synctest.Wait()
	s.mu.Lock()
	update := s.updates[service]
	s.mu.Unlock()
	if update == nil {
		t.Fatalf("nobody watches %q", service)
	}
	if !exists {
		update(nil)
		return
	}
	update(&registry.Service{Name: service, Endpoints: []registry.Endpoint{{ID: "1", Address: service + ":1", Weight: 1}}})
}

// watching says whether a service is watched now, and how often it was.
func (s *source) watching(service string) (now bool, times int) {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.updates[service] != nil, s.watched[service]
}

func (s *source) askedFor(name string) int {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[name]
}

// rig is a router over a source that the test plays, on virtual time.
type rig struct {
	*Router
	t      *testing.T
	source *source
}

func simulated(t *testing.T, test func(t *testing.T)) {
	t.Parallel()
	synctest.Test(t, test)
}

func newRig(t *testing.T, o Options) *rig {
	r := &rig{t: t, source: newSource()}
	up := upstream.Options{Dial: func(context.Context, string, string) (net.Conn, error) {
		return nil, errors.New("not here")
	}}.WithDefaults()
	counters := new(telemetry.Counters)
	o.NewCluster = func(service string) *upstream.Cluster {
		return upstream.NewCluster(service, balance.RoundRobin, &up, counters.Service(telemetry.Outbound, service))
	}
	if o.Source == nil {
		o.Source = r.source
	}
	o.Logger = slog.New(slog.DiscardHandler)
	r.Router = New(o)
	t.Cleanup(r.Close)
	return r
}

// rpc is an RPC that looks for its destination as the relay does.
type rpc struct {
	r               *rig
	authority, path string

	mu      sync.Mutex
	result  string
	looked  int
	cluster *upstream.Cluster
}

const sayHello = "/helloworld.Greeter/SayHello"

// route begins to look for a destination.
func (r *rig) route(authority, path string) *rpc {
	c := &rpc{r: r, authority: authority, path: path}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.look()
	return c
}

func (c *rpc) look() {
	c.looked++
	found := c.r.Find(c.r.Policies(), c.authority, c.path)
	switch {
	case found.Cluster != nil:
		c.cluster = found.Cluster
		c.result = fmt.Sprintf("%s by %s", found.Cluster.Name(), found.Route)
	case found.Wait:
		c.result = "waits"
		if !c.r.Await("", c.authority, c.path, c, 7) {
			c.result = "too many"
		}
	default:
		code, flag, message := c.r.Explain("", c.authority, c.path)
		c.result = fmt.Sprintf("%v %v: %s", code, flag, message)
	}
}

func (c *rpc) OnRoute(life uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if life != 7 {
		c.r.t.Errorf("life %d", life)
	}
	c.look()
}

// want checks how the search stands, once nothing moves; a "*" stands for
// anything.
func (c *rpc) want(result string) {
	c.r.t.Helper()
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	start, end, open := strings.Cut(result, "*")
	same := c.result == result || open && strings.HasPrefix(c.result, start) && strings.HasSuffix(c.result, end)
	if !same {
		c.r.t.Fatalf("the RPC to %q%s: %q, want %q", c.authority, c.path, c.result, result)
	}
	if c.looked > 10 {
		c.r.t.Errorf("it looked %d times", c.looked)
	}
}

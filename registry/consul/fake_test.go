package consul

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"go.uber.org/goleak"

	"github.com/pillion-proxy/pillion/registry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeAgent answers as an agent does, in memory, so that tests may run it in
// virtual time.
type fakeAgent struct {
	mu       sync.Mutex
	changed  chan struct{} // closed and renewed at each change
	index    uint64
	apps     map[string][]*api.ServiceEntry // by service, as health/service answers
	sidecars map[string][]*api.ServiceEntry // by destination, as health/connect answers
	chains   map[string]any                 // by service, as discovery-chain answers
	defaults map[string]any                 // by service, as config/service-defaults answers
	headers  map[string]string              // put on every answer
	connect  fakeConnect
	// fault may answer instead, or let pass with errPass.
	fault func(*http.Request) (*http.Response, error)
	// requests are those that arrived, and waiting how many are being answered.
	requests []fakeRequest
	waiting  int
	most     int

	registered map[string]*api.AgentServiceRegistration
	extra      map[string]*api.AgentCheck // checks of others
}

// errPass says that a request meets no fault.
var errPass = errors.New("no fault")

type fakeRequest struct {
	method, path, token string
	query               map[string][]string
	at                  time.Time
}

func newFakeAgent() *fakeAgent {
	return &fakeAgent{
		changed: make(chan struct{}), index: 10,
		apps: map[string][]*api.ServiceEntry{}, sidecars: map[string][]*api.ServiceEntry{}, chains: map[string]any{}, defaults: map[string]any{}, headers: map[string]string{},
		registered: map[string]*api.AgentServiceRegistration{}, extra: map[string]*api.AgentCheck{},
	}
}

// change changes what the agent knows and wakes the blocking queries.
func (f *fakeAgent) change(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()

	f.index++
	change()
	close(f.changed)
	f.changed = make(chan struct{})
}

// failWith makes every request fail as fault says; nil ends that.
func (f *fakeAgent) failWith(fault func(*http.Request) (*http.Response, error)) {
	f.change(func() { f.index--; f.fault = fault })
}

func (f *fakeAgent) setApps(service string, entries ...*api.ServiceEntry) {
	f.change(func() { f.apps[service] = entries })
}

func (f *fakeAgent) setSidecars(service string, entries ...*api.ServiceEntry) {
	f.change(func() { f.sidecars[service] = entries })
}

// asked returns the requests whose path begins so.
func (f *fakeAgent) asked(prefix string) []fakeRequest {
	f.mu.Lock()
	defer f.mu.Unlock()

	var found []fakeRequest
	for _, request := range f.requests {
		if strings.HasPrefix(request.path, prefix) {
			found = append(found, request)
		}
	}

	return found
}

func (f *fakeAgent) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := req.Context().Err(); err != nil {
		return nil, err
	}
	f.mu.Lock()
	f.requests = append(f.requests, fakeRequest{
		method: req.Method, path: req.URL.Path, token: req.Header.Get("X-Consul-Token"), query: req.URL.Query(), at: time.Now(),
	})
	f.waiting++
	f.most = max(f.most, f.waiting)
	fault := f.fault
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		f.waiting--
		f.mu.Unlock()
	}()

	if fault != nil {
		if resp, err := fault(req); !errors.Is(err, errPass) {
			return resp, err
		}
	}
	path := strings.TrimPrefix(req.URL.Path, "/v1/")
	switch {
	case strings.HasPrefix(path, "health/"):
		return f.block(req, func() any {
			if service, ok := strings.CutPrefix(path, "health/service/"); ok {
				return f.apps[service]
			}

			return f.sidecars[strings.TrimPrefix(path, "health/connect/")]
		})
	case strings.HasPrefix(path, "discovery-chain/"):
		return f.block(req, func() any { return f.chains[strings.TrimPrefix(path, "discovery-chain/")] })
	case strings.HasPrefix(path, "config/service-defaults/"):
		name := strings.TrimPrefix(path, "config/service-defaults/")
		resp, err := f.block(req, func() any { return f.defaults[name] })
		if err == nil && resp.StatusCode == http.StatusOK {
			f.mu.Lock()
			defer f.mu.Unlock()
			if f.defaults[name] == nil { // with an index, which can be waited for
				headers := map[string]string{}
				for key := range resp.Header {
					headers[key] = resp.Header.Get(key)
				}

				return respond(http.StatusNotFound, headers, "Config entry not found"), nil
			}
		}

		return resp, err
	case path == "catalog/datacenters":
		return respond(http.StatusOK, nil, []string{"dc1", "dc2"}), nil
	case path == "catalog/services":
		f.mu.Lock()
		defer f.mu.Unlock()
		names := map[string][]string{"consul": {}}
		for name := range f.apps {
			names[name] = []string{}
		}

		return respond(http.StatusOK, f.headers, names), nil
	case strings.HasPrefix(path, "agent/connect/"), strings.HasPrefix(path, "connect/"):
		return f.connected(req, path)
	case strings.HasPrefix(path, "agent/"):
		return f.local(req, strings.TrimPrefix(path, "agent/"))
	}

	return respond(http.StatusNotFound, nil, "no such path"), nil
}

// block answers a blocking query.
func (f *fakeAgent) block(req *http.Request, get func() any) (*http.Response, error) {
	wanted, _ := strconv.ParseUint(req.URL.Query().Get("index"), 10, 64)
	timeout := waitOf(req)
	expired := false
	for {
		f.mu.Lock()
		index, changed, fault := f.index, f.changed, f.fault
		headers := maps.Clone(f.headers)
		content := get()
		f.mu.Unlock()

		if fault != nil {
			if resp, err := fault(req); !errors.Is(err, errPass) {
				return resp, err
			}
		}
		if wanted == 0 || index != wanted || expired {
			if headers["X-Consul-Index"] == "" {
				headers["X-Consul-Index"] = strconv.FormatUint(index, 10)
			}

			return respond(http.StatusOK, headers, content), nil
		}
		select {
		case <-changed:
		case <-timeout:
			expired = true
		case <-req.Context().Done():
			return nil, req.Context().Err()
		}
	}
}

// local answers for the agent's own services.
func (f *fakeAgent) local(req *http.Request, path string) (*http.Response, error) {
	filter := req.URL.Query().Get("filter")
	switch {
	case path == "service/register":
		var registration api.AgentServiceRegistration
		if err := json.NewDecoder(req.Body).Decode(&registration); err != nil {
			return respond(http.StatusBadRequest, nil, err.Error()), nil
		}
		f.change(func() { f.registered[registration.ID] = &registration })

		return respond(http.StatusOK, nil, nil), nil
	case strings.HasPrefix(path, "service/deregister/"):
		id := strings.TrimPrefix(path, "service/deregister/")
		f.mu.Lock()
		_, known := f.registered[id]
		f.mu.Unlock()
		if !known {
			return respond(http.StatusNotFound, nil, "Unknown service ID "+strconv.Quote(id)), nil
		}
		f.change(func() { delete(f.registered, id) })

		return respond(http.StatusOK, nil, nil), nil
	case path == "services":
		f.mu.Lock()
		defer f.mu.Unlock()
		services := map[string]*api.AgentService{}
		for id, registration := range f.registered {
			if strings.Contains(filter, strconv.Quote(id)) {
				services[id] = viewOf(registration)
			}
		}

		return respond(http.StatusOK, nil, services), nil
	case path == "checks":
		f.mu.Lock()
		defer f.mu.Unlock()
		checks := maps.Clone(f.extra)
		for _, registration := range f.registered {
			for _, check := range registration.Checks {
				checks[check.CheckID] = &api.AgentCheck{CheckID: check.CheckID, ServiceID: registration.ID}
			}
		}

		return respond(http.StatusOK, nil, checks), nil
	default:
		return f.localService(req, strings.TrimPrefix(path, "service/"))
	}
}

// waitOf fires when a query may not block any longer. It never fires at once:
// a query that does not block does not look at it, and in virtual time timers
// that fire as they are made break the race detector (seen with Go 1.26).
func waitOf(req *http.Request) <-chan time.Time {
	wait, err := time.ParseDuration(req.URL.Query().Get("wait"))
	if err != nil || wait <= 0 {
		return nil
	}

	return time.After(wait)
}

// localService answers the query that blocks on a hash.
func (f *fakeAgent) localService(req *http.Request, id string) (*http.Response, error) {
	expired := waitOf(req)
	done := false
	for {
		f.mu.Lock()
		registration, changed, fault := f.registered[id], f.changed, f.fault
		f.mu.Unlock()
		if fault != nil {
			if resp, err := fault(req); !errors.Is(err, errPass) {
				return resp, err
			}
		}
		if registration == nil {
			return respond(http.StatusNotFound, nil, "unknown service ID: "+id), nil
		}
		view := viewOf(registration)
		text := encode(view)
		view.ContentHash = strconv.Itoa(len(text)) + strconv.Quote(string(text[:8]))
		if hash := req.URL.Query().Get("hash"); hash != view.ContentHash || done {
			return respond(http.StatusOK, map[string]string{"X-Consul-ContentHash": view.ContentHash}, view), nil
		}
		select {
		case <-changed:
		case <-expired:
			done = true
		case <-req.Context().Done():
			return nil, req.Context().Err()
		}
	}
}

func encode(content any) []byte {
	text, err := json.Marshal(content)
	if err != nil {
		panic(err)
	}

	return text
}

func viewOf(r *api.AgentServiceRegistration) *api.AgentService {
	return &api.AgentService{
		Kind: r.Kind, ID: r.ID, Service: r.Name, Tags: slices.Clone(r.Tags), Meta: maps.Clone(r.Meta), Port: r.Port,
		Address: r.Address, SocketPath: r.SocketPath, Weights: *r.Weights, Proxy: r.Proxy,
	}
}

func respond(status int, headers map[string]string, content any) *http.Response {
	text, isText := content.(string)
	body := []byte(text)
	if !isText {
		body = encode(content)
	}
	resp := &http.Response{
		StatusCode: status, Header: http.Header{}, Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)),
	}
	resp.Header.Set("X-Consul-Knownleader", "true")
	resp.Header.Set("X-Consul-Lastcontact", "0")
	for key, value := range headers {
		resp.Header.Set(key, value)
	}

	return resp
}

// appEntry is an instance of service on a node of its own, which passes.
func appEntry(id string, port int) *api.ServiceEntry {
	return &api.ServiceEntry{
		Node:    &api.Node{Node: "node-" + id, Address: "10.0.0.1", Datacenter: "dc1"},
		Service: &api.AgentService{ID: id, Service: "greeter", Port: port, Weights: api.AgentWeights{Passing: 1, Warning: 1}},
		Checks:  api.HealthChecks{checkOf(id, api.HealthPassing, "gRPC check: success")},
	}
}

func checkOf(service, status, output string) *api.HealthCheck {
	return &api.HealthCheck{CheckID: service + ":grpc", ServiceID: service, Status: status, Output: output, Type: "grpc"}
}

// sidecarEntry is a Pillion beside the app entry with this id.
func sidecarEntry(app string, port int) *api.ServiceEntry {
	entry := appEntry(app, port)
	entry.Service.Kind = api.ServiceKindConnectProxy
	entry.Service.ID = app + sidecarSuffix
	entry.Service.Meta = map[string]string{metaPillion: speaksPlain}
	entry.Service.Proxy = &api.AgentServiceConnectProxyConfig{DestinationServiceName: "greeter", DestinationServiceID: app}
	entry.Checks = nil

	return entry
}

// with changes an entry.
func with(entry *api.ServiceEntry, change func(*api.ServiceEntry)) *api.ServiceEntry {
	change(entry)

	return entry
}

// logBook collects the lines that a source logs.
type logBook struct {
	mu    sync.Mutex
	lines []string
}

func (l *logBook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()

	l.lines = append(l.lines, strings.TrimSpace(string(p)))

	return len(p), nil
}

// with returns the lines that contain text.
func (l *logBook) with(text string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()

	var found []string
	for _, line := range l.lines {
		if strings.Contains(line, text) {
			found = append(found, line)
		}
	}

	return found
}

func (l *logBook) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// newFakeSource is a source in front of a fake agent.
func newFakeSource(t *testing.T, fake *fakeAgent, cfg Config) (*Source, *logBook) {
	t.Helper()

	if cfg.Address == "" {
		cfg.Address = "127.0.0.1:8500"
	}
	book := &logBook{}
	source, err := New(cfg, Deps{Log: book.logger(), Transport: fake, Random: func() float64 { return 0.5 }})
	if err != nil {
		t.Fatal(err)
	}

	return source, book
}

// watchBook collects what a watch hands over.
type watchBook struct {
	mu     sync.Mutex
	states []*registry.Service
	stop   func()
}

func (w *watchBook) update(service *registry.Service) {
	w.mu.Lock()
	defer w.mu.Unlock()

	w.states = append(w.states, service)
}

// count is how often something was handed over.
func (w *watchBook) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()

	return len(w.states)
}

// last is what was handed over last; it fails the test where that is nothing.
func (w *watchBook) last(t *testing.T) *registry.Service {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()

	if len(w.states) == 0 {
		t.Fatal("nothing was handed over")
	}

	return w.states[len(w.states)-1]
}

// addresses are those of the endpoints handed over last.
func (w *watchBook) addresses(t *testing.T) []string {
	t.Helper()

	addresses := []string{}
	if service := w.last(t); service != nil {
		for _, endpoint := range service.Endpoints {
			addresses = append(addresses, endpoint.Address)
		}
	}

	return addresses
}
